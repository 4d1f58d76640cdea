"""The links as buses: one upright line for each kind of link, a dot where it joins a group of devices.

A lab of n devices has n(n-1)/2 joins; drawn by kind they are a few lines, on a phone too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from motley.lab.lab import Link, shortened
from motley.page.svg import element
from motley.plan.picture.facts import Asked, Group, group_of
from motley.predict.explain import Explanation
from motley.predict.show import number

_MOST = 5  # kinds drawn each for itself; more are put together by transport
WIDTH = 22  # pixels of a bus


@dataclass(frozen=True)
class Bus:
    """Links alike."""

    letter: str
    transport: str
    rtt_us: tuple[float, float]  # least and most
    gb_s: tuple[float, float]
    sources: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]  # of groups; a group with itself where its devices are joined
    exchanges: float  # that a step waits for
    ms: float  # of it

    @property
    def members(self) -> list[int]:
        return sorted({g for pair in self.pairs for g in pair})


def buses(asked: Asked, found: Sequence[Group], explained: Explanation) -> list[Bus]:
    """What a step waits for first. Devices of one machine need no link and have none here."""
    links = asked.lab.links
    kinds = _kinds(links)
    if len(set(kinds)) > _MOST:
        transports = [link.transport for link in links]
        kinds = [transports.index(t) for t in transports]
    pairs = _pairs(asked, found, kinds)
    waits = _waits(asked, explained, kinds)
    order = sorted(pairs, key=lambda k: (-waits.get(k, (0.0, 0.0))[1], k))
    return [
        _bus(letter, [x for x, k in zip(links, kinds) if k == kind], pairs[kind], *waits.get(kind, (0.0, 0.0)))
        for letter, kind in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", order)
    ]


def _kinds(links: Sequence[Link]) -> list[int]:
    seen: dict[object, int] = {}
    return [seen.setdefault((x.transport, x.rtt_us, x.gb_s), len(seen)) for x in links]


def _pairs(asked: Asked, found: Sequence[Group], kinds: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
    """Which groups a kind joins."""
    where = group_of(found)
    group = np.array([where[d.name] for d in asked.lab.devices])
    kind: NDArray[np.int64] = np.array([*kinds, -1, -1])[asked.lab.joins.index]  # LOCAL and MISSING count from the end
    pairs: dict[int, list[tuple[int, int]]] = {}
    for one in sorted(set(kinds)):
        a, b = np.nonzero(np.triu(kind == one, 1))
        both = np.sort(np.column_stack([group[a], group[b]]), axis=1)
        if len(both):
            pairs[one] = [(int(x), int(y)) for x, y in np.unique(both, axis=0)]
    return pairs


def _waits(asked: Asked, explained: Explanation, kinds: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Exchanges and milliseconds of a step, by kind."""
    lab, waits = asked.lab, dict[int, tuple[float, float]]()
    position = {id(link): i for i, link in enumerate(lab.links)}
    for line in explained.links:
        at = position.get(id(lab.link(line.peer, line.device)))
        if at is not None:  # else the two are on one machine
            kind = kinds[at]
            times, ms = waits.get(kind, (0.0, 0.0))
            waits[kind] = times + (line.times if line.figure == "rtt_us" else 0.0), ms + line.ms
    return waits


def _bus(letter: str, links: Sequence[Link], pairs: list[tuple[int, int]], exchanges: float, ms: float) -> Bus:
    rtt, rate = [x.rtt_us for x in links], [x.gb_s for x in links]
    sources = tuple(dict.fromkeys(x.source for x in links))
    return Bus(
        letter,
        links[0].transport,
        (min(rtt), max(rtt)),
        (min(rate), max(rate)),
        sources,
        tuple(pairs),
        exchanges,
        ms,
    )


def gutter(lines: Sequence[Bus], row: int) -> Markup:
    """The piece of every bus beside the row of one group."""
    marks: list[Markup] = []
    for i, bus in enumerate(lines):
        members, x = bus.members, WIDTH * i + WIDTH / 2
        kind = "bus busy" if bus.ms else "bus"
        if members[0] < row <= members[-1]:
            marks.append(element("line", x1=x, x2=x, y1=0, y2="50%", class_=kind))
        if members[0] <= row < members[-1]:
            marks.append(element("line", x1=x, x2=x, y1="50%", y2="100%", class_=kind))
        if row in members:
            marks.append(element("line", x1=x, x2=WIDTH * len(lines) + 8, y1="50%", y2="50%", class_=kind))
            marks.append(element("circle", cx=x, cy="50%", r=4.5, class_=f"tap {kind}"))
    marks.sort(key=lambda mark: mark.startswith("<circle"))  # dots over lines
    return element("svg", *marks, class_="gutter", aria_hidden="true")


def words(bus: Bus) -> str:
    """`tcp, 120 us round trip, 1.1 GB/s`"""
    return f"{bus.transport}, {_range(bus.rtt_us)} us round trip, {_range(bus.gb_s)} GB/s"


def joins(bus: Bus, found: Sequence[Group]) -> str:
    """Which groups, in words."""
    names = [group.name for group in found]
    pairs, members = set(bus.pairs), bus.members
    others = {(a, b) for i, a in enumerate(members) for b in members[i + 1 :]}
    if len(members) == 1:
        return f"{names[members[0]]} among themselves"
    if pairs >= others and len(members) > 2:
        return f"all of {shortened([names[g] for g in members], 6)}"
    for hub in members:
        if len(members) > 2 and all(hub in pair for pair in pairs):
            return f"{names[hub]} to each of {shortened([names[g] for g in members if g != hub], 6)}"
    return shortened([f"{names[a]} – {names[b]}" if a != b else f"{names[a]} among themselves" for a, b in pairs], 6)


def _range(ends: tuple[float, float]) -> str:
    low, high = map(number, ends)
    return low if low == high else f"{low} to {high}"
