"""QuantTensor: a named, lazy, quantised tensor; Checkpoint: a file's metadata and tensors.

Every file format hands out these two, and nothing outside `formats` knows which file they came from.
"""

from collections.abc import Callable, Mapping, Sequence
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

    def read(self, parts: Sequence[int] | None = None) -> "QuantTensor":
        """A tensor with its bytes at hand: itself, unless they are put together when they are needed
        (`AssembledTensor`). `parts`: the slices of the leading dimension that are used; others may hold anything."""
        return self

    def sources(self, part: int | None = None) -> Sequence[NDArray[np.uint8]]:
        """What reading it, or one slice of its leading dimension, takes of the file: views, nothing is read."""
        return [self.data if part is None else self.part(part).data]

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


Assemble = Callable[[int | None], NDArray[np.uint8]]
Sources = Callable[[int | None], Sequence[NDArray[np.uint8]]]


class AssembledTensor(QuantTensor):
    """A tensor whose stored bytes are put together from elsewhere whenever they are asked for: `assemble(None)` gives
    all of them; where `by_parts`, `assemble(i)` those of slice `i` of the leading dimension, and nothing else is read.
    `sources` takes the same, and gives what that reads. Nothing is kept: whoever uses `data` more than once takes
    `read()` first."""

    _assemble: Assemble
    _sources: Sources
    by_parts: bool

    def __init__(
        self, name: str, dims: tuple[int, ...], quant: Quant, assemble: Assemble, sources: Sources, *, by_parts: bool
    ) -> None:
        fields = {"name": name, "dims": dims, "quant": quant, "_assemble": assemble, "_sources": sources}
        for key, value in {**fields, "by_parts": by_parts}.items():
            object.__setattr__(self, key, value)

    @property
    def n_bytes(self) -> int:
        return self.quant.n_bytes(prod(self.dims))

    @property
    def data(self) -> NDArray[np.uint8]:
        return self.read().data

    def read(self, parts: Sequence[int] | None = None) -> QuantTensor:
        if not self.by_parts:
            return QuantTensor(self.name, self.dims, self.quant, self._assemble(None))
        size = self.n_bytes // self.dims[0]
        whole = np.empty(self.n_bytes, np.uint8)  # memory is taken for those slices only that are written
        for i in range(self.dims[0]) if parts is None else parts:
            whole[i * size : (i + 1) * size] = self._assemble(i)
        return QuantTensor(self.name, self.dims, self.quant, whole)

    def sources(self, part: int | None = None) -> Sequence[NDArray[np.uint8]]:
        return self._sources(part if self.by_parts else None)

    def part(self, index: int) -> QuantTensor:
        if not self.by_parts or not 0 <= index < self.dims[0]:
            return super().part(index)
        return AssembledTensor(
            f"{self.name}[{index}]",
            self.dims[1:],
            self.quant,
            lambda _: self._assemble(index),
            lambda _: self._sources(index),
            by_parts=False,
        )


@dataclass(frozen=True)
class ModelFile:
    """A file of a model. `data`: mapped. `name`: under which a copy of it, beside the others, opens as that model."""

    name: str
    data: memoryview
    header_bytes: int  # without which the rest says nothing; all of a file that holds no tensors


@dataclass(frozen=True)
class Checkpoint:
    """An opened model file (or files)."""

    metadata: Mapping[str, Any]  # GGUF keys; arrays are lists
    tensors: Mapping[str, QuantTensor]
    hash: str  # identifies the content: see the opener's docstring for what it covers
    notes: tuple[str, ...] = ()  # what the user should know of how the weights are used
    files: tuple[ModelFile, ...] = ()  # what it was opened from

    @property
    def architecture(self) -> str:
        return get_str(self.metadata, "general.architecture")
