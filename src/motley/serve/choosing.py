"""How a served sequence's next token is chosen: `engine.sampling`, under a grammar, with the odds told if wanted.

A failure ends one sequence, never the step that it rides in: it is kept in `error`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from motley.engine.engine import Stream
from motley.engine.sampling import Sampling, sample
from motley.errors import MotleyError


@dataclass(frozen=True)
class TokenOdds:
    """Natural logarithms of probabilities, by the model's own logits (nothing of sampling's settings)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Constraint(Protocol):
    """What the next token may be."""

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""
        ...

    def allowed(self) -> NDArray[np.bool_]:
        """[V]; MotleyError where it gave up."""
        ...

    def accept(self, token: int) -> None: ...


@dataclass
class Chooser:
    """`n_odds`: how many of the likeliest tokens are told beside the chosen one; None: nothing is told."""

    sampling: Sampling
    n_odds: int | None = None
    bias: Mapping[int, float] = field(default_factory=dict)
    constraint: Constraint | None = None
    error: MotleyError | None = None

    def __post_init__(self) -> None:
        self._odds: list[TokenOdds] = []

    @property
    def complete(self) -> bool:
        return self.constraint is not None and self.constraint.complete

    def __call__(self, logits: NDArray[np.float32], stream: Stream) -> int:
        history = stream.tokens if self.sampling.looks_back else ()
        try:
            token = self._choose(logits, history, len(stream.answer))
        except MotleyError as error:
            self.error = error
            return 0
        if self.n_odds is not None:
            self._odds.append(odds_of(logits, token, self.n_odds))
        return token

    def take(self) -> list[TokenOdds]:
        """Of the oldest token that was not taken."""
        return [self._odds.pop(0)] if self._odds else []

    def _choose(self, logits: NDArray[np.float32], history: Sequence[int], step: int) -> int:
        if self.bias:
            logits = logits.copy()
            for token, bias in self.bias.items():
                logits[token] += bias
        if self.constraint is None:
            return sample(logits, history, self.sampling, step)
        token = sample(np.where(self.constraint.allowed(), logits, -np.inf), history, self.sampling, step)
        self.constraint.accept(token)
        return token


def odds_of(logits: NDArray[np.float32], token: int, n: int) -> TokenOdds:
    """Of `token` and of the `n` likeliest, most likely first, the lower id first among equals."""
    wide = logits.astype(np.float64)
    wide -= wide.max()
    wide -= np.log(np.exp(wide).sum())
    top: tuple[tuple[int, float], ...] = ()
    if n:
        least = np.partition(logits, -n)[-n]
        best = np.flatnonzero(logits >= least)
        best = best[np.argsort(-logits[best], kind="stable")][:n]
        top = tuple((int(i), float(wide[i])) for i in best)
    return TokenOdds(token, float(wide[token]), top)
