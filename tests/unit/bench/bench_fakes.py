"""A runner whose arithmetic is a formula: fast enough for tests, and answerable for every number."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from motley.engine.reuse import Reuse
from motley.engine.runner import ExchangeCount
from motley.engine.times import StepTimes
from motley.ops.protocol import Batch

VOCAB, LAYERS, EXPERTS = 50, 2, 4


class Clock:
    """Time as the fakes have it: no test waits, and none depends on how busy the machine is."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


class FakeRunner:
    """Logits depend on (token, position) alone. Each step takes `step_s` on CLOCK and books it: half experts, a quarter
    link; the last quarter stays unaccounted."""

    n_slots, context, reuse = 4, 256, Reuse(recurrent=True)

    def __init__(self, step_s: float = 0.001, error: float = 0.0) -> None:
        self.step_s, self.error = step_s, error
        self.batches: list[Batch] = []
        self._times = StepTimes()
        self._routes = np.zeros((LAYERS, EXPERTS), np.int64)
        self._exchanges = 0
        self.closed = False

    def step(self, batch: Batch) -> NDArray[np.float32]:
        CLOCK.now += self.step_s
        self.batches.append(batch)
        self._times += StepTimes(experts=self.step_s / 2, link=self.step_s / 4)
        self._routes[:, batch.tokens[0] % EXPERTS] += len(batch)
        self._exchanges += LAYERS
        if not len(batch.rows):
            return np.zeros((0, VOCAB), np.float32)
        return np.stack([self.logits(int(batch.tokens[i]), int(batch.positions[i])) for i in batch.rows])

    def logits(self, token: int, position: int) -> NDArray[np.float32]:
        rng = np.random.default_rng(token * 1000 + position)
        row = rng.normal(size=VOCAB).astype(np.float32)
        row[0] += np.float32(self.error)
        return row

    def times(self) -> StepTimes:
        return self._times

    def routes(self) -> NDArray[np.int64]:
        return self._routes

    def exchanges(self) -> Sequence[ExchangeCount]:
        n = self._exchanges
        return [ExchangeCount("small", "big", "memory", n, n * 50e-6, n * 30e-6)] if n else []

    def close(self) -> None:
        self.closed = True
