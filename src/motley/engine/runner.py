"""Runner: one step of a whole placed model. What the engine, the benches and the checks drive."""

from collections.abc import Sequence
from dataclasses import dataclass
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
