"""What a bench needs from whatever runs a model: a step, a reset, and an account of where the time went.

The engine satisfies these protocols; tests use small fakes. All counters are cumulative since the runner started, so
that a measurement is the difference of two readings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from motley.ops.protocol import Batch

# Called with what is being done and how much of the whole is done, 0..1.
Progress = Callable[[str, float], None]


def silent(_what: str, _fraction: float) -> None:
    """The progress callback of those who don't watch."""


class Times(Protocol):
    """Cumulative seconds, as seen by the home of each layer; parts do not overlap."""

    @property
    def attention(self) -> float: ...  # norms, projections, rope, the attention itself

    @property
    def router(self) -> float: ...

    @property
    def experts(self) -> float: ...  # the home's own experts

    @property
    def link(self) -> float: ...  # sending to other nodes, and waiting for them after the own experts are done

    @property
    def head(self) -> float: ...  # embedding, final norm, output matrix

    @property
    def python(self) -> float: ...  # between operations


@dataclass(frozen=True)
class ExchangeCount:
    """What crossed one link: `seconds` from sending the activations to holding the answer; `remote_seconds` of them
    spent computing on the other side (None where the other side does not say)."""

    a: str
    b: str
    transport: str
    count: int
    seconds: float
    remote_seconds: float | None = None


class Runner(Protocol):
    """A loaded model that takes steps. Positions may go back: what is stored there is overwritten."""

    @property
    def n_slots(self) -> int: ...

    @property
    def context(self) -> int: ...  # positions per slot

    def step(self, batch: Batch) -> NDArray[np.float32]:
        """One forward pass: logits [R, V] of the rows that `batch.rows` names."""
        ...

    def reset(self, slot: int) -> None:
        """Forget the slot's sequence."""
        ...

    def times(self) -> Times: ...

    def routes(self) -> NDArray[np.int64] | None:
        """How often each expert was chosen so far [L, E]; None if it is not counted."""
        ...

    def exchanges(self) -> Sequence[ExchangeCount]:
        """One entry per link in use; empty on one node."""
        ...
