"""State: a placement as the search sees it, and its price.

Devices are indices into the lab. For each layer only its home and *how many* experts each device holds are searched
(a Pattern); *which* ones is `deal`'s work, and without a trace all experts are equal. Patterns are sparse, interned and
compared by identity: a lab may have a thousand devices, of which a layer uses a few.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from motley.lab.placement import LayerPlacement, Placement
from motley.plan.deal import Dealer
from motley.plan.field import Field
from motley.predict.cost import CostModel
from motley.predict.device_cost import WorkingSets
from motley.predict.memory import ONE_LAYOUT, Kernels, kernels_of, packed_bytes, work_bytes
from motley.predict.predict import stages

_TRACED_KINDS = 12  # layers that may each be their own
_STAND_INS = 4  # else, for alike ones
_NOTHING = WorkingSets(0.0, 0.0)


@dataclass(frozen=True, eq=False, slots=True)
class Pattern:
    """Of one layer: its home, and the experts on each device that holds some, by device."""

    home: int
    held: tuple[tuple[int, int], ...]

    def on(self, device: int) -> int:
        return next((n for d, n in self.held if d == device), 0)


State = tuple[Pattern, ...]  # a pattern for each layer
Sets = Sequence[WorkingSets]


class Pricer:
    """Milliseconds and memory of states, for one question. `models`: a cost model and how many steps of its workload
    count, for each part of the objective. `may_be_home`: device indices. `repack`: weights take what their repacked
    copies take. `kept_free`: bytes by device that nothing is placed in, unless it could hold all alone."""

    def __init__(
        self,
        models: Sequence[tuple[CostModel, float]],
        context: int,
        slots: int,
        step_tokens: int,
        may_be_home: frozenset[int] | None = None,
        repack: bool = True,
        kept_free: Mapping[int, int] = {},
    ) -> None:
        self.models, self.model = models, models[0][0]
        self.shape, self.devices = self.model.shape, self.model.lab.devices
        shape, layers = self.shape, range(self.shape.n_layers)

        def kept(n_bytes: int, kernels: Kernels) -> int:
            return packed_bytes(shape, n_bytes, kernels) if repack or kernels in ONE_LAYOUT else n_bytes

        # Bytes are those of the device that packs best: of the others less memory counts.
        whole = [kept(shape.n_bytes, kernels_of(d)) for d in self.devices]
        best = kernels_of(self.devices[whole.index(min(whole))])
        held = partial(kept, kernels=best)
        self.n_experts = [shape.experts_in(i) for i in layers]
        self.home_bytes = [held(shape.home_bytes(i)) for i in layers]
        self.expert_bytes = [held(shape.expert_bytes(i)) if self.n_experts[i] else 0 for i in layers]
        self.embed_bytes, self.head_bytes = held(shape.embed_bytes), held(shape.head_bytes)
        self.kv = [slots * ceil(shape.kv_kept_bytes(i, context)) for i in layers]
        self.work = work_bytes(shape, step_tokens, home=True), work_bytes(shape, step_tokens, home=False)
        buffers = self.work[1]
        self.memory = [
            min(d.memory_bytes, buffers) + max(0, d.memory_bytes - buffers) * min(whole) // need
            for d, need in zip(self.devices, whole)
        ]
        alone = self.work[0] + sum(self.kv) + min(whole)
        self.kept_free = {d: n for d, n in kept_free.items() if self.memory[d] < alone}
        for d, n_bytes in self.kept_free.items():
            self.memory[d] = max(0, self.memory[d] - n_bytes)
        homes = range(len(self.devices)) if may_be_home is None else sorted(may_be_home)
        self.homes = [d for d in homes if self.memory[d] > self.work[0]]
        self.kind = self._kinds()
        self.dealer, self.careful = Dealer(models), False
        self._curved = [any(len(k.matvec) > 1 for k in d.kernels) for d in self.devices]
        self._patterns: dict[tuple[int, tuple[tuple[int, int], ...]], Pattern] = {}
        self._ms: dict[object, float] = {}
        self._states: dict[State, float] = {}
        self._hops: dict[tuple[int, int, bool], float] = {}
        self._ends: dict[object, float] = {}

    def pattern(self, home: int, held: Mapping[int, int] | Iterable[tuple[int, int]]) -> Pattern:
        items = tuple(sorted((d, n) for d, n in dict(held).items() if n))
        found = self._patterns.get((home, items))
        if found is None:
            found = self._patterns[home, items] = Pattern(home, items)
        return found

    def moved(self, pattern: Pattern, a: int, b: int, n: int, home: int | None = None) -> Pattern:
        """With n experts from a on b."""
        held = dict(pattern.held)
        held[a] = held.get(a, 0) - n
        held[b] = held.get(b, 0) + n
        return self.pattern(pattern.home if home is None else home, held)

    def _kinds(self) -> list[int]:
        """[layers]: a layer that is interchangeable with it. With a trace every layer is its own; of many, a few stand
        for those that are about as uneven."""
        seen: dict[object, int] = {}
        layers = range(self.shape.n_layers)
        facts = [(self.model.alike(i), self.home_bytes[i], self.expert_bytes[i], self.kv[i]) for i in layers]
        kinds = [seen.setdefault(fact, i) for i, fact in enumerate(facts)]
        routes = self.model.routes
        if routes is None or len(seen) <= _TRACED_KINDS:
            return kinds
        groups: dict[object, list[int]] = {}
        for i in layers:
            groups.setdefault((self.model.alike_untraced(i), *facts[i][1:]), []).append(i)
        for group in groups.values():
            group.sort(key=lambda i: (float((routes.popularity(i) ** 2).sum()), i))
            n = min(len(group), _STAND_INS)
            for part in np.array_split(group, n):
                for i in part.tolist():
                    kinds[i] = int(part[len(part) // 2])
        return kinds

    # -- memory
    def groups(self, state: State) -> Counter[tuple[int, Pattern]]:
        """How often each pattern is used, by kind of layer."""
        return Counter(zip(self.kind, state))

    def weights(self, state: State) -> tuple[dict[int, int], dict[int, int]]:
        """Bytes of home weights and of expert weights on each device."""
        homes, experts = {state[0].home: self.embed_bytes}, dict[int, int]()
        homes[state[-1].home] = homes.get(state[-1].home, 0) + self.head_bytes
        for (kind, pattern), times in self.groups(state).items():
            homes[pattern.home] = homes.get(pattern.home, 0) + times * self.home_bytes[kind]
            size = times * self.expert_bytes[kind]
            for device, n in pattern.held:
                experts[device] = experts.get(device, 0) + n * size
        return homes, experts

    def needs(self, state: State, weights: tuple[dict[int, int], dict[int, int]] | None = None) -> dict[int, int]:
        """Bytes in all on each device in use."""
        homes, experts = weights or self.weights(state)
        needs = {d: n + self.work[1] for d, n in experts.items()}
        for d, n in homes.items():
            needs[d] = n + experts.get(d, 0) + self.work[0]
        for kv, pattern in zip(self.kv, state):
            needs[pattern.home] += kv
        return needs

    @property
    def may_fit(self) -> bool:
        """Whether all memory together would do."""
        experts = sum(n * size for n, size in zip(self.n_experts, self.expert_bytes))
        whole = sum(self.home_bytes) + sum(self.kv) + experts + self.embed_bytes + self.head_bytes
        return whole <= sum(max(0, memory - self.work[1]) for memory in self.memory)

    def missing(self, state: State) -> int:
        """Bytes by which the state exceeds its devices, all together; 0: it fits. Attention where it may not live
        is as bad as having no memory at all."""
        if not self.allowed(state):
            return self.shape.n_bytes
        return sum(max(0, need - self.memory[d]) for d, need in self.needs(state).items())

    # -- time
    def allowed(self, state: State) -> bool:
        """Whether attention lives only where it may."""
        return {p.home for p in state}.issubset(self.homes)

    def ms(self, state: State) -> float:
        """Of the objective's steps; infinite where it does not fit or is not allowed."""
        found = self._states.get(state)
        if found is None:
            found = self._states[state] = self._price(state)
        return found

    def _price(self, state: State) -> float:
        if not self.allowed(state):
            return inf
        weights = self.weights(state)
        if any(need > self.memory[d] for d, need in self.needs(state, weights).items()):
            return inf
        sets = self.sets(*weights)
        total = sum(n * self.layer_ms(kind, pattern, sets) for (kind, pattern), n in self.groups(state).items())
        first, last = state[0].home, state[-1].home
        total += sum(self.hop(first, home, is_last) for home, is_last in stages([p.home for p in state]))
        return total + self.ends_ms(first, last, sets)

    def layer_ms(self, index: int, pattern: Pattern, sets: Sequence[Sets]) -> float:
        """All steps of one layer."""
        kind = self.kind[index]
        devices = [pattern.home, *(d for d, _ in pattern.held)]
        curves = tuple(of[d] for of in sets for d in devices if self._curved[d])
        key = kind, pattern, curves
        found = self._ms.get(key)
        if found is None:
            found = self._ms[key] = self._layer(index, pattern, sets)
        return found

    def _layer(self, index: int, pattern: Pattern, sets: Sequence[Sets]) -> float:
        home, held, total = pattern.home, pattern.held, 0.0
        owner = self.owner(index, pattern, sets) if self.model.routes is not None else None
        for (model, steps), of in zip(self.models, sets):
            if owner is None:
                total += steps * model.counted_ms(index, home, dict(held), of)
            else:
                total += steps * model.layer_ms(index, home, owner, of)
        return total

    def owner(self, index: int, pattern: Pattern, sets: Sequence[Sets]) -> NDArray[np.int64]:
        """[E]: the device of each expert."""
        return self.dealer.owner(index, pattern.home, pattern.held, sets, self.careful)

    def deal_carefully(self) -> None:
        """From now on: prices with better dealt experts, which take longer to find."""
        self.careful = True
        self._ms.clear()
        self._states.clear()

    def hop(self, first: int, home: int, last: bool) -> float:
        found = self._hops.get((first, home, last))
        if found is None:
            found = sum(steps * m.hop(first, home, last) for m, steps in self.models)
            self._hops[first, home, last] = found
        return found

    def ends_ms(self, first: int, last: int, sets: Sequence[Sets]) -> float:
        """Embedding and head, and what a step costs once."""
        key = first, last, tuple((of[first], of[last]) for of in sets)
        found = self._ends.get(key)
        if found is None:
            found = sum(
                steps * (m.output(last, of).ms + m.step(first, of).ms) for (m, steps), of in zip(self.models, sets)
            )
            self._ends[key] = found
        return found

    def sets(self, homes: Mapping[int, int], experts: Mapping[int, int]) -> list[Sets]:
        """What each device reads over and over, for each model. One that reads at any size alike is not asked."""
        found: list[Sets] = []
        for model, _ in self.models:
            of = [_NOTHING] * len(self.devices)
            for d in homes.keys() | experts.keys():
                if self._curved[d]:
                    of[d] = model.working_set(d, homes.get(d, 0), experts.get(d, 0))
            found.append(of)
        return found

    def sets_of(self, state: State) -> list[Sets]:
        return self.sets(*self.weights(state))

    def plain_sets(self) -> list[Sets]:
        """As if every device held the whole model: for prices before a state exists."""
        every = dict.fromkeys(range(len(self.devices)), self.shape.n_bytes)
        return self.sets(every, {})

    # -- what to try
    @cached_property
    def field(self) -> Field:
        return Field(self.models, self.plain_sets())

    def done_ms(self, index: int, home: int, device: int, n: int) -> float:
        """About when a device is done with n of a layer's experts."""
        whole, started = self.field.experts(index).item(device), self.field.exchange.item(home, device)
        return started + whole * n / max(self.n_experts[index], 1)

    def takers(self, index: int, pattern: Pattern, most: int) -> list[int]:
        """Devices that could take experts of a layer, the soonest done first: all of them while they are few."""
        held, home = dict(pattern.held), pattern.home
        more = max(1, self.n_experts[index] // (len(held) + 1))
        done = self.field.exchange[home] + self.field.experts(index) * (more / max(self.n_experts[index], 1))
        for d, n in held.items():
            done[d] = self.done_ms(index, home, d, n)
        order = [int(d) for d in np.argsort(done, kind="stable")]
        if len(order) <= most:
            return order
        holders, others = [d for d in order if d in held], [d for d in order if d not in held]
        return [*others[: most // 2], *holders[: most // 2]]

    def best_homes(self, most: int, without: frozenset[int]) -> list[int]:
        """Devices that may be homes, by how fast they would be: of many, one of each kind before others."""
        soonest = self.field.at_home(0) + self.field.experts(0)
        order = sorted((d for d in self.homes if d not in without), key=lambda d: (soonest[d], d))
        if len(order) <= most:
            return order
        first = {int(self.field.classes[d]): d for d in reversed(order)}
        ahead = sorted(first.values(), key=lambda d: (soonest[d], d))
        return list(dict.fromkeys([*ahead[: most // 2], *order]))[:most]

    # -- out
    def placement(self, state: State) -> Placement:
        names = [d.name for d in self.devices]
        sets = self.sets_of(state)
        layers = []
        for i, pattern in enumerate(state):
            owner = self.owner(i, pattern, sets).tolist()
            layers.append(LayerPlacement(names[pattern.home], tuple(names[d] for d in owner)))
        return Placement(tuple(layers))
