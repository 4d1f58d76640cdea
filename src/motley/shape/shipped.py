"""Mixes as others ship them, beside llama.cpp's own: unsloth's dynamic ones, and those of vLLM, MLX and gpt-oss."""

from motley.errors import UnsupportedError
from motley.shape.place import Facts, Place
from motley.shape.quant import Counted, Precision, Quant
from motley.shape.role import Role

_LINEAR = (Role.ATTENTION, Role.EXPERT, Role.DENSE_FFN, Role.SHARED_EXPERT)

# All linear layers of the blocks; embedding, head, router and vectors in 16 bits.
_ALL_LINEAR: dict[str, Precision] = {
    "fp8": Counted.FP8,
    "int8": Counted.INT8,
    "int4": Counted.INT4_G128,
    "nvfp4": Counted.NVFP4,
}
# The routed experts only; everything else in 16 bits.
_EXPERTS: dict[str, Precision] = {
    "nvfp4_experts": Counted.NVFP4,
    "mxfp4_bf16": Quant.MXFP4,  # gpt-oss as released
    "int4_experts": Counted.INT4_G32,  # Kimi K2 Thinking and its kind
}
_MLX: dict[str, Precision] = {
    "mlx3": Counted.MLX3,
    "mlx4": Counted.MLX4,
    "mlx5": Counted.MLX5,
    "mlx6": Counted.MLX6,
    "mlx8": Counted.MLX8,
}
MIXES = (*_ALL_LINEAR, *_EXPERTS, *_MLX)


def precision(name: str, place: Place, facts: Facts) -> Precision:
    vector = len(place.dims) == 1 or place.name.endswith(".bias")
    if vector or place.role is Role.NORM:
        return Quant.BF16
    if name in _MLX:
        return _fitting(Counted.MLX8 if place.role is Role.ROUTER else _MLX[name], place)
    if name in _EXPERTS:
        return _fitting(_EXPERTS[name], place) if place.role is Role.EXPERT else Quant.BF16
    if name not in _ALL_LINEAR:
        raise UnsupportedError(f"unknown quantisation {name!r}")
    return _fitting(_ALL_LINEAR[name], place) if place.role in _LINEAR else Quant.BF16


def _fitting(found: Precision, place: Place) -> Precision:
    """16 bits where rows do not fill blocks (small convolutions)."""
    return found if place.dims[-1] % found.block == 0 else Quant.BF16
