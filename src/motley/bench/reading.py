"""Readings of a runner's counters, and what happened between two of them."""

from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from motley.bench.result import TimeSplit
from motley.engine.runner import ExchangeCount, Runner, by_pair
from motley.engine.times import StepTimes


@dataclass(frozen=True)
class Reading:
    """Counters at one moment, or the difference of two moments. One exchange count per pair of devices."""

    times: StepTimes
    routes: NDArray[np.int64]  # [L, E]
    exchanges: tuple[ExchangeCount, ...]

    @classmethod
    def of(cls, runner: Runner) -> "Reading":
        return cls(runner.times() + StepTimes(), np.array(runner.routes()), by_pair(runner.exchanges()))

    def since(self, earlier: "Reading") -> "Reading":
        gone = [replace(x, count=-x.count, seconds=-x.seconds, work_seconds=-x.work_seconds) for x in earlier.exchanges]
        exchanges = by_pair([*self.exchanges, *gone])
        return Reading(self.times - earlier.times, self.routes - earlier.routes, exchanges)

    def time_split(self, wall_seconds: float, steps: int) -> TimeSplit:
        """Milliseconds per step; `other` is what the runner did not account for, so that the parts add up."""
        parts = {part: max(0.0, seconds) * 1e3 / steps for part, seconds in asdict(self.times).items()}
        del parts["other"]
        other = max(0.0, wall_seconds * 1e3 / steps - sum(parts.values()))
        if not parts["upload"]:
            del parts["upload"]
        return TimeSplit(**parts, other=other)
