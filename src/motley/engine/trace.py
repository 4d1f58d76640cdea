"""A trace: who did what when. Each device collects spans by its own clock; the head puts them onto its clock.

Off, it costs a test of None. On, a span is a tuple in a list; the oldest are kept, up to `MOST`.
Clocks: `perf_counter` of each process. A node's offset is taken from the quickest of some round trips: it answers with
its time, which lies within that round trip, so the error is at most half of it.
"""

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

MOST = 200_000
ROUND_TRIPS = 30


class Span(NamedTuple):
    lane: str  # a device, or "a -> b" for what a waits for from b
    name: str
    start: float  # seconds, by the clock of whoever collected it
    end: float


class Tracer:
    """Of one device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._spans: list[Span] = []

    def note(self, name: str, start: float, end: float, to: str = "") -> None:
        """`to`: the device that was asked, where this is waiting."""
        if len(self._spans) < MOST:
            self._spans.append(Span(f"{self.device} -> {to}" if to else self.device, name, start, end))

    def take(self) -> list[Span]:
        spans, self._spans = self._spans, []
        return spans


def offset_of(ask_time: Callable[[], float], clock: Callable[[], float] = perf_counter) -> tuple[float, float]:
    """How far another clock is ahead of this one (`clock`), and how sure that is: (seconds, largest error)."""
    trips = []
    for _ in range(ROUND_TRIPS):
        before = clock()
        there = ask_time()
        after = clock()
        trips.append((after - before, there - (before + after) / 2))
    took, offset = min(trips)
    return offset, took / 2


def shifted(spans: list[Span], offset: float) -> list[Span]:
    """By the clock that `offset_of` asked from."""
    return [span._replace(start=span.start - offset, end=span.end - offset) for span in spans]
