"""Ranges: which bytes of something are there. Half open, `[start, end)`."""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

Range = tuple[int, int]  # [start, end)


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Ascending, without overlaps; neighbours become one."""
    found: list[Range] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def total(ranges: Iterable[Range]) -> int:
    return sum(end - start for start, end in ranges)


class Ranges:
    """A set of bytes that grows; safe to use from several threads. Ten thousands of ranges cost microseconds a call."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        there = merged(ranges)
        self._starts, self._ends = [start for start, _ in there], [end for _, end in there]
        self._lock = threading.Lock()

    def add(self, start: int, end: int) -> None:
        with self._lock:
            first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)  # those that it touches
            if first < last:
                start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
            self._starts[first:last], self._ends[first:last] = [start], [end]

    def covers(self, start: int, end: int) -> bool:
        with self._lock:
            at = bisect_right(self._starts, start) - 1
            return at >= 0 and self._ends[at] >= end

    def missing(self, wanted: Iterable[Range]) -> list[Range]:
        """What of `wanted` is not in it."""
        found = []
        with self._lock:
            for start, end in merged(wanted):
                for at in range(bisect_right(self._ends, start), bisect_left(self._starts, end)):
                    if self._starts[at] > start:
                        found.append((start, self._starts[at]))
                    start = self._ends[at]
                if start < end:
                    found.append((start, end))
        return found

    def all(self) -> list[Range]:
        with self._lock:
            return list(zip(self._starts, self._ends))
