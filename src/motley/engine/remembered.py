"""Steps that decode run from memory: a stage's operations for a number of tokens are remembered when it first comes
(`ops.protocol.Program`), then done again as one call. Python comes between them only where other devices are asked.

Where others are asked, a step may also be run in two halves that take turns: while one waits for the others, this
device works on the other one. A token's bits don't depend on its batch, so the answer is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from motley.cluster.assignment import MOST_REMEMBERED_TOKENS
from motley.engine.experts import PlacedExperts
from motley.engine.rows import PlacedRows
from motley.engine.times import Clock
from motley.models.feed_forward import Lap, RunExperts
from motley.models.rows import RunRows
from motley.ops.protocol import Array, Batch, Ops, Recording

MOST_TOKENS = MOST_REMEMBERED_TOKENS  # larger steps have work enough between two lines of Python
MOST_REMEMBERED = 48  # tokens of all steps: each keeps its arrays of all layers (predict.memory counts them)
MOST_PROMPTS = 8  # lengths of prompts' chunks, on devices that remember those (`TinygradOps.remembers_prompts`)

Floats = NDArray[np.float32]
Run = Callable[[Batch, Floats | None, RunExperts, RunRows, Lap], Array]
Mark = tuple[float, float, str]  # when (of `perf_counter`), the device's busy seconds, the part that ended


@dataclass(frozen=True)
class Doing:
    """What a stage does its steps with. Not the stage itself, which keeps its steps: in a cycle, weights and links
    would wait for the collector."""

    ops: Ops
    experts: PlacedExperts
    rows: PlacedRows
    clock: Clock


class RememberedStep:
    """Constructing it does the step; `out` is what it gave. The arrays are its own: each run fills them in."""

    def __init__(self, doing: Doing, run: Run, batch: Batch, x: Floats | None) -> None:
        self._doing, self.n_tokens = doing, len(batch)
        self._batch = Batch(batch.tokens.copy(), batch.positions.copy(), batch.slots.copy(), batch.rows.copy())
        self._x = None if x is None else x.copy()
        self._parts: list[str] = []
        self._routed: list[tuple[int, Array]] = []
        self._started = 0.0
        self._waiting: Callable[[], None] | None = None
        self._program = doing.ops.record(
            lambda r: run(self._batch, self._x, self._watched(r), doing.rows.recorded(r), self._lap(r))
        )
        self._count()

    @property
    def works(self) -> bool:
        """False where the device can't remember: nothing was done."""
        return self._program is not None

    @property
    def out(self) -> Floats:
        assert self._program is not None
        return np.array(self._doing.ops.to_host(self._program.out))  # a copy: the next run writes over it

    def run(self, batch: Batch, x: Floats | None) -> Floats:
        """As many tokens as the first time, any others. x [T, D], or None as the first time."""
        self.begin(batch, x)
        while self.advance():
            pass
        note(self._doing.clock, self.end())
        return self.out

    def begin(self, batch: Batch, x: Floats | None) -> None:
        assert self._program is not None
        for name in Batch.__slots__:
            getattr(self._batch, name)[:] = getattr(batch, name)
        if self._x is not None:
            self._x[:] = x
        self._waiting = None
        self._started = perf_counter()
        self._program.begin()

    def advance(self) -> bool:
        """On to where it has to wait for others: True; False at its end."""
        assert self._program is not None
        if self._waiting:
            self._waiting()
            self._waiting = None
        while (host := self._program.next()) is not None:
            if host.waits:
                self._waiting = host.work
                return True
            host.work()
        return False

    def end(self) -> list[Mark]:
        assert self._program is not None
        self._count()
        marks = zip(self._parts, self._program.marks(), strict=True)
        return [(self._started + seconds, busy, part) for part, (seconds, busy) in marks]

    def _count(self) -> None:
        for layer, ids in self._routed:
            self._doing.experts.note(layer, self._doing.ops.to_host(ids))

    def _watched(self, recording: Recording) -> RunExperts:
        def experts(
            layer: int, h: Array, ids: Array, weights: Array, meanwhile: Callable[[], None] | None = None
        ) -> Sequence[Array]:
            self._routed.append((layer, ids))
            return self._doing.experts.recorded(recording, layer, h, ids, weights, meanwhile)

        return experts

    def _lap(self, recording: Recording) -> Lap:
        def lap(part: str) -> None:
            recording.mark()
            self._parts.append(part)
            self._doing.clock.lap(part)

        return lap


class Halves:
    """A step as two that take turns; as `RememberedStep` to who runs it. Both send and receive in the same order, so
    that answers come in the order in which they are waited for."""

    def __init__(self, doing: Doing, run: Run, batch: Batch, x: Floats | None) -> None:
        self._clock, self.n_tokens = doing.clock, len(batch)
        self._steps = [RememberedStep(doing, run, *half) for half in _halves(batch, x)]

    @property
    def works(self) -> bool:
        return all(step.works for step in self._steps)

    @property
    def out(self) -> Floats:
        return np.concatenate([step.out for step in self._steps])

    def run(self, batch: Batch, x: Floats | None) -> Floats:
        for step, half in zip(self._steps, _halves(batch, x)):
            step.begin(*half)
        going = self._steps
        while going:
            going = [step for step in going if step.advance()]
        note(self._clock, sorted(mark for step in self._steps for mark in step.end()))
        return self.out


def can_be_halved(batch: Batch) -> bool:
    """Tokens that all want logits, in their own order."""
    return len(batch) > 1 and bool((batch.rows == np.arange(len(batch))).all())


def note(clock: Clock, marks: Sequence[Mark]) -> None:
    for time, busy, part in marks:
        clock.note(part, time, busy)


def _halves(batch: Batch, x: Floats | None) -> list[tuple[Batch, Floats | None]]:
    half = len(batch) // 2
    cuts = slice(0, half), slice(half, len(batch))
    return [
        (
            Batch(batch.tokens[c], batch.positions[c], batch.slots[c], range(c.stop - c.start)),
            None if x is None else x[c],
        )
        for c in cuts
    ]


class Faster:
    """Which of two ways of a step is the faster one: each is tried, then the better is kept for a while. Nothing else
    depends on it: the answers are the same."""

    TRIALS = 4  # of each; the first of them makes it, and does not count
    KEPT = 512  # steps until they are compared again: links and loads change

    def __init__(self) -> None:
        self._times: tuple[list[float], list[float]] = [], []
        self._steps = 0

    def second(self) -> bool:
        """Whether to take the second way now."""
        first, second = self._times
        if len(first) < self.TRIALS:
            return False
        if len(second) < self.TRIALS:
            return True
        return min(second[1:]) < min(first[1:])

    def note(self, second: bool, seconds: float) -> None:
        times = self._times[second]
        if len(times) < self.TRIALS:
            times.append(seconds)
        self._steps += 1
        if self._steps >= self.KEPT:
            self._times, self._steps = ([], []), 0
