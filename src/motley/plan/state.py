"""State: a placement as the search sees it, and its price.

Devices are indices into the lab. For each layer only *how many* experts each device holds is searched; *which* ones
follows: the most popular go to the home, the next to the other devices from fast to slow. Without a trace all
experts are equal and nothing is lost by that.
"""

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from motley.lab.lab import Device
from motley.lab.placement import LayerPlacement, Placement
from motley.predict.cost import CostModel
from motley.predict.device_cost import WorkingSets
from motley.predict.memory import kv_bytes, packed_bytes, work_bytes
from motley.predict.predict import stages

Counts = tuple[int, ...]  # experts of one layer on each device


@dataclass(frozen=True)
class State:
    homes: tuple[int, ...]  # [layers]
    counts: tuple[Counts, ...]  # [layers][devices]

    def with_layer(self, index: int, home: int, counts: Counts) -> "State":
        homes, all_counts = list(self.homes), list(self.counts)
        homes[index], all_counts[index] = home, counts
        return State(tuple(homes), tuple(all_counts))


class Pricer:
    """Milliseconds and memory of states, for one question. Remembers layers. `may_be_home`: device indices. `repack`:
    weights take what their repacked copies take."""

    def __init__(
        self,
        model: CostModel,
        context: int,
        slots: int,
        step_tokens: int,
        may_be_home: frozenset[int] | None = None,
        repack: bool = True,
    ) -> None:
        self._may_be_home = may_be_home
        self.model, self.shape, self.devices = model, model.shape, model.lab.devices
        shape, n = self.shape, self.shape.n_layers

        def held(n_bytes: int) -> int:
            return packed_bytes(shape, n_bytes) if repack else n_bytes

        self.home_bytes = [held(shape.home_bytes(i)) for i in range(n)]
        self.expert_bytes = [held(shape.expert_bytes(i)) for i in range(n)]
        self.embed_bytes, self.head_bytes = held(shape.embed_bytes), held(shape.head_bytes)
        self.kv = [kv_bytes(shape, [i], context, slots) for i in range(n)]
        self.work = work_bytes(shape, step_tokens, home=True), work_bytes(shape, step_tokens, home=False)
        self._alike = [model.alike(i) for i in range(n)]
        self._ms: dict[tuple[int, int, Counts, tuple[WorkingSets, ...]], float] = {}
        self._order: dict[int, NDArray[np.int64]] = {}
        speed = {i: _expert_speed(d) for i, d in enumerate(self.devices)}
        self.by_speed = sorted(speed, key=lambda i: -speed[i])
        self.speed = [speed[i] for i in range(len(self.devices))]

    # -- memory
    def weights(self, state: State) -> tuple[list[int], list[int]]:
        """Bytes of home and of expert weights on each device."""
        experts: list[int] = (np.array(self.expert_bytes) @ np.array(state.counts)).tolist()
        homes = [0] * len(self.devices)
        for n_bytes, home in zip(self.home_bytes, state.homes):
            homes[home] += n_bytes
        homes[state.homes[0]] += self.embed_bytes
        homes[state.homes[-1]] += self.head_bytes
        return homes, experts

    def needs(self, state: State, weights: tuple[list[int], list[int]]) -> list[int]:
        """Bytes in all on each device; a device without weights needs nothing."""
        needs = []
        for device, (home, experts) in enumerate(zip(*weights)):
            work = self.work[0] if home else self.work[1]
            used = home + experts
            kept = sum(kv for kv, at in zip(self.kv, state.homes) if at == device)
            needs.append(used + kept + work if used else 0)
        return needs

    def missing(self, state: State) -> int:
        """Bytes by which the state exceeds its devices, all together; 0: it fits. Attention where it may not live
        is as bad as having no memory at all."""
        if not self.allowed(state):
            return self.shape.n_bytes
        needs = self.needs(state, self.weights(state))
        return sum(max(0, need - d.memory_bytes) for need, d in zip(needs, self.devices))

    # -- time
    def allowed(self, state: State) -> bool:
        """Whether attention lives only where it may."""
        return self._may_be_home is None or self._may_be_home.issuperset(state.homes)

    def ms(self, state: State) -> float:
        """Of a step; infinite where it does not fit or is not allowed."""
        if not self.allowed(state):
            return inf
        weights = self.weights(state)
        if any(need > d.memory_bytes for need, d in zip(self.needs(state, weights), self.devices)):
            return inf
        sets = self.model.working_sets(*weights)
        model, homes = self.model, state.homes
        total = sum(self.layer_ms(i, homes[i], state.counts[i], sets) for i in range(len(homes)))
        total += sum(model.hop(homes[0], home, last) for home, last in stages(homes))
        return total + model.output(homes[-1], sets).ms + model.step(homes[0], sets).ms

    def layer_ms(self, index: int, home: int, counts: Counts, sets: tuple[WorkingSets, ...]) -> float:
        key = self._alike[index], home, counts, sets
        found = self._ms.get(key)
        if found is None:
            found = self.model.layer(index, home, self.owner(index, home, counts), sets).ms
            self._ms[key] = found
        return found

    def plain_sets(self) -> tuple[WorkingSets, ...]:
        """As if every device held the whole model: for prices before a state exists."""
        n = len(self.devices)
        return self.model.working_sets([self.shape.n_bytes] * n, [0] * n)

    # -- which experts
    def owner(self, index: int, home: int, counts: Counts) -> NDArray[np.int64]:
        """[E]: the device of each expert."""
        order = [home, *(d for d in self.by_speed if d != home)]
        dealt = np.repeat(order, [counts[d] for d in order])
        owner = np.empty_like(dealt)
        owner[self._popular(index)] = dealt
        return owner

    def _popular(self, index: int) -> NDArray[np.int64]:
        """Experts from most to least chosen."""
        if index not in self._order:
            routes = self.model.routes
            chosen = np.zeros(self.shape.n_experts) if routes is None else routes.popularity(index)
            self._order[index] = np.argsort(-chosen, kind="stable")
        return self._order[index]

    def placement(self, state: State) -> Placement:
        names = [d.name for d in self.devices]
        layers = []
        for i, (home, counts) in enumerate(zip(state.homes, state.counts)):
            owner = self.owner(i, home, counts).tolist()
            layers.append(LayerPlacement(names[home], tuple(names[d] for d in owner)))
        return Placement(tuple(layers))


def _expert_speed(device: Device) -> float:
    """GB/s at which experts are read: what orders devices from fast to slow."""
    return min((k.matvec[-1][1] for k in device.kernels), default=device.read_gb_s)
