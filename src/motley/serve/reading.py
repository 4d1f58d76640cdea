"""The runner's counters as somebody who watches wants them: read between two steps, only while somebody looks.

Over nodes a reading asks each of them, so it belongs to the scheduler's thread. Counters of a runner that was replaced
(a node was lost) are added to those of the one that came after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from motley.engine.engine import Engine
from motley.engine.runner import ExchangeCount, Runner, by_pair
from motley.engine.times import StepTimes
from motley.errors import MotleyError

EVERY_S = 0.25
WATCHED_S = 3.0  # after somebody asked


@dataclass(frozen=True)
class Reading:
    """One exchange count per pair of devices, in the order of who asks whom."""

    times: StepTimes = field(default_factory=StepTimes)
    routes: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    exchanges: Sequence[ExchangeCount] = ()


class Readings:
    """`ask` from any thread, the rest on the scheduler's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.last = Reading()
        self._asked = self._read = -WATCHED_S
        self._before = Reading()  # of the runners that are gone
        self._runner: Runner = engine.runner
        self._steps_s = -1.0

    def ask(self) -> bool:
        """That somebody looks. Whether the last reading is old."""
        self._asked = monotonic()
        return self.due()

    def due(self) -> bool:
        now = monotonic()
        watched, old = now - self._asked < WATCHED_S, now - self._read > EVERY_S
        return watched and old and self._steps_s != self._engine.runner_s

    def read(self) -> None:
        self._read, self._steps_s = monotonic(), self._engine.runner_s
        runner = self._engine.runner
        if runner is not self._runner:
            self._before, self._runner = self.last, runner
        try:
            with self._engine.watched():
                times, routes, found = runner.times(), runner.routes(), list(runner.exchanges())
        except MotleyError:  # a node is gone: the next step will find out
            return
        if self._before.routes.shape == routes.shape:
            routes = routes + self._before.routes
        exchanges = by_pair([*self._before.exchanges, *found])
        self.last = Reading(times + self._before.times, routes, exchanges)
