"""Runner: one step of a whole placed model. What the engine, the benches and the checks drive."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from motley.engine.reuse import Reuse
from motley.engine.times import StepTimes
from motley.ops.protocol import Batch


@dataclass(frozen=True)
class ExchangeCount:
    """What crossed one link so far: `seconds` from sending to holding the answer; of them, `work_seconds` in which
    one of the sides worked (the longer of the works, if both did). The difference is what the exchange itself costs."""

    a: str
    b: str
    transport: str
    count: int
    seconds: float
    work_seconds: float


def by_pair(counts: Iterable[ExchangeCount]) -> tuple[ExchangeCount, ...]:
    """Added up by devices and transport, in order of first appearance."""
    found: dict[tuple[str, str, str], ExchangeCount] = {}
    for x in counts:
        key = (x.a, x.b, x.transport)
        had = found.get(key, replace(x, count=0, seconds=0.0, work_seconds=0.0))
        found[key] = replace(
            x,
            count=had.count + x.count,
            seconds=had.seconds + x.seconds,
            work_seconds=had.work_seconds + x.work_seconds,
        )
    return tuple(found.values())


class Runner(Protocol):
    """A loaded model that remembers `n_slots` sequences of `context` tokens; in each slot position 0 starts a new one.
    A slot may be taken up again at an earlier position where `reuse` allows it. Counters are cumulative."""

    @property
    def n_slots(self) -> int: ...

    @property
    def context(self) -> int: ...

    @property
    def reuse(self) -> Reuse: ...

    def step(self, batch: Batch) -> NDArray[np.float32]:
        """-> logits [R, V] of the rows asked for"""
        ...

    def times(self) -> StepTimes:
        """All stages together."""
        ...

    def routes(self) -> NDArray[np.int64]:
        """How often each expert was chosen: [layers, E]."""
        ...

    def exchanges(self) -> Sequence[ExchangeCount]:
        """One entry per link in use; empty on one device."""
        ...
