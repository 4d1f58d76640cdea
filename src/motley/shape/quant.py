"""The quantised formats: how many bytes a block of weights takes. Decoding is `formats.decode`'s work.

Source of sizes and ids: the GGUF specification and ggml's `ggml_type` (facts, not code).
"""

from enum import Enum
from typing import Self

from motley.errors import UnsupportedError


class Quant(Enum):
    """A tensor's stored precision: (GGUF type id, elements per block, bytes per block)."""

    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    Q4_0 = (2, 32, 18)
    Q8_0 = (8, 32, 34)
    Q4_K = (12, 256, 144)
    Q5_K = (13, 256, 176)
    Q6_K = (14, 256, 210)
    BF16 = (30, 1, 2)
    MXFP4 = (39, 32, 17)

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

    @classmethod
    def from_ggml(cls, ggml_type: int) -> Self:
        for quant in cls:
            if quant.ggml_type == ggml_type:
                return quant
        raise UnsupportedError(f"GGUF tensor type {ggml_type} is not supported")

    def n_bytes(self, n_elements: int) -> int:
        """Bytes of `n_elements` weights; `n_elements` must fill whole blocks."""
        if n_elements % self.block:
            raise UnsupportedError(f"{n_elements} elements do not fill {self.name} blocks of {self.block}")
        return n_elements // self.block * self.block_bytes
