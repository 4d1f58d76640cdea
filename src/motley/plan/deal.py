"""Dealer: which experts each device holds, once it is known how many.

Without a trace all experts are equal. With one, several ways are priced and the fastest is taken: the most chosen at
home; the most chosen on the fastest device; or each, from the most to the least chosen, where it would be done first,
so that the expected load is even. `carefully` goes on to exchange pairs of experts while that helps.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from motley.predict.cost import CostModel
from motley.predict.device_cost import WorkingSets

_MANY = 40_000  # (expert, device) pairs beyond which even loads are not tried while searching
_SWAPS = 400  # exchanges of two experts that are tried in a layer
Held = Sequence[tuple[int, int]]


class Dealer:
    def __init__(self, model: CostModel) -> None:
        self._model = model
        self._ranked: dict[int, NDArray[np.int64]] = {}
        self._known: dict[object, NDArray[np.int64]] = {}

    def owner(
        self, index: int, home: int, held: Held, sets: Sequence[WorkingSets], carefully: bool = False
    ) -> NDArray[np.int64]:
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
            found = min(ways, key=lambda owner: self._model.layer_ms(index, home, owner, sets))
            if carefully:
                found = self._exchanged(index, home, found, sets)
            self._known[key] = found
        return found

    def _ways(self, index: int, home: int, held: Held, sets: Sequence[WorkingSets]) -> Iterator[NDArray[np.int64]]:
        counts = dict(held)
        each = {d: self._model.expert_ms(index, d, sets) for d in counts}
        by_speed = sorted(counts, key=lambda d: (each[d], d))
        homely = sorted(by_speed, key=lambda d: d != home)
        yield self._in_turn(index, homely, counts)
        if len(counts) == 1:
            return
        if homely != by_speed:
            yield self._in_turn(index, by_speed, counts)
        if len(counts) * self._model.shape.n_experts <= _MANY:
            yield self._even(index, home, homely, counts, each)

    def _in_turn(self, index: int, devices: list[int], counts: dict[int, int]) -> NDArray[np.int64]:
        dealt = np.repeat(devices, [counts[d] for d in devices])
        owner = np.empty_like(dealt)
        owner[self._hot(index)] = dealt
        return owner

    def _even(
        self, index: int, home: int, devices: list[int], counts: dict[int, int], each: dict[int, float]
    ) -> NDArray[np.int64]:
        """Longest first, to where it would be done first."""
        assert self._model.routes is not None
        popular = self._model.routes.popularity(index)
        done = np.array([0.0 if d == home else self._model.exchange_ms(home, d) for d in devices])
        rate, left = np.array([each[d] for d in devices]), np.array([counts[d] for d in devices])
        owner = np.empty(len(popular), np.int64)
        for expert in self._hot(index).tolist():
            at = int((done + popular[expert] * rate).argmin())
            owner[expert] = devices[at]
            done[at] += popular[expert] * rate[at]
            left[at] -= 1
            if not left[at]:
                done[at] = np.inf
        return owner

    def _exchanged(
        self, index: int, home: int, owner: NDArray[np.int64], sets: Sequence[WorkingSets]
    ) -> NDArray[np.int64]:
        """The most chosen experts against those of other devices, while it helps."""
        best = self._model.layer_ms(index, home, owner, sets)
        hot, tried, found = self._hot(index).tolist(), 0, True
        while found and tried < _SWAPS:
            found = False
            for first in hot:
                for second in hot:
                    if owner[first] == owner[second] or first > second or tried >= _SWAPS:
                        continue
                    tried += 1
                    other = owner.copy()
                    other[first], other[second] = owner[second], owner[first]
                    ms = self._model.layer_ms(index, home, other, sets)
                    if ms < best * (1 - 1e-9):
                        owner, best, found = other, ms, True
        return owner

    def _hot(self, index: int) -> NDArray[np.int64]:
        """Experts from most to least chosen."""
        if index not in self._ranked:
            assert self._model.routes is not None
            self._ranked[index] = np.argsort(-self._model.routes.popularity(index), kind="stable")
        return self._ranked[index]
