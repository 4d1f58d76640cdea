"""Matrices that multiply the same activations, row by row: all of their rows, or the run of them that is on this device
while other devices have the others. No dot product is split, so that who multiplies a row changes no bit.

T tokens, D what is multiplied.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from motley.errors import FormatError
from motley.models.loader import Loader
from motley.ops.protocol import Array, Ops
from motley.shape.model import PROJECTIONS


class Cut(NamedTuple):
    """Rows [first, end) of a matrix."""

    matrix: int
    first: int
    end: int


def cuts(heights: Sequence[int], rows: range) -> tuple[Cut, ...]:
    """Which rows of which matrix are `rows` of all, counted from one matrix to the next."""
    found, at = [], 0
    for matrix, height in enumerate(heights):
        first, end = max(rows.start - at, 0), min(rows.stop - at, height)
        if first < end:
            found.append(Cut(matrix, first, end))
        at += height
    return tuple(found)


class Rows:
    """`rows`: those that are here, counted from one matrix to the next; None: all. `layer`: whose projections they are;
    None: the output matrix."""

    def __init__(
        self,
        load: Loader,
        matrices: Sequence[tuple[str, int]],
        width: int,
        rows: range | None = None,
        layer: int | None = None,
    ) -> None:
        self.layer, self.heights = layer, tuple(height for _, height in matrices)
        self.rows = range(sum(self.heights)) if rows is None else rows
        self.cuts = cuts(self.heights, self.rows)
        for name, height in matrices:
            load.tensor(name, (height, width))  # read, if elsewhere
        named = [(matrices[matrix], range(first, end)) for matrix, first, end in self.cuts]
        self._weights = [load.rows(name, part, height, width) for (name, height), part in named]

    @classmethod
    def of_layer(cls, load: Loader, layer: int, rows: range) -> "Rows":
        """Of a layer that is at home elsewhere: as the file has its matrices. FormatError where it has none."""
        names = [f"blk.{layer}.{name}.weight" for name in PROJECTIONS]
        found = [load.checkpoint.tensors.get(name) for name in names]
        if any(t is None or len(t.dims) != 2 for t in found):
            raise FormatError(f"layer {layer} has no {', '.join(PROJECTIONS)} to split by rows: load the model anew")
        dims = [t.dims for t in found if t]
        return cls(load, [(name, height) for name, (height, _) in zip(names, dims)], dims[0][1], rows, layer)

    def __call__(self, ops: Ops, h: Array) -> tuple[Array, ...]:
        """h [T, D] -> [T, end - first] of each cut"""
        return ops.linear(h, *self._weights)


class RunRows(Protocol):
    """Multiplies by all rows wherever they live. Given by the engine.

    h [T, D] -> [T, height] of each matrix"""

    def __call__(self, own: Rows, h: Array, /) -> Sequence[Array]: ...
