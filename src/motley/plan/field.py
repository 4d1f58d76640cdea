"""Field: what each device, and each pair of them, would take for a layer's work, as arrays for the search to sort by.

Estimates that steer; what is found is priced by the cost model. Times are milliseconds of all steps of the objective.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from math import inf

import numpy as np
from numpy.typing import NDArray

from motley.predict.cost import CostModel
from motley.predict.device_cost import WorkingSets

Floats = NDArray[np.float64]
Models = Sequence[tuple[CostModel, float]]
Sets = Sequence[Sequence[WorkingSets]]


class Field:
    def __init__(self, models: Models, sets: Sets) -> None:
        self._models, self._model, self._sets = models, models[0][0], sets
        self.kinds = np.array(self._model.kinds)
        _, self._one_of = np.unique(self.kinds, return_index=True)  # a device of each kind
        self._experts: dict[int, Floats] = {}
        self._at_home: dict[int, Floats] = {}
        self._hops: dict[int, Floats] = {}
        self._even: dict[tuple[int, int], Floats] = {}
        self._near: dict[tuple[int, int], NDArray[np.int64]] = {}

    def experts(self, index: int) -> Floats:
        """[D]: all of a layer's chosen experts on one device."""
        if index not in self._experts:
            self._experts[index] = self._of_kinds(lambda model, d, sets: model.all_experts_ms(index, d, sets))
        return self._experts[index]

    def at_home(self, index: int) -> Floats:
        """[D]: attention, router and all that a layer's home does, without experts."""
        if index not in self._at_home:
            self._at_home[index] = self._of_kinds(lambda model, d, sets: model.at_home_ms(index, d, sets))
        return self._at_home[index]

    def _of_kinds(self, ms: Callable[[CostModel, int, Sequence[WorkingSets]], float]) -> Floats:
        each = np.zeros(len(self._one_of))
        for (model, steps), sets in zip(self._models, self._sets):
            each += [steps * ms(model, d, sets) for d in self._one_of.tolist()]
        found: Floats = each[self.kinds]
        return found

    @cached_property
    def exchange(self) -> Floats:
        """[D, D]: one exchange of activations with experts elsewhere; 0 on the diagonal."""
        return sum((steps * model.exchange_times() for model, steps in self._models), np.zeros(()))

    def hop(self, first: int) -> Floats:
        """[D]: having a stage there, where `first` is the first home."""
        if first not in self._hops:
            self._hops[first] = sum((n * model.hop_times(first) for model, n in self._models), np.zeros(()))
        return self._hops[first]

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """[D]: the first device with equal figures and as many links of each sort: for a reader, the same."""
        rows = np.sort(np.array(self._model.join_kinds), axis=1)
        seen: dict[object, int] = {}
        return np.array([seen.setdefault((k, r.tobytes()), d) for d, (k, r) in enumerate(zip(self.kinds, rows))])

    def near(self, index: int, size: int) -> NDArray[np.int64]:
        """[D, size]: each home and the devices that would be done soonest with a layer's experts among so many."""
        if (index, size) not in self._near:
            done = self.exchange + self.experts(index)[None, :] / size
            np.fill_diagonal(done, -1.0)
            order = np.argpartition(done, size - 1, axis=1)[:, :size] if size < len(done) else np.argsort(done, axis=1)
            self._near[index, size] = order
        return self._near[index, size]

    def even_ms(self, index: int, size: int) -> Floats:
        """[D]: a layer's time at each home with its nearest, if memory does not matter."""
        if (index, size) not in self._even:
            self._even[index, size] = self._evenly(index, size)
        return self._even[index, size]

    def _evenly(self, index: int, size: int) -> Floats:
        near = self.near(index, size)
        start = np.take_along_axis(self.exchange, near, axis=1)
        rate = 1 / np.maximum(self.experts(index)[near], 1e-12)
        low, high = np.zeros(len(near)), self.experts(index).copy()
        for _ in range(30):
            middle = (low + high) / 2
            short = np.maximum((middle[:, None] - start) * rate, 0).sum(1) < 1
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        return self.at_home(index) + high

    def shares(self, index: int, home: int, devices: NDArray[np.int64], most: Floats) -> tuple[float, Floats]:
        """When all are done, and the parts of a layer's experts for `devices` so that all are done then, none with
        more than `most`: [n], adding up to 1. Infinite where they cannot hold all."""
        if most.sum() < 1 - 1e-12:
            return inf, most
        rate, start = 1 / np.maximum(self.experts(index)[devices], 1e-12), self.exchange[home, devices]
        # Each device takes its share at `rate` from `start` on, until it has `most`: where do the sums reach 1?
        times = np.concatenate([start, start + most / rate])
        order = np.argsort(times, kind="stable")
        slopes = np.cumsum(np.concatenate([rate, -rate])[order])
        reached = np.concatenate([[0.0], np.cumsum(slopes[:-1] * np.diff(times[order]))])
        at = max(int(np.searchsorted(reached, 1 - 1e-12)), 1)
        done = float(times[order[at - 1]] + (1 - reached[at - 1]) / max(float(slopes[at - 1]), 1e-12))
        part = np.clip((done - start) * rate, 0, most)
        return done, part / part.sum()
