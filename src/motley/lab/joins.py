"""Joins: which of a lab's links joins each pair of its devices. A thousand devices have half a million pairs, so this
is arrays, not searches.

An end of a link is a device, a node (all its devices), or a pattern with `*`, `?` or `[...]` over their names: an
island of any size is one [[link]]. Where several links join a pair, in this order:

1. links without patterns, the first of the file first;
2. devices of one node need no link: their exchange is a call;
3. links with patterns, the more specific first: fewer patterns, then more letters, then the first of the file.
"""

import re
from collections.abc import Callable, Sequence
from fnmatch import translate
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from motley.lab.lab import Device, Link

LOCAL, MISSING = -1, -2  # instead of a link's position


def is_pattern(end: str) -> bool:
    return any(c in end for c in "*?[")


def specific(a: str, b: str) -> tuple[int, int]:
    """The larger, the more specific."""
    ends = (a, b)
    return -sum(map(is_pattern, ends)), sum(len(e) - sum(c in "*?" for c in e) for e in ends)


class Ends:
    """Which devices the end of a link means."""

    def __init__(self, devices: "Sequence[Device]") -> None:
        self._names = [(d.name, d.node) for d in devices]
        self._exact: dict[str, list[int]] = {}
        for i, names in enumerate(self._names):
            for name in dict.fromkeys(names):
                self._exact.setdefault(name, []).append(i)
        self._patterns: dict[str, list[int]] = {}

    def of(self, end: str) -> list[int]:
        """Positions, ascending. A name that is there is never read as a pattern."""
        if end in self._exact or not is_pattern(end):
            return self._exact.get(end, [])
        if end not in self._patterns:
            match = _matcher(end)
            self._patterns[end] = [i for i, names in enumerate(self._names) if any(map(match, names))]
        return self._patterns[end]

    def is_pattern(self, end: str) -> bool:
        return end not in self._exact and is_pattern(end)


@lru_cache
def _matcher(pattern: str) -> Callable[[str], object]:
    return re.compile(translate(pattern)).match


class Joins:
    """`index` [D, D]: the position of the link in the lab's, LOCAL or MISSING. Symmetric."""

    def __init__(self, devices: "Sequence[Device]", links: "Sequence[Link]") -> None:
        self.devices, self.links = devices, links
        self.index = _index(devices, links)
        read = np.array([d.read_gb_s for d in devices])
        rtt = np.array([link.rtt_us for link in links] + [np.inf, 0.0])  # MISSING is last but one, LOCAL is last
        gb_s = np.array([link.gb_s for link in links] + [np.inf, np.inf])
        self.rtt_us: NDArray[np.float64] = rtt[self.index]
        shared = np.maximum(np.minimum(read[:, None], read[None, :]), 1e-9)
        self.gb_s: NDArray[np.float64] = np.where(self.index == LOCAL, shared, gb_s[self.index])

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Pairs that nothing joins, each once."""
        first, second = np.nonzero(np.triu(self.index == MISSING, 1))
        return list(zip(first.tolist(), second.tolist()))


def _index(devices: "Sequence[Device]", links: "Sequence[Link]") -> NDArray[np.int32]:
    ends = Ends(devices)
    nodes = {node: i for i, node in enumerate(dict.fromkeys(d.node for d in devices))}
    node = np.array([nodes[d.node] for d in devices])
    index = np.full((len(devices), len(devices)), MISSING, np.int32)
    loose = [n for n, link in enumerate(links) if ends.is_pattern(link.a) or ends.is_pattern(link.b)]
    for n in sorted(loose, key=lambda n: (specific(links[n].a, links[n].b), -n)):  # what comes later wins
        a, b = ends.of(links[n].a), ends.of(links[n].b)
        index[np.ix_(a, b)] = n
        index[np.ix_(b, a)] = n
    index[node[:, None] == node[None, :]] = LOCAL
    rows: list[int] = []
    columns: list[int] = []
    which: list[int] = []
    given = set(loose)
    for n in range(len(links) - 1, -1, -1):
        if n not in given:
            for x, y in product(ends.of(links[n].a), ends.of(links[n].b)):
                rows += (x, y)
                columns += (y, x)
                which += (n, n)
    index[rows, columns] = which
    np.fill_diagonal(index, LOCAL)
    return index
