"""The quantised formats: how many bytes a block of weights takes. Decoding is `formats.decode`'s work.

`Quant` is what Motley reads and runs; `Counted` is what others ship and Motley only counts. They are two types so
that nothing that touches weights can be handed a format that it cannot decode: `require_quant` is the one gate between.
Source of sizes and ids: the GGUF specification and ggml's `ggml_type`; for the rest, see each line (facts, not code).
"""

from enum import Enum
from typing import Self

from motley.errors import UnsupportedError


class Quant(Enum):
    """A tensor's stored precision: (GGUF type id, elements per block, bytes per block)."""

    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    Q4_0 = (2, 32, 18)
    Q4_1 = (3, 32, 20)
    Q5_0 = (6, 32, 22)
    Q5_1 = (7, 32, 24)
    Q8_0 = (8, 32, 34)
    Q2_K = (10, 256, 84)
    Q3_K = (11, 256, 110)
    Q4_K = (12, 256, 144)
    Q5_K = (13, 256, 176)
    Q6_K = (14, 256, 210)
    IQ2_XXS = (16, 256, 66)
    IQ2_XS = (17, 256, 74)
    IQ3_XXS = (18, 256, 98)
    IQ1_S = (19, 256, 50)
    IQ4_NL = (20, 32, 18)
    IQ3_S = (21, 256, 110)
    IQ2_S = (22, 256, 82)
    IQ4_XS = (23, 256, 136)
    IQ1_M = (29, 256, 56)
    BF16 = (30, 1, 2)
    MXFP4 = (39, 32, 17)
    NVFP4 = (40, 64, 36)

    def __init__(self, ggml_type: int, block: int, block_bytes: int) -> None:
        self.ggml_type = ggml_type
        self.block = block
        self.block_bytes = block_bytes

    @classmethod
    def named(cls, name: str) -> Self:
        """`q4_k`, `Q4_K`: any case."""
        try:
            return cls[name.upper()]
        except KeyError:
            known = ", ".join(q.name.lower() for q in cls)
            raise UnsupportedError(f"unknown quantisation {name!r}: Motley knows {known}") from None

    def n_bytes(self, n_elements: int) -> int:
        """Bytes of `n_elements` weights; `n_elements` must fill whole blocks."""
        return _n_bytes(self, n_elements)


class Counted(Enum):
    """A precision that Motley counts but neither reads nor writes: (name, elements per block, bytes per block)."""

    FP8 = ("fp8", 1, 1)  # E4M3; scales of 128 x 128 blocks or of channels are left out: under 0.03 %
    MXFP8 = ("mxfp8", 32, 33)  # E4M3 with a power of two for 32 weights
    INT8 = ("int8", 1, 1)  # W8A8: a scale per channel, left out
    INT4_G32 = ("int4_g32", 32, 18)  # compressed-tensors: 16-bit scale for 32 weights, symmetric (Kimi K2 Thinking)
    INT4_G128 = ("int4_g128", 256, 133)  # AWQ, GPTQ: 16-bit scale and 4-bit zero for 128 weights
    MLX3 = ("mlx3", 64, 28)  # MLX affine: 16-bit scale and bias for 64 weights
    MLX4 = ("mlx4", 64, 36)
    MLX5 = ("mlx5", 64, 44)
    MLX6 = ("mlx6", 64, 52)
    MLX8 = ("mlx8", 64, 68)

    def __init__(self, label: str, block: int, block_bytes: int) -> None:
        self.label = label  # makes members with equal sizes different ones
        self.block = block
        self.block_bytes = block_bytes

    def n_bytes(self, n_elements: int) -> int:
        """Bytes of `n_elements` weights; `n_elements` must fill whole blocks."""
        return _n_bytes(self, n_elements)


Precision = Quant | Counted


def require_quant(precision: Precision, what: str) -> Quant:
    """`precision`, where Motley can decode it; `what` names the tensor or model in the error."""
    if isinstance(precision, Quant):
        return precision
    known = ", ".join(q.name for q in Quant)
    raise UnsupportedError(f"{what}: Motley counts {precision.name} but cannot decode it; it reads {known}")


def _n_bytes(precision: Precision, n_elements: int) -> int:
    if n_elements % precision.block:
        raise UnsupportedError(f"{n_elements} elements do not fill {precision.name} blocks of {precision.block}")
    return n_elements // precision.block * precision.block_bytes
