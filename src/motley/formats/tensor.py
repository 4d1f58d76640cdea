"""QuantTensor: a named, lazy, quantised tensor; Checkpoint: a file's metadata and tensors.

Every file format hands out these two, and nothing outside `formats` knows which file they came from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.formats.metadata import get_str
from motley.shape.quant import Quant


@dataclass(frozen=True)
class QuantTensor:
    """`data` holds the stored bytes, flat, usually a view into a memory-mapped file: nothing is read until used."""

    name: str
    dims: tuple[int, ...]  # row-major: [rows, cols] or experts [E, rows, cols]
    quant: Quant
    data: NDArray[np.uint8]  # [n_bytes]

    @property
    def n_bytes(self) -> int:
        return self.data.nbytes

    def part(self, index: int) -> "QuantTensor":
        """Slice `index` of the leading dimension, still a view: one expert's matrix of [E, rows, cols]."""
        if not 0 <= index < self.dims[0]:
            raise IndexError(f"tensor {self.name!r} has parts 0 to {self.dims[0] - 1}, not {index}")
        size = self.quant.n_bytes(prod(self.dims[1:]))
        data = self.data[index * size : (index + 1) * size]
        return QuantTensor(f"{self.name}[{index}]", self.dims[1:], self.quant, data)

    def rows(self, first: int, end: int) -> "QuantTensor":
        """Rows [first, end) of a matrix, still a view."""
        if not 0 <= first < end <= self.dims[0]:
            raise IndexError(f"tensor {self.name!r} has rows 0 to {self.dims[0] - 1}, not {first} to {end - 1}")
        if (first, end) == (0, self.dims[0]):
            return self
        size = self.quant.n_bytes(prod(self.dims[1:]))
        data = self.data[first * size : end * size]
        return QuantTensor(f"{self.name}[{first}:{end}]", (end - first, *self.dims[1:]), self.quant, data)

    def decode(self) -> NDArray[np.float32]:
        """Float32 values [*dims], bit for bit what the GGUF reference decoder gives."""
        from motley.formats.decode import decode

        return decode(self.data, self.quant).reshape(self.dims)


@dataclass(frozen=True)
class Checkpoint:
    """An opened model file (or files)."""

    metadata: Mapping[str, Any]  # GGUF keys; arrays are lists
    tensors: Mapping[str, QuantTensor]
    hash: str  # identifies the content: see the opener's docstring for what it covers

    @property
    def architecture(self) -> str:
        return get_str(self.metadata, "general.architecture")
