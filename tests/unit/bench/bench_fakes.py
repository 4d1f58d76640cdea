"""A runner whose arithmetic is a formula: fast enough for tests, and answerable for every number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from motley.bench.runner import ExchangeCount
from motley.ops.protocol import Batch

VOCAB, LAYERS, EXPERTS = 50, 2, 4


@dataclass(frozen=True)
class FakeTimes:
    attention: float = 0.0
    router: float = 0.0
    experts: float = 0.0
    link: float = 0.0
    head: float = 0.0
    python: float = 0.0
    other: float = 0.0


class FakeRunner:
    """Logits depend on (token, position) alone. Each step takes `step_s` by the fake clock `now` and books it: half
    experts, a quarter link; the last quarter stays unaccounted."""

    now = 0.0  # shared by all fakes: put it in the place of time.perf_counter

    n_slots, context = 4, 256

    def __init__(self, step_s: float = 0.001, error: float = 0.0) -> None:
        self.step_s, self.error = step_s, error
        self.batches: list[Batch] = []
        self.resets: list[int] = []
        self._times = FakeTimes()
        self._routes = np.zeros((LAYERS, EXPERTS), np.int64)
        self._exchanges = 0

    def step(self, batch: Batch) -> NDArray[np.float32]:
        FakeRunner.now += self.step_s
        self.batches.append(batch)
        t = self._times
        self._times = replace(t, experts=t.experts + self.step_s / 2, link=t.link + self.step_s / 4)
        self._routes[:, batch.tokens[0] % EXPERTS] += len(batch)
        self._exchanges += LAYERS
        return np.stack([self.logits(int(batch.tokens[i]), int(batch.positions[i])) for i in batch.rows])

    def logits(self, token: int, position: int) -> NDArray[np.float32]:
        rng = np.random.default_rng(token * 1000 + position)
        row = rng.normal(size=VOCAB).astype(np.float32)
        row[0] += np.float32(self.error)
        return row

    def reset(self, slot: int) -> None:
        self.resets.append(slot)

    def times(self) -> FakeTimes:
        return self._times

    def routes(self) -> NDArray[np.int64] | None:
        return self._routes

    def exchanges(self) -> Sequence[ExchangeCount]:
        n = self._exchanges
        return [ExchangeCount("small", "big", "memory", n, n * 50e-6, n * 30e-6)]

    def __enter__(self) -> "FakeRunner":
        return self

    def __exit__(self, *_: object) -> None:
        pass
