"""Whole states built stage by stage: a home, its nearest devices, as many layers as they hold, then the next home.

The size of a group decides what comes out: 1 splits layers between devices, all devices spread every layer's experts,
an island's number of devices makes an island a stage. Each is cheap to build, so all sizes are tried, each with
groups that share their experts by speed, and with groups that are filled to the brim.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from motley.plan.state import Pattern, Pricer, State

_LOOKED_AT = 6  # homes for the next stage that are looked at closely
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def built(pricer: Pricer) -> Iterator[State]:
    """Group sizes from the largest to one, then fuller groups."""
    for full in (False, True):
        for size in _sizes(len(pricer.devices)):
            for rank in range(2):  # which of the best homes is first
                state = _Building(pricer, size, full).state(rank)
                if state is not None:
                    yield state


def _sizes(most: int) -> list[int]:
    sizes, size = [], 1
    while size < most:
        sizes.append(size)
        size = max(size + 1, size * 3 // 2)
    return [most, *reversed(sizes)]


@dataclass(frozen=True, eq=False)
class _Stage:
    home: int
    patterns: list[Pattern]
    ms: float  # of a layer


class _Building:
    def __init__(self, pricer: Pricer, size: int, full: bool) -> None:
        self._pricer, self._size, self._full = pricer, size, full
        self._free = np.array(pricer.memory, np.float64)  # bytes, buffers included until a device is used
        self._used: set[int] = set()
        self._homes: list[int] = []

    def state(self, rank: int) -> State | None:
        """None where it does not get to the last layer."""
        patterns: list[Pattern] = []
        n = self._pricer.shape.n_layers
        while len(patterns) < n:
            stages = [s for h in self._candidates(len(patterns)) if (s := self._stage(h, len(patterns))).patterns]
            if not stages:
                return None
            stages.sort(key=lambda s: (self._score(s, n - len(patterns)), s.home))
            chosen = stages[min(rank, len(stages) - 1)] if not patterns else stages[0]
            self._take(chosen, len(patterns))
            patterns += chosen.patterns
        return tuple(patterns)

    def _score(self, stage: _Stage, left: int) -> float:
        """Milliseconds of a layer; that few layers fit is as bad as the next hop."""
        first = self._homes[0] if self._homes else stage.home
        return stage.ms + self._pricer.hop(first, stage.home, len(stage.patterns) == left) / len(stage.patterns)

    def _candidates(self, layer: int) -> list[int]:
        """Homes that look fast and whose neighbourhood has room; of alike ones with alike room, one."""
        pricer, field = self._pricer, self._pricer.field
        kind = self._routed(layer)
        size = min(self._size, len(self._free))
        room = np.maximum(self._free - self._pricer.work[1], 0)
        reach = room[field.near(kind, size)].sum(1)
        ms = field.even_ms(kind, size)
        first = self._homes[0] if self._homes else None
        found: dict[tuple[int, int], tuple[float, int]] = {}
        for home in pricer.homes:
            if home in self._homes:
                continue
            hop = 0.0 if first is None else pricer.hop(first, home, False)
            needed = pricer.home_bytes[kind] + pricer.n_experts[kind] * pricer.expert_bytes[kind]
            layers = max(reach[home] / needed, 1e-3)
            key = int(field.classes[home]), round(reach[home])
            score = float(ms[home] + hop / max(layers, 1) + (0 if layers >= 1 else ms[home] / layers))
            found[key] = min(found.get(key, (inf, 0)), (score, home))
        return [home for _, home in sorted(found.values())[:_LOOKED_AT]]

    def _routed(self, layer: int) -> int:
        """The kind of the next layer with experts, if there is one."""
        pricer = self._pricer
        return next((pricer.kind[i] for i in range(layer, len(pricer.kind)) if pricer.n_experts[i]), pricer.kind[layer])

    def _room(self, home: int, devices: Ints, layer: int) -> Floats:
        """Bytes for weights on a group's devices; the first one is the home."""
        pricer = self._pricer
        room = self._free[devices] - [0 if int(d) in self._used else pricer.work[1] for d in devices]
        room[0] -= pricer.work[0] - pricer.work[1]
        room[0] -= 0 if layer else pricer.embed_bytes
        return np.maximum(room, 0)

    def _group(self, home: int, kind: int) -> Ints:
        """The home and the devices that would be done soonest, of those with room."""
        field, size = self._pricer.field, self._pricer.expert_bytes[kind]
        done = field.exchange[home] + field.experts(kind) / self._size
        done[self._free - self._pricer.work[1] < max(size, 1)] = inf
        done[home] = -1.0
        order = np.argsort(done, kind="stable")[: self._size] if self._size < len(done) else np.argsort(done)
        found: Ints = order[done[order] < inf]
        return found

    def _stage(self, home: int, layer: int) -> _Stage:
        """As many layers as the group holds, or holds well."""
        pricer, kind = self._pricer, self._routed(layer)
        devices = self._group(home, kind) if pricer.n_experts[kind] else np.array([home])
        room, left = self._room(home, devices, layer), len(pricer.kind) - layer
        n = self._how_many(kind, home, devices, room, left)
        patterns: list[Pattern] = []
        while n > 0:
            patterns, ms = self._patterns(layer, n, home, devices, room)
            if len(patterns) == n or self._size == 1:
                return _Stage(home, patterns, ms)
            n = len(patterns) if patterns and len(patterns) < n else n - 1
        return _Stage(home, patterns, inf)

    def _how_many(self, kind: int, home: int, devices: Ints, room: Floats, left: int) -> int:
        pricer = self._pricer
        at_home, experts = pricer.home_bytes[kind] + pricer.kv[kind], pricer.n_experts[kind] * pricer.expert_bytes[kind]
        if not experts:
            return int(min(left, room[0] // max(at_home, 1)))
        most = int(min(left, room.sum() // (at_home + experts), room[0] // max(at_home, 1)))
        if self._full or not most:
            return most
        _, share = pricer.field.shares(kind, home, devices, np.ones(len(devices)))
        each = share * experts
        each[0] += at_home
        well = int(min((room[each > 0] / each[each > 0]).min(), left))
        return max(1, min(well, most))

    def _patterns(self, layer: int, n: int, home: int, devices: Ints, room: Floats) -> tuple[list[Pattern], float]:
        """Of up to n layers, until one does not fit; and the time of a layer."""
        pricer, room, found, ms = self._pricer, room.copy(), list[Pattern](), 0.0
        layers = range(layer, min(layer + n, len(pricer.kind)))
        fixed = sum(pricer.home_bytes[i] + pricer.kv[i] for i in layers)
        fixed += pricer.head_bytes if layers[-1] == len(pricer.kind) - 1 else 0
        room[0] -= fixed
        if room[0] < 0:
            return [], inf
        bytes_of = sum(pricer.expert_bytes[i] * pricer.n_experts[i] for i in layers)
        for i in layers:
            counts = np.zeros(len(devices), np.int64)
            if pricer.n_experts[i]:
                done, share = pricer.field.shares(pricer.kind[i], home, devices, np.minimum(room / bytes_of, 1))
                if done == inf:
                    break
                counts = _whole(share, pricer.n_experts[i], room / pricer.expert_bytes[i])
                if counts.sum() < pricer.n_experts[i]:
                    break
                room -= counts * pricer.expert_bytes[i]
                bytes_of -= pricer.expert_bytes[i] * pricer.n_experts[i]
                ms += done
            ms += pricer.field.at_home(pricer.kind[i]).item(home)
            found.append(pricer.pattern(home, zip(devices.tolist(), counts.tolist())))
        return found, ms / max(len(found), 1)

    def _take(self, stage: _Stage, layer: int) -> None:
        pricer = self._pricer
        if stage.home not in self._used:
            self._free[stage.home] -= pricer.work[1]
            self._used.add(stage.home)
        self._free[stage.home] -= pricer.work[0] - pricer.work[1] + (0 if layer else pricer.embed_bytes)
        for i, pattern in enumerate(stage.patterns, layer):
            self._free[stage.home] -= pricer.home_bytes[i] + pricer.kv[i]
            for d, n in pattern.held:
                self._free[d] -= n * pricer.expert_bytes[i] + (0 if d in self._used else pricer.work[1])
                self._used.add(d)
        self._homes.append(stage.home)


def _whole(share: Floats, n: int, most: Floats) -> Ints:
    """Whole experts nearest to their shares, n in all; fewer where `most` does not allow it."""
    most = np.floor(np.maximum(most, 0) + 1e-9)
    counts = np.minimum(np.floor(share * n + 1e-9), most)
    while counts.sum() < n:
        owed = np.where(counts < most, share * n - counts, -inf)
        order = np.argsort(-owed, kind="stable")[: int(n - counts.sum())]
        order = order[owed[order] > -inf]
        if not len(order):
            break
        counts[order] += 1
    return counts.astype(np.int64)
