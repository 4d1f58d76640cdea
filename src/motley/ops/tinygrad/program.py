"""Remembered steps: an engine's step as a few captured graphs with the host's parts between them."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor

from motley.ops.protocol import HostPart, Recording
from motley.ops.tinygrad import adapter
from motley.ops.tinygrad.arrays import HostRows, Rows

if TYPE_CHECKING:
    from motley.ops.tinygrad.tinygrad_ops import TinygradOps

Arrays = tuple[NDArray[Any], ...]
Derive = Callable[[], NDArray[Any]]


class Segment:
    """The operations between two of the host's parts: what they read of the host, one graph, what the host reads."""

    def __init__(self) -> None:
        self.inputs: dict[Any, tuple[Arrays, Derive, Tensor]] = {}
        self.lengths: dict[str, Callable[[], int]] = {}
        self.outputs: list[tuple[Rows, NDArray[Any]]] = []
        self.n_operations, self.marks = 0, list[int]()
        self.graph: adapter.Graph | None = None
        self.host: HostPart | None = None

    def run(self, ops: "TinygradOps") -> None:
        assert self.graph is not None
        for _, derive, tensor in self.inputs.values():
            adapter.write(tensor, derive())
        self.graph.run({name: length() for name, length in self.lengths.items()})
        for rows, host in self.outputs:
            host[:] = ops.read(rows)


class TinygradProgram:
    """See `ops.protocol.Program`. A graph runs as a whole, so the time of a mark inside one is told from how many of
    its operations come before it: an estimate."""

    def __init__(self, ops: "TinygradOps", work: Callable[[Recording], Any]) -> None:
        self._ops = ops
        self._segments: list[Segment] = []
        self.current = Segment()
        self._at, self._started, self._marks = 0, perf_counter(), list[tuple[float, float]]()
        self._busy = ops.busy_seconds()
        with ops.recording(self):
            self.out = work(self)
            if not isinstance(self.out, HostRows):
                _ = self.out.tensor  # wanted now, if it was put off, and at every run
            self._end()

    @property
    def n_kernels(self) -> int:
        return sum(s.graph.n_kernels for s in self._segments if s.graph)

    def mark(self) -> None:
        self.current.marks.append(self.current.n_operations)

    def call(self, work: Callable[[], None], waits: bool = False) -> None:
        self.current.host = HostPart(work, waits)
        self._end()
        work()
        self.current = Segment()

    def begin(self) -> None:
        self._at, self._marks = 0, []
        self._started, self._busy = perf_counter(), self._ops.busy_seconds()

    def next(self) -> HostPart | None:
        if self._at == len(self._segments):
            return None
        segment = self._segments[self._at]
        self._at += 1
        self._run(segment)
        return segment.host

    def marks(self) -> Sequence[tuple[float, float]]:
        return self._marks

    def host_output(self, rows: Rows) -> NDArray[Any]:
        host = np.empty((rows.n, *rows.tensor.shape[1:]), self._ops.host_type(rows))
        self.current.outputs.append((rows, host))
        return host

    def _end(self) -> None:
        segment = self.current
        segment.graph = adapter.Graph(self._ops.pending())
        self._segments.append(segment)
        self._run(segment)

    def _run(self, segment: Segment) -> None:
        before = perf_counter() - self._started
        with self._ops.busy():
            segment.run(self._ops)
        now = perf_counter() - self._started
        busy = self._ops.busy_seconds() - self._busy
        for done in segment.marks:
            left = (now - before) * (1 - done / max(segment.n_operations, 1))
            self._marks.append((now - left, busy - left))
