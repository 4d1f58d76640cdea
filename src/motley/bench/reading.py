"""Readings of a runner's counters, and what happened between two of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from motley.bench.result import TimeSplit
from motley.bench.runner import ExchangeCount, Runner

PARTS = ("attention", "router", "experts", "link", "head", "python")


@dataclass(frozen=True)
class Reading:
    """Counters at one moment, or the difference of two moments."""

    seconds: dict[str, float]  # by part of a step
    routes: NDArray[np.int64] | None  # [L, E]
    exchanges: tuple[ExchangeCount, ...]

    @classmethod
    def of(cls, runner: Runner) -> "Reading":
        times, routes = runner.times(), runner.routes()
        return cls(
            {part: float(getattr(times, part)) for part in PARTS},
            None if routes is None else np.array(routes, np.int64),
            tuple(runner.exchanges()),
        )

    def since(self, earlier: "Reading") -> "Reading":
        seconds = {part: value - earlier.seconds[part] for part, value in self.seconds.items()}
        routes = None if self.routes is None or earlier.routes is None else self.routes - earlier.routes
        before = {(x.a, x.b): x for x in earlier.exchanges}
        return Reading(seconds, routes, tuple(_minus(x, before.get((x.a, x.b))) for x in self.exchanges))

    def time_split(self, wall_seconds: float, steps: int) -> TimeSplit:
        """Milliseconds per step; `other` is what the runner did not account for, so that the parts add up."""
        parts = {part: max(0.0, value) * 1e3 / steps for part, value in self.seconds.items()}
        return TimeSplit(**parts, other=max(0.0, wall_seconds * 1e3 / steps - sum(parts.values())))


def total_exchanges(readings: Sequence[Reading]) -> tuple[ExchangeCount, ...]:
    """Summed by link, in order of first appearance."""
    found: dict[tuple[str, str], ExchangeCount] = {}
    for exchange in (x for reading in readings for x in reading.exchanges):
        key = (exchange.a, exchange.b)
        found[key] = _plus(found[key], exchange) if key in found else exchange
    return tuple(found.values())


def total_routes(readings: Sequence[Reading]) -> NDArray[np.int64] | None:
    counted = [reading.routes for reading in readings if reading.routes is not None]
    return sum(counted[1:], counted[0]) if counted else None


def _plus(x: ExchangeCount, y: ExchangeCount) -> ExchangeCount:
    remote = None
    if x.remote_seconds is not None and y.remote_seconds is not None:
        remote = x.remote_seconds + y.remote_seconds
    return replace(x, count=x.count + y.count, seconds=x.seconds + y.seconds, remote_seconds=remote)


def _minus(x: ExchangeCount, y: ExchangeCount | None) -> ExchangeCount:
    if y is None:
        return x
    remote = y.remote_seconds and -y.remote_seconds
    return _plus(x, replace(y, count=-y.count, seconds=-y.seconds, remote_seconds=remote))
