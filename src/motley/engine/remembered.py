"""Steps that decode run from memory: a stage's operations for a number of tokens are remembered when it first comes
(`ops.protocol.Program`), then done again as one call. Python comes between them only where other devices are asked."""

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from motley.engine.experts import PlacedExperts
from motley.engine.head import PlacedHead
from motley.engine.times import Clock
from motley.models.layers import Lap, RunExperts, RunHead
from motley.ops.protocol import Array, Batch, Ops, Recording

MOST_TOKENS = 8  # larger steps have work enough between two lines of Python
MOST_SIZES = 2  # remembered at a time: each keeps its arrays of all layers (predict.memory counts them)

Run = Callable[[Batch, NDArray[np.float32] | None, RunExperts, RunHead, Lap], Array]


class RememberedStep:
    """Constructing it does the step; `out` is what it gave. The arrays are its own: each run fills them in."""

    def __init__(
        self,
        ops: Ops,
        run: Run,
        experts: PlacedExperts,
        head: PlacedHead,
        clock: Clock,
        batch: Batch,
        x: NDArray[np.float32] | None,
    ) -> None:
        self._ops, self._experts, self._clock = ops, experts, clock
        self._batch = Batch(batch.tokens.copy(), batch.positions.copy(), batch.slots.copy(), batch.rows.copy())
        self._x = None if x is None else x.copy()
        self._parts: list[str] = []
        self._routed: list[tuple[int, Array]] = []
        self._program = ops.record(
            lambda r: run(self._batch, self._x, self._watched(r), head.recorded(r), self._lap(r.mark))
        )
        self._count()

    @property
    def works(self) -> bool:
        """False where the device can't remember: nothing was done."""
        return self._program is not None

    @property
    def out(self) -> NDArray[np.float32]:
        assert self._program is not None
        return np.array(self._ops.to_host(self._program.out))  # a copy: the next run writes over it

    def run(self, batch: Batch, x: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """As many tokens as the first time, any others. x [T, D], or None as the first time."""
        assert self._program is not None
        for name in Batch.__slots__:
            getattr(self._batch, name)[:] = getattr(batch, name)
        if self._x is not None:
            self._x[:] = x
        started = perf_counter()
        marks = self._program.run()
        for part, (seconds, busy) in zip(self._parts, marks, strict=True):
            self._clock.note(part, started + seconds, busy)
        self._count()
        return self.out

    def _count(self) -> None:
        for layer, ids in self._routed:
            self._experts.note(layer, self._ops.to_host(ids))

    def _watched(self, recording: Recording) -> RunExperts:
        def experts(layer: int, h: Array, ids: Array, weights: Array) -> Sequence[Array]:
            self._routed.append((layer, ids))
            return self._experts.recorded(recording, layer, h, ids, weights)

        return experts

    def _lap(self, mark: Callable[[], None]) -> Lap:
        def lap(part: str) -> None:
            mark()
            self._parts.append(part)
            self._clock.lap(part)

        return lap
