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
    """Each group size, from homes that look best; of the best sizes fuller groups too, and another first home."""
    found: dict[int, float] = {}
    for size in _sizes(len(pricer.devices)):
        state = _Building(pricer, size, full=False).state()
        if state is not None:
            found[size] = pricer.ms(state)
            yield state
    for size in sorted(_sizes(len(pricer.devices)), key=lambda size: found.get(size, inf)):
        for rank, full in ((0, True), (1, False), (1, True)):
            state = _Building(pricer, size, full).state(rank)
            if state is not None:
                yield state


def _sizes(most: int) -> list[int]:
    """Powers of two and what lies between them."""
    sizes = [size for k in range(most.bit_length()) for size in (1 << k, 3 << k >> 1)]
    return sorted({1, most, *(size for size in sizes if size <= most)})


@dataclass(frozen=True, eq=False)
class _Stage:
    home: int
    devices: Ints  # the home first
    n: int  # layers, about
    ms: float  # of a layer


class _Building:
    def __init__(self, pricer: Pricer, size: int, full: bool) -> None:
        self._pricer, self._size, self._full = pricer, size, full
        self._free = np.array(pricer.memory, np.float64)  # bytes, buffers included until a device is used
        self._used: set[int] = set()
        self._homes: list[int] = []

    def state(self, rank: int = 0) -> State | None:
        """None where it does not get to the last layer. `rank`: which of the best homes is the first."""
        patterns: list[Pattern] = []
        n = self._pricer.shape.n_layers
        while len(patterns) < n:
            stages = [s for h in self._candidates(len(patterns)) if (s := self._stage(h, len(patterns))).n]
            stages.sort(key=lambda s: (self._score(s, n - len(patterns)), s.home))
            if rank and not patterns:
                stages = stages[min(rank, len(stages) - 1) :]
            for stage in stages:
                if chosen := self._patterns(stage, len(patterns)):
                    self._take(stage.home, chosen, len(patterns))
                    patterns += chosen
                    break
            else:
                return None
        return tuple(patterns)

    def _score(self, stage: _Stage, left: int) -> float:
        """Milliseconds of a layer; that few layers fit is as bad as the next hop."""
        first = self._homes[0] if self._homes else stage.home
        return stage.ms + self._pricer.hop(first, stage.home, stage.n == left) / stage.n

    def _candidates(self, layer: int) -> list[int]:
        """Homes that look fast and whose neighbourhood has room; of alike ones with alike room, one."""
        pricer, field = self._pricer, self._pricer.field
        kind = self._routed(layer)
        size = min(self._size, len(self._free))
        room = np.maximum(self._free - pricer.work[1], 0)
        reach = room[field.near(kind, size)].sum(1)
        needed = pricer.home_bytes[kind] + pricer.n_experts[kind] * pricer.expert_bytes[kind]
        layers = np.maximum(reach / needed, 1e-3)
        score = field.even_ms(kind, size) / np.minimum(layers, 1)
        if self._homes:
            score = score + field.hop(self._homes[0]) / np.maximum(layers, 1)
        open_ = np.isin(np.arange(len(score)), list(set(pricer.homes).difference(self._homes)))
        order = np.argsort(np.where(open_, score, inf), kind="stable")[: int(open_.sum())]
        found: dict[tuple[int, int], int] = {}
        for home in order.tolist():
            found.setdefault((int(field.classes[home]), round(reach[home])), home)
            if len(found) == _LOOKED_AT:
                break
        return list(found.values())

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
        routed = pricer.n_experts[kind] > 0
        devices = self._group(home, kind) if routed else np.array([home])
        room, left = self._room(home, devices, layer), len(pricer.kind) - layer
        at_home, experts = pricer.home_bytes[kind] + pricer.kv[kind], pricer.n_experts[kind] * pricer.expert_bytes[kind]
        n = int(min(left, room.sum() // (at_home + experts), room[0] // max(at_home, 1)))
        ms = pricer.field.at_home(kind).item(home)
        if not n or not routed:
            return _Stage(home, devices, n, ms)
        done, share = pricer.field.shares(kind, home, devices, np.ones(len(devices)))
        each = share * experts
        each[0] += at_home
        well = int(min((room[each > 0] / each[each > 0]).min(), left))
        if not self._full:
            n = max(1, min(well, n))
        if n > well:
            room[0] -= n * at_home
            done, _ = pricer.field.shares(kind, home, devices, np.minimum(np.maximum(room, 0) / (n * experts), 1))
        return _Stage(home, devices, n if done < inf else 0, ms + done)

    def _patterns(self, stage: _Stage, layer: int) -> list[Pattern]:
        """Of up to n layers, until one does not fit."""
        n = min(stage.n + 2, len(self._pricer.kind) - layer) if self._size == 1 else stage.n
        found: list[Pattern] = []
        while n > 0:
            found = self._fitted(stage, layer, n)
            if len(found) == n:
                break
            n = max(len(found), n - 1) if found and len(found) < n - 1 else n - 1
        return found

    def _fitted(self, stage: _Stage, layer: int, n: int) -> list[Pattern]:
        """As many of n layers as fit, one after the other; alike layers alike, while memory allows it."""
        pricer, devices, found = self._pricer, stage.devices, list[Pattern]()
        layers = range(layer, layer + n)
        room = self._room(stage.home, devices, layer)
        room[0] -= sum(pricer.home_bytes[i] + pricer.kv[i] for i in layers)
        room[0] -= pricer.head_bytes if layers[-1] == len(pricer.kind) - 1 else 0
        if room[0] < 0:
            return []
        left = sum(pricer.expert_bytes[i] * pricer.n_experts[i] for i in layers)
        counts, kind, pattern = np.zeros(len(devices), np.int64), -1, pricer.pattern(stage.home, ())
        for i in layers:
            n_experts, size = pricer.n_experts[i], pricer.expert_bytes[i]
            if pricer.kind[i] != kind or (counts * left > room * n_experts).any():
                kind, counts = pricer.kind[i], np.zeros(len(devices), np.int64)
                if n_experts:
                    done, share = pricer.field.shares(kind, stage.home, devices, np.minimum(room / left, 1))
                    if done == inf:
                        break
                    counts = _whole(share, n_experts, room / size)
                    if counts.sum() < n_experts:
                        break
                pattern = pricer.pattern(stage.home, zip(devices.tolist(), counts.tolist()))
            room -= counts * size
            left -= n_experts * size
            found.append(pattern)
        return found

    def _take(self, home: int, patterns: list[Pattern], layer: int) -> None:
        pricer = self._pricer
        if home not in self._used:
            self._free[home] -= pricer.work[1]
            self._used.add(home)
        self._free[home] -= pricer.work[0] - pricer.work[1] + (0 if layer else pricer.embed_bytes)
        for i, pattern in enumerate(patterns, layer):
            self._free[home] -= pricer.home_bytes[i] + pricer.kv[i]
            for d, n in pattern.held:
                self._free[d] -= n * pricer.expert_bytes[i] + (0 if d in self._used else pricer.work[1])
                self._used.add(d)
        self._homes.append(home)


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
