"""A model that is a table: its logits follow from a position, the token there and the one before it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from motley.engine.reuse import Reuse
from motley.engine.runner import ExchangeCount
from motley.engine.times import StepTimes
from motley.ops.protocol import Batch


class ToyRunner:
    """Remembers what it was fed, as a model does: position 0 starts anew; a gap in the positions fails."""

    def __init__(self, n_vocab: int, seed: int = 0, spread: float = 5.0) -> None:
        self.n_slots, self.context, self.n_vocab = 1, 1 << 30, n_vocab
        self._table = np.random.default_rng(seed).normal(0, spread, (n_vocab, n_vocab)).astype(np.float32)
        self.reuse = Reuse(recurrent=True)
        self._fed: list[int] = []
        self.steps: list[int] = []

    def logits_after(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        before = tokens[-2] if len(tokens) > 1 else 0
        row: NDArray[np.float32] = self._table[tokens[-1]] + np.float32(0.5) * self._table[before] + len(tokens) % 7
        return row

    def step(self, batch: Batch) -> NDArray[np.float32]:
        self.steps.append(len(batch))
        rows = set(batch.rows.tolist())
        found = []
        for i, (token, position) in enumerate(zip(batch.tokens.tolist(), batch.positions.tolist())):
            if position == 0:
                self._fed = []
            assert position == len(self._fed)
            self._fed.append(token)
            if i in rows:
                found.append(self.logits_after(self._fed))
        return np.stack(found) if found else np.empty((0, self.n_vocab), np.float32)

    def times(self) -> StepTimes:
        return StepTimes()

    def routes(self) -> NDArray[np.int64]:
        return np.zeros((1, 1), np.int64)

    def exchanges(self) -> Sequence[ExchangeCount]:
        return []
