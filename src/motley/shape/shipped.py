"""Mixes as others than llama.cpp ship them: one precision for some roles, 16 bits or another one for the rest.

`fp8`, `int8`, `int4` (AWQ, GPTQ, AutoRound, W4A16), `nvfp4`: all linear layers of the blocks; embedding, head and
router stay in 16 bits. Source: the `quantization_config` of released checkpoints (Qwen3-FP8, MiniMax-M2.5,
nvidia/Qwen3-235B-A22B-NVFP4, as kept in github.com/ai-dynamo/aiconfigurator at 095f58a). A model whose checkpoint
differs says so in its catalogue file, under `[shipped]`.
`mlx3` to `mlx8`: everything in groups of 64 with the router at 8 bits (mlx-lm's `convert`).
A pair, such as `mxfp4+bf16` (gpt-oss as released) or `iq4_xs+q5_k`: the first for the routed experts (of a dense model:
its feed-forward blocks), the second for every other matrix.
`ds4-q2`, `ds4-q4`: DwarfStar's files of DeepSeek V4 (model card of huggingface.co/antirez/deepseek-v4-gguf).
"""

from motley.shape.place import Facts, Place
from motley.shape.quant import Counted, Precision, Quant
from motley.shape.role import Role

_LINEAR = (Role.ATTENTION, Role.EXPERT, Role.DENSE_FFN, Role.SHARED_EXPERT)
_ALL_LINEAR: dict[str, Precision] = {
    "fp8": Counted.FP8,
    "int8": Counted.INT8,
    "int4": Counted.INT4_G128,
    "nvfp4": Quant.NVFP4,
}
_MLX: dict[str, Precision] = {
    "mlx3": Counted.MLX3,
    "mlx4": Counted.MLX4,
    "mlx5": Counted.MLX5,
    "mlx6": Counted.MLX6,
    "mlx8": Counted.MLX8,
}
_DS4: dict[str, tuple[Precision, Precision]] = {  # experts' gate and up, down; the rest is the same in both
    "ds4-q2": (Quant.IQ2_XXS, Quant.Q2_K),
    "ds4-q4": (Quant.Q4_K, Quant.Q4_K),
}
_DS4_F16 = ("attn_compressor", "indexer", "hc_")
MIXES = (*_ALL_LINEAR, *_MLX, *_DS4)


def precision(name: str, place: Place) -> Precision:
    if name in _DS4:
        return _ds4(name, place)
    if name in _MLX:
        return _fitting(Counted.MLX8 if place.role is Role.ROUTER else _MLX[name], place)
    return _fitting(_ALL_LINEAR[name], place) if place.role in _LINEAR else Quant.BF16


def _ds4(name: str, place: Place) -> Precision:
    if place.role is Role.EXPERT:
        return _DS4[name]["ffn_down" in place.part]
    half = place.role in (Role.EMBED, Role.ROUTER) or place.part.startswith(_DS4_F16)
    return Quant.F16 if half else _fitting(Quant.Q8_0, place)


def pair(name: str) -> tuple[Precision, Precision] | None:
    """(experts, rest) of `mxfp4+bf16`; None where it is no pair of known precisions."""
    found = [_named(part) for part in name.split("+")]
    if len(found) != 2 or found[0] is None or found[1] is None:
        return None
    return found[0], found[1]


def pair_precision(both: tuple[Precision, Precision], place: Place, facts: Facts) -> Precision:
    experts, rest = both
    if place.role is (Role.EXPERT if facts.n_experts else Role.DENSE_FFN):
        return _fitting(experts, place)
    if place.role is Role.ROUTER or (place.role in (Role.EMBED, Role.HEAD) and rest in _ALL_LINEAR.values()):
        return Quant.BF16
    return _fitting(rest, place)


def _named(name: str) -> Precision | None:
    known: dict[str, Precision] = {**Quant.__members__, **Counted.__members__}
    return known.get(name.upper())


def _fitting(found: Precision, place: Place) -> Precision:
    """16 bits where rows do not fill blocks (small convolutions)."""
    return found if place.dims[-1] % found.block == 0 else Quant.BF16
