"""Dealer: which experts each device holds, once it is known how many.

Without a trace all experts are equal. With one, several ways are priced and the fastest is taken: the most chosen at
home; the most chosen on the fastest device; or each, from the most to the least chosen, where it would be done first,
so that the expected load is even. Of few experts every way is tried. `carefully` goes on to exchange pairs of experts
while that helps and time is left.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from math import comb, inf
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from motley.predict.cost import CostModel
from motley.predict.device_cost import WorkingSets

_ALL = 24  # ways that are all tried, a fourth of them where steps of several tokens take longer to price
_GAIN = 1e-9  # relative: below it an exchange is a tie
Held = Sequence[tuple[int, int]]
Models = Sequence[tuple[CostModel, float]]
Sets = Sequence[Sequence[WorkingSets]]
Owner = NDArray[np.int64]


class Dealer:
    """`until`: when careful dealing has to end (`time.monotonic`)."""

    def __init__(self, models: Models) -> None:
        self._models, self._model = models, models[0][0]
        self.until = inf
        self._ranked: dict[int, Owner] = {}
        self._known: dict[object, Owner] = {}

    def owner(self, index: int, home: int, held: Held, sets: Sets, carefully: bool = False) -> Owner:
        """[E]: the device of each expert of layer `index`; empty where it has none."""
        if not held:
            return np.zeros(0, np.int64)
        if self._model.routes is None:
            devices = sorted((d for d, _ in held), key=lambda d: d != home)
            return np.repeat(devices, [dict(held)[d] for d in devices])
        key = index, home, tuple(held), carefully
        found = self._known.get(key)
        if found is None:
            ways = list(self._ways(index, home, held, sets))
            found = min(ways, key=lambda owner: self._ms(index, home, owner, sets))
            if carefully:
                found = self._exchanged(index, home, found, sets)
            self._known[key] = found
        return found

    def _ms(self, index: int, home: int, owner: Owner, sets: Sets) -> float:
        return sum(steps * m.layer_ms(index, home, owner, of) for (m, steps), of in zip(self._models, sets))

    def _ways(self, index: int, home: int, held: Held, sets: Sets) -> Iterator[Owner]:
        counts = dict(held)
        if multinomial(counts.values()) <= (_ALL if self._model.workload.step_tokens == 1 else _ALL // 4):
            yield from _arrangements(counts)
            return
        each = {d: sum(steps * m.expert_ms(index, d, of) for (m, steps), of in zip(self._models, sets)) for d in counts}
        by_speed = sorted(counts, key=lambda d: (each[d], d))
        homely = sorted(by_speed, key=lambda d: d != home)
        yield self._in_turn(index, homely, counts)
        if len(counts) > 1:
            if homely != by_speed:
                yield self._in_turn(index, by_speed, counts)
            yield self._even(index, home, homely, counts, each)

    def _in_turn(self, index: int, devices: list[int], counts: dict[int, int]) -> Owner:
        dealt = np.repeat(devices, [counts[d] for d in devices])
        owner = np.empty_like(dealt)
        owner[self._hot(index)] = dealt
        return owner

    def _even(self, index: int, home: int, devices: list[int], counts: dict[int, int], each: dict[int, float]) -> Owner:
        """The most chosen first, to where it would be done first."""
        assert self._model.routes is not None
        tokens = self._model.workload.step_tokens
        popular = self._model.routes.popularity(index) * tokens
        away = [sum(steps * m.exchange_ms(home, d) for m, steps in self._models) for d in devices]
        done = np.array([0.0 if d == home else ms for d, ms in zip(devices, away)])
        rate, left = np.array([each[d] for d in devices]), np.array([counts[d] for d in devices])
        owner = np.empty(len(popular), np.int64)
        for expert in self._hot(index).tolist():
            at = int((done + popular[expert] * rate).argmin())
            owner[expert] = devices[at]
            done[at] += popular[expert] * rate[at]
            left[at] -= 1
            if not left[at]:
                done[at] = inf
        return owner

    def _exchanged(self, index: int, home: int, owner: Owner, sets: Sets) -> Owner:
        """The most chosen experts against those of other devices, while it helps."""
        best, found = self._ms(index, home, owner, sets), True
        hot = self._hot(index).tolist()
        while found:
            found = False
            for at, first in enumerate(hot):
                for second in hot[at + 1 :]:
                    if owner[first] == owner[second]:
                        continue
                    if monotonic() > self.until:
                        return owner
                    other = owner.copy()
                    other[first], other[second] = owner[second], owner[first]
                    ms = self._ms(index, home, other, sets)
                    if ms < best * (1 - _GAIN):
                        owner, best, found = other, ms, True
        return owner

    def _hot(self, index: int) -> Owner:
        """Experts from most to least chosen."""
        if index not in self._ranked:
            assert self._model.routes is not None
            self._ranked[index] = np.argsort(-self._model.routes.popularity(index), kind="stable")
        return self._ranked[index]


def multinomial(counts: Iterable[int]) -> int:
    """Ways to give so many of all to each."""
    ways, total = 1, 0
    for n in counts:
        total += n
        ways *= comb(total, n)
    return ways


def _arrangements(counts: Mapping[int, int]) -> Iterator[Owner]:
    if len(counts) == 1:
        ((device, n),) = counts.items()
        yield np.full(n, device)
        return
    device, n = next(iter(counts.items()))
    total = sum(counts.values())
    rest = {d: k for d, k in counts.items() if d != device}
    for own in combinations(range(total), n):
        for others in _arrangements(rest):
            owner = np.full(total, device)
            owner[[e for e in range(total) if e not in own]] = others
            yield owner
