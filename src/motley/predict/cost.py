"""CostModel: what each layer of a placement takes on a lab's devices. Shared by `predict` and `plan`.

Per layer: the home's attention and router, then the slowest of the home's own experts and, for each other device, the
link's round trip plus the bytes' time plus its experts; averaged over how the chosen experts may fall (`spread`). Then
the stages: each run of layers away from the first home costs a round trip for the activations. Layers are memoised:
most are alike.

What a layer calls is in `_CALLS`, counted in `motley.models.layers`: (ops on all threads, ops on one).
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from motley.lab.choice import Choice
from motley.lab.joins import LOCAL, MISSING
from motley.lab.lab import Device, Lab
from motley.predict.device_cost import Cost, DeviceCost, Matrix, WorkingSets
from motley.predict.memory import at_once
from motley.predict.routes import Routes
from motley.predict.spread import Draws, Spread, chosen_spread, traced_draws, uniform_draws, uniform_spread
from motley.predict.streaming import LEAST_TOKENS, nearby, waited_for
from motley.predict.workload import Workload
from motley.shape.mixer import ELEMENT_BYTES
from motley.shape.model import Mixer, ModelShape, Role
from motley.shape.tensors import TensorShape

_CALLS = {
    "attention": (3, 4),  # q/k/v, attention, output; norm, two ropes, add
    "qk_norm": (0, 2),
    "router": (1, 1),  # router; norm
    "experts": (1, 0),
    "combine": (0, 1),
    "embed": (0, 1),
    "head": (1, 2),  # output; take, norm
}
_EXCHANGE_OPS = 20  # on each side of an exchange with experts elsewhere: measured beside bare pings, in quiet
_STAGE_OPS = 20  # likewise with a stage elsewhere
_ROUTING_OPS = 3  # counting choices and looking up who holds them, between a layer's router and its experts
_CHOOSING_OPS = 20  # choosing between copies, in calls of a small op: 30 us measured
_SHARED_TOKENS = 1024  # drawn, where experts have copies
_STEP_OPS = 10  # building the batch and walking the stages, in Python's cost of as many ops
_REDUCES = 2  # of a layer split by tensors: after attention and after the experts
_REDUCED_BYTES = 4  # per element: 16-bit activations, out and back
# Element-wise work per element, in units of a norm's: measured in the native engine (motley-8m, long prompts).
_INPUT = 2.7  # rounding a product's input to int8
_ROPE = 1.9
_ADD = 1.1
_CHOICE = 45.0  # softmax and top-k, per expert
_EXPERT = 3.8  # gather, round, silu and float64 sum, per element of an expert's rows
_COMBINE = 4.0

_AT_HOME = (Role.ATTENTION, Role.DENSE_FFN, Role.SHARED_EXPERT)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerCost:
    """One layer of one step. The parts lie on the critical path and add up."""

    attention: Cost
    router: Cost
    experts: Cost  # the home's own, when they are what the layer waits for
    remote: tuple[tuple[str, Cost], ...]  # others' experts, likewise, by device
    link: tuple[tuple[str, float], ...]  # milliseconds waiting for the link to each device
    python: Cost  # between the home's ops
    rows: tuple[str, float] | None = None  # who is waited for with rows of the projections, and milliseconds
    upload: Cost = field(default_factory=Cost)  # bringing weights of others' experts to the home

    @property
    def ms(self) -> float:
        own = self.attention.ms + self.router.ms + self.experts.ms + self.upload.ms + self.python.ms
        own += self.rows[1] if self.rows else 0.0
        return own + sum(c.ms for _, c in self.remote) + sum(ms for _, ms in self.link)


@dataclass(frozen=True)
class Lane:
    """One holder of a layer's experts, on average."""

    device: int
    asked: float  # how often it is asked at all, 0..1
    link_ms: float  # there and back, where it is asked
    experts_ms: float


@dataclass(frozen=True)
class RoundTrip:
    """There and back between two devices, once."""

    rtt_ms: float
    software_ms: float  # of both sides
    n_bytes: float
    ms_per_byte: float

    @property
    def ms(self) -> float:
        return self.rtt_ms + self.software_ms + self.n_bytes * self.ms_per_byte


@dataclass(frozen=True)
class _Parts:
    """A layer's weights by precision; layers with equal parts cost the same."""

    attention: tuple[Matrix, ...]  # all but the projections
    projections: tuple[Matrix, ...]  # q, k and v, where their rows may be split
    router: tuple[Matrix, ...]
    expert: tuple[Matrix, ...]  # one expert's
    qk_norm: bool
    mixer: Mixer


@dataclass(frozen=True, eq=False)
class Shared:
    """A layer's holders where experts have copies: devices, the home first, and how a step chooses between them."""

    devices: list[int]
    choice: Choice


@dataclass(frozen=True, eq=False)
class _Race:
    """A layer's holders of experts against each other: the home first, then the others."""

    holders: list[int]
    weight: NDArray[np.float64]  # [S] of each case
    codes: list[NDArray[np.int64]]  # [holders][S]: which entry of a holder's costs
    costs: list[list[Cost]]
    link_ms: list[float]
    total: NDArray[np.float64]  # [holders, S] milliseconds
    upload: list[Cost]  # of each of the home's costs: bringing others' experts


class CostModel:
    """For one workload. Devices are indices into `lab.devices`; an owner is the device of each expert, an array [E]
    (empty in a layer without experts)."""

    device_cost = DeviceCost  # what prices operations: `explain` puts one in that keeps books

    def __init__(
        self,
        shape: ModelShape,
        lab: Lab,
        workload: Workload,
        routes: Routes | None = None,
        head: str | None = None,
    ) -> None:
        if routes is not None:
            routes.check(shape)
        self.shape, self.workload, self.routes = shape, workload, routes
        self._parts = [_layer_parts(shape, i) for i in range(shape.n_layers)]
        self._part = [self._parts.index(parts) for parts in self._parts]
        read = _matrices(shape, None, (Role.HEAD,)) or _matrices(shape, None, (Role.EMBED,), "token_embd")
        self._output = read + _matrices(shape, None, (Role.ATTENTION,))  # projections outside of all layers
        self._draws: dict[int, Draws] = {}  # of a traced layer
        self._shared: dict[object, Spread] = {}
        self._use(lab, head)

    def _use(self, lab: Lab, head: str | None) -> None:
        self.lab = lab
        self._driver = None if head is None else lab.devices.index(lab.device(head))
        kinds: dict[Device, int] = {}
        self.kinds = [kinds.setdefault(replace(d, name="", node=""), len(kinds)) for d in lab.devices]
        self.join_kinds, self.near = _join_kinds(lab), nearby(self.shape, lab)
        self._memo: dict[object, LayerCost] = {}
        self._races: dict[object, float] = {}
        self._ends: dict[object, float] = {}
        self._works: dict[object, Cost] = {}
        self._tables: dict[object, tuple[list[Cost], Floats]] = {}
        self._exchanges: dict[tuple[int, int, int], float] = {}
        self._costs: dict[tuple[int, WorkingSets], DeviceCost] = {}

    def on(self, lab: Lab) -> "CostModel":
        """The same question of another lab with the same devices."""
        other = copy(self)
        other._use(lab, None if self._driver is None else lab.devices[self._driver].name)
        return other

    def asked(self, workload: Workload) -> "CostModel":
        """Of another workload, without a trace."""
        other = copy(self)
        other.workload, other.routes, other._draws, other._shared = workload, None, {}, {}
        other._use(self.lab, None if self._driver is None else self.lab.devices[self._driver].name)
        return other

    def working_sets(self, home_bytes: Sequence[int], expert_bytes: Sequence[int]) -> tuple[WorkingSets, ...]:
        """From the bytes of home and expert weights on each device [D]."""
        return tuple(map(self.working_set, range(len(self.lab.devices)), home_bytes, expert_bytes))

    def working_set(self, device: int, home_bytes: float, expert_bytes: float) -> WorkingSets:
        """Of one device."""
        touched = self.shape.distinct_experts(self.workload.step_tokens) / max(self.shape.n_experts, 1)
        return WorkingSets.of(self.lab.devices[device], home_bytes, expert_bytes, touched)

    # -- one layer
    def alike(self, index: int) -> int:
        """The first layer that costs what layer `index` costs. With a trace, every layer with experts is its own."""
        return index if self.routes is not None and self._parts[index].expert else self._part[index]

    def alike_untraced(self, index: int) -> int:
        """The first layer of the same parts."""
        return self._part[index]

    def layer(
        self,
        index: int,
        home: int,
        owner: NDArray[np.int64],
        sets: Sequence[WorkingSets],
        shared: Shared | None = None,
        streamed: frozenset[int] = frozenset(),
    ) -> LayerCost:
        """`sets` [D]: what each device reads over and over (`working_sets`). `shared`: where experts have copies;
        then it says who holds what. `streamed`: whose experts the home computes itself."""
        if shared is not None:
            return self._layer(index, home, owner, sets, shared)
        if self.routes is None:  # only the counts matter, and equal layers are equal
            counts = tuple(np.bincount(owner, minlength=len(self.lab.devices)).tolist())
            key: object = (self._part[index], home, counts, tuple(sets), streamed)
        else:
            key = (index, home, owner.tobytes(), tuple(sets), streamed)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._layer(index, home, owner, sets, None, streamed)
        return found

    def layer_ms(self, index: int, home: int, owner: NDArray[np.int64], sets: Sequence[WorkingSets]) -> float:
        """Milliseconds of `layer`, for when many are compared."""
        held = np.bincount(owner) if len(owner) else owner
        holders = self._holders(home, {int(d): int(held[d]) for d in np.flatnonzero(held)})
        return self._ms(index, home, holders, sets, owner)

    def counted_ms(self, index: int, home: int, held: Mapping[int, int], sets: Sequence[WorkingSets]) -> float:
        """Likewise from how many experts each device holds, where there is no trace to tell them apart."""
        return self._ms(index, home, self._holders(home, held), sets, None)

    def _ms(
        self,
        index: int,
        home: int,
        holders: dict[int, int],
        sets: Sequence[WorkingSets],
        owner: NDArray[np.int64] | None,
    ) -> float:
        """Devices of one kind, alike joined, cost the same: that is what is remembered. Where the home may bring
        others' experts, the shorter of both ways."""
        traced = None
        if self.routes is not None and owner is not None:
            traced = index, self._local(holders, owner).tobytes()
        joins, kinds = self.join_kinds[home], self.kinds
        key = (
            self._part[index],
            kinds[home],
            sets[home],
            tuple((n, kinds[d], sets[d].expert, joins[d], d in self.near[home]) for d, n in holders.items()),
            traced,
        )
        found = self._races.get(key)
        if found is None:
            race = self._race(index, home, holders, sets, owner)
            found = self.at_home_ms(index, home, sets) + _race_ms(race)
            if streamed := self.may_stream(home, holders):
                other = self._race(index, home, holders, sets, owner, None, streamed)
                found += min(0.0, _race_ms(other) - _race_ms(race))
            self._races[key] = found
        return found

    def may_stream(self, home: int, holders: Iterable[int]) -> frozenset[int]:
        """Whose experts a home may bring in steps of this size."""
        return self.near[home].intersection(holders) if self.workload.step_tokens >= LEAST_TOKENS else frozenset()

    def at_home_ms(self, index: int, home: int, sets: Sequence[WorkingSets]) -> float:
        """Of a layer, all but its experts and waiting for them."""
        key = self._part[index], self.kinds[home], sets[home]
        found = self._ends.get(key)
        if found is None:
            parts, here = self._parts[index], self._device(home, sets)
            found = self._attention(parts, here).ms + self._python(parts, here).ms
            if parts.expert:
                found += self._router(parts, here).ms + self._combine(here).ms
            self._ends[key] = found
        return found

    def _holders(self, home: int, held: Mapping[int, int]) -> dict[int, int]:
        """The home first, whatever it holds; then from many experts to few, so that names decide nothing."""
        joins, kinds = self.join_kinds[home], self.kinds
        others = sorted((-n, kinds[d], joins[d], d) for d, n in held.items() if n and d != home)
        return {home: held.get(home, 0)} | {d: -n for n, _, _, d in others}

    @staticmethod
    def _local(holders: Mapping[int, int], owner: NDArray[np.int64]) -> NDArray[np.int64]:
        """[E]: each expert's position among the holders."""
        position = np.zeros(max(holders) + 1, np.int64)
        position[list(holders)] = np.arange(len(holders))
        return position[owner]

    def _layer(
        self,
        index: int,
        home: int,
        owner: NDArray[np.int64],
        sets: Sequence[WorkingSets],
        shared: Shared | None = None,
        streamed: frozenset[int] = frozenset(),
    ) -> LayerCost:
        parts, here = self._parts[index], self._device(home, sets)
        held = np.bincount(owner) if len(owner) else owner
        holders = self._holders(home, {int(d): int(held[d]) for d in np.flatnonzero(held)})
        attention, python = self._attention(parts, here), self._python(parts, here)
        if shared is not None:
            holders = dict.fromkeys(shared.devices, 0)
            python += here.calls(0, _CHOOSING_OPS)
        race = self._race(index, home, holders, sets, owner, shared, streamed)
        if race is None:
            return LayerCost(attention, Cost(), Cost(), (), (), python)
        own, upload, remote, link = self._waited(race)
        own += self._combine(here)
        return LayerCost(attention, self._router(parts, here), own, remote, link, python, upload=upload)

    def lanes(
        self,
        index: int,
        home: int,
        owner: NDArray[np.int64],
        sets: Sequence[WorkingSets],
        shared: Shared | None = None,
        streamed: frozenset[int] = frozenset(),
    ) -> "list[Lane]":
        """Of a layer's holders, the home first, on average over the cases: what each does beside the others. None
        ends later, on average, than the layer does; the layer waits for the slowest of each case."""
        held = np.bincount(owner) if len(owner) else owner
        holders = self._holders(home, {int(d): int(held[d]) for d in np.flatnonzero(held)})
        if shared is not None:
            holders = dict.fromkeys(shared.devices, 0)
        race = self._race(index, home, holders, sets, owner, shared, streamed)
        if race is None:
            return []
        found = []
        for i, device in enumerate(race.holders):
            ms = np.array([cost.ms for cost in race.costs[i]])
            if i == 0:
                ms += [upload.ms for upload in race.upload]
            asked = float((ms > 0)[race.codes[i]] @ race.weight)
            found.append(Lane(device, asked, race.link_ms[i] * asked, float(ms[race.codes[i]] @ race.weight)))
        return found

    def _waited(self, race: _Race) -> tuple[Cost, Cost, tuple[tuple[str, Cost], ...], tuple[tuple[str, float], ...]]:
        """The slowest holder in each case, averaged: the home's own experts, bringing weights to it, others' experts
        and waiting for the links."""
        slowest = race.total.argmax(0)
        own, upload, remote, link = Cost(), Cost(), [], []
        for i in np.unique(slowest).tolist():
            which, costs = slowest == i, race.costs[i]
            weights = np.bincount(race.codes[i][which], race.weight[which], len(costs)).tolist()
            cost = sum((c * w for c, w in zip(costs, weights) if w), Cost())
            if i == 0:
                own, upload = cost, sum((c * w for c, w in zip(race.upload, weights) if w), Cost())
            else:
                name = self.lab.devices[race.holders[i]].name
                remote.append((name, cost))
                link.append((name, race.link_ms[i] * sum(w for c, w in zip(costs, weights) if c.ms)))
        return own, upload, tuple(remote), tuple(link)

    def projections(self, index: int, device: int, sets: Sequence[WorkingSets], share: float) -> Cost:
        """Of a layer, or of a `share` of their rows."""
        tokens = self.workload.step_tokens
        return _of_matrices(self._device(device, sets), self._parts[index].projections, tokens, share)

    def in_rows(
        self, index: int, home: int, sets: Sequence[WorkingSets], cost: LayerCost, shares: Mapping[int, float]
    ) -> LayerCost:
        """A layer's `cost`, if its projections are split. `shares` of their rows by device, the home among them. The
        home then waits for the slowest of the others, and packs and unpacks in any case."""
        own = self.projections(index, home, sets, shares[home])
        ready = {d: self.rows_reach(index, home, d, share) for d, share in shares.items() if d != home}
        slowest = max(ready, key=lambda d: ready[d] + self.projections(index, d, sets, shares[d]).ms)
        end = ready[slowest] + self.projections(index, slowest, sets, shares[slowest]).ms
        wait = max(end - own.ms, self.sending_ms(home, len(ready)))
        attention = self._attention(self._parts[index], self._device(home, sets), shares[home])
        return replace(cost, attention=attention, rows=(self.lab.devices[slowest].name, wait))

    def sending_ms(self, home: int, others: int) -> float:
        """What packing and unpacking for so many takes of the home itself."""
        here = self.lab.devices[home]
        return others * (here.exchange_us or _EXCHANGE_OPS * here.call_us) / 1e3

    def rows_reach(self, index: int, home: int, device: int, share: float) -> float:
        """Milliseconds to send what a layer's projections multiply there, and get a `share` of the products back."""
        projections = self.shape.projections(index)
        rows = projections.n_rows if projections else 0
        n_bytes = 4.0 * self.workload.step_tokens * (self.shape.d_model + share * rows)
        return self._round_trip(home, device, n_bytes, _EXCHANGE_OPS).ms

    def _attention(self, parts: _Parts, here: DeviceCost, share: float = 1.0) -> Cost:
        """`share` of the projections' rows."""
        s, tokens = self.shape, self.workload.step_tokens
        q, k = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
        per_token = s.d_model * (1 + _INPUT + _ADD) + _INPUT * q + (_ROPE + parts.qk_norm) * (q + k)
        cost = here.calls(*_CALLS["attention"]) + here.elements(per_token * tokens) + self._kv(parts.mixer, here)
        cost += here.layer(parts.mixer) + here.reduce(_REDUCED_BYTES * s.d_model * tokens, _REDUCES)
        if parts.qk_norm:
            cost += here.calls(*_CALLS["qk_norm"])
        cost += _of_matrices(here, parts.projections, tokens, share)
        return sum((here.matrix(m, tokens) for m in parts.attention), cost)

    def _router(self, parts: _Parts, here: DeviceCost) -> Cost:
        s, tokens = self.shape, self.workload.step_tokens
        cost = here.calls(*_CALLS["router"]) + here.routed()
        cost += here.elements((s.d_model + _CHOICE * s.n_experts) * tokens)
        return sum((here.matrix(m, tokens) for m in parts.router), cost)

    def _combine(self, here: DeviceCost) -> Cost:
        elements = _COMBINE * self.shape.d_model * self.workload.step_tokens
        return here.calls(*_CALLS["combine"]) + here.elements(elements)

    def _python(self, parts: _Parts, here: DeviceCost) -> Cost:
        names = ("attention", "router", "experts", "combine") if parts.expert else ("attention",)
        n_ops = sum(sum(_CALLS[name]) for name in names) + sum(_CALLS["qk_norm"]) * parts.qk_norm
        return here.glue(n_ops + (_ROUTING_OPS if parts.expert else 0))

    def _race(
        self,
        index: int,
        home: int,
        holders: Mapping[int, int],
        sets: Sequence[WorkingSets],
        owner: NDArray[np.int64] | None,
        shared: Shared | None = None,
        streamed: frozenset[int] = frozenset(),
    ) -> _Race | None:
        """None in a layer without experts. `owner` is needed only with a trace. `streamed`: whose experts the home
        computes."""
        if not self._parts[index].expert:
            return None
        spread = self._spread(index, holders, owner) if shared is None else self._shared_spread(index, shared.choice)
        devices = list(holders)
        codes, costs, links = [], [], []
        upload: list[Cost] | None = None
        total = np.empty((len(devices), len(spread.weight)))
        alike = spread.distinct is spread.pairs  # then a holder's cost depends on one number
        counts = spread.pairs.T.astype(np.int64) if alike else None
        for i, device in enumerate(devices):
            exchange = 0.0 if device == home else self.exchange_ms(home, device)
            if streamed and i == 0:
                code, cost, upload = self._bringing(index, home, sets, spread, [d in streamed for d in devices])
                ms = np.array([c.ms + u.ms for c, u in zip(cost, upload)])
            elif device in streamed:
                code, cost, ms = np.zeros(len(spread.weight), np.int64), [Cost()], np.zeros(1)
            elif counts is not None:
                code = counts[i]
                cost, ms = self._expert_costs(index, device, sets)
            else:
                cases, code = self._cases(spread, i)
                cost = [self._experts(index, device, sets, *case) for case in cases]
                ms = np.array([c.ms for c in cost])
            np.take(ms + exchange * (ms > 0), code, out=total[i])
            codes.append(code)
            costs.append(cost)
            links.append(exchange)
        return _Race(devices, spread.weight, codes, costs, links, total, upload or [Cost()] * len(costs[0]))

    def _bringing(
        self, index: int, home: int, sets: Sequence[WorkingSets], spread: Spread, theirs: Sequence[bool]
    ) -> tuple[NDArray[np.int64], list[Cost], list[Cost]]:
        """Where the home computes its own experts (the first holder's) and brings `theirs`: which of its costs each
        case is, those costs, and what waiting for the weights takes with each."""
        which, counted = np.array(theirs), (spread.distinct, spread.pairs)
        columns = [*(c[:, 0] for c in counted), *(c[:, which].sum(1) for c in counted)]
        cases, codes = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
        here, behind = self._device(home, sets), self.lab.devices[home].step_us > 0
        size = sum(m.n_bytes for m in self._parts[index].expert)
        costs, uploads = [], []
        for own, pairs, brought, of_them in cases.tolist():
            n = max(1, ceil(brought / at_once(self.shape, index)))
            work = self._experts(index, home, sets, brought, of_them) + here.calls(*_CALLS["experts"]) * (n - 1)
            work, upload = waited_for(work, here.upload(brought * size), n, behind)
            costs.append(self._experts(index, home, sets, own, pairs) + work)
            uploads.append(upload)
        return codes.reshape(-1), costs, uploads

    @staticmethod
    def _cases(spread: Spread, holder: int) -> tuple[list[tuple[float, float]], NDArray[np.int64]]:
        """Different (distinct, pairs) of one holder, and which of them each case is."""
        distinct, pairs = spread.distinct[:, holder], spread.pairs[:, holder]
        if len(pairs) == 1:  # an expectation: no whole numbers
            return [(float(distinct[0]), float(pairs[0]))], np.zeros(1, np.int64)
        base = int(pairs.max()) + 1
        both, codes = np.unique((distinct * base + pairs).astype(np.int64), return_inverse=True)
        return [(float(n // base), float(n % base)) for n in both.tolist()], codes

    def _expert_costs(self, index: int, device: int, sets: Sequence[WorkingSets]) -> tuple[list[Cost], Floats]:
        """Of 0 to A experts, each for one token."""
        key = self._part[index], self.kinds[device], sets[device]
        found = self._tables.get(key)
        if found is None:
            numbers = map(float, range(self.shape.n_experts_used + 1))
            costs = [self._experts(index, device, sets, n, n) for n in numbers]
            found = self._tables[key] = costs, np.array([c.ms for c in costs])
        return found

    def _experts(self, index: int, device: int, sets: Sequence[WorkingSets], distinct: float, pairs: float) -> Cost:
        """`distinct` experts read, `pairs` (token, expert) products computed."""
        if not pairs:
            return Cost()
        key = self._part[index], self.kinds[device], sets[device], distinct, pairs
        found = self._works.get(key)
        if found is None:
            here, s = self._device(device, sets), self.shape
            found = here.calls(*_CALLS["experts"]) + here.elements(_EXPERT * pairs * (2 * s.d_model + 3 * s.d_expert))
            for m in self._parts[index].expert:
                found += here.matrix(m, pairs, distinct, expert=True)
            self._works[key] = found
        return found

    def _spread(self, index: int, holders: Mapping[int, int], owner: NDArray[np.int64] | None) -> Spread:
        w, used = self.workload, self.shape.n_experts_used
        if self.routes is None or owner is None:
            return uniform_spread(tuple(holders.values()), used, w.step_tokens)
        return self._traced(self.routes, index).on(self._local(holders, owner), len(holders))

    def _traced(self, routes: Routes, index: int) -> Draws:
        if index not in self._draws:
            w, chosen = self.workload, routes.chosen[:, index]
            self._draws[index] = traced_draws(chosen, self.shape.n_experts, w.step_tokens, run=w.kind == "prefill")
        return self._draws[index]

    def _shared_spread(self, index: int, choice: Choice) -> Spread:
        key = index if self.routes else None, choice.key
        found = self._shared.get(key)
        if found is None:
            s, tokens = self.shape, self.workload.step_tokens
            if self.routes is None:
                draws = uniform_draws(max(8, _SHARED_TOKENS // tokens), s.n_experts, s.n_experts_used, tokens)
            else:
                draws = self._traced(self.routes, index)
            found = self._shared[key] = chosen_spread(draws, choice)
        return found

    def _kv(self, mixer: Mixer, here: DeviceCost) -> Cost:
        """Attention over the cache: float32 arithmetic, the cache read once for each sequence of a step."""
        w = self.workload
        sequences = w.batch if w.kind == "decode" else w.step_tokens / w.tokens if w.tokens < w.step_tokens else 1.0
        operations = mixer.operations(w.mean_depth, w.kind == "prefill") * w.step_tokens
        read = mixer.bytes_read(w.mean_depth, ELEMENT_BYTES[self.shape.cache])
        return here.attention(read * sequences, operations)

    def expert_ms(self, index: int, device: int, sets: Sequence[WorkingSets]) -> float:
        """Milliseconds that one more expert takes, beside the first."""
        one, two = (self._experts(index, device, sets, n, n).ms for n in (1.0, 2.0))
        return two - one

    def token_ms(self, index: int, device: int, sets: Sequence[WorkingSets]) -> float:
        """Milliseconds that one more token of the same expert takes, once arithmetic is what counts."""
        few, many = (self._experts(index, device, sets, 1.0, n).ms for n in (16.0, 32.0))
        return (many - few) / 16

    def all_experts_ms(self, index: int, device: int, sets: Sequence[WorkingSets]) -> float:
        """Milliseconds of a layer's chosen experts, were they all on one device."""
        if not self._parts[index].expert:
            return 0.0
        tokens = self.workload.step_tokens
        return self._experts(
            index, device, sets, self.shape.distinct_experts(tokens), float(tokens * self.shape.n_experts_used)
        ).ms

    # -- between devices
    def exchange_ms(self, home: int, device: int) -> float:
        """Of one exchange of a layer's activations."""
        key = self.kinds[home], self.kinds[device], self.join_kinds[home][device]
        found = self._exchanges.get(key)
        if found is None:
            found = self._exchanges[key] = float(self.exchange(home, device).ms)
        return found

    def exchange_times(self) -> Floats:
        """[D, D]: `exchange_ms` of all pairs; 0 on the diagonal."""
        return self._round_trips(np.arange(len(self.kinds)), self._exchanged_bytes(), _EXCHANGE_OPS)

    def hop_times(self, first: int) -> Floats:
        """[D]: `hop` to each device, not the last stage's."""
        driver = first if self._driver is None else self._driver
        return self._round_trips(np.array([driver]), self._staged_bytes(last=False), _STAGE_OPS).ravel()

    def _round_trips(self, rows: NDArray[np.int64], n_bytes: float, n_ops: int) -> Floats:
        """[rows, D]: milliseconds of `_round_trip`."""
        joins, software = self.lab.joins, np.array([d.exchange_us or n_ops * d.call_us for d in self.lab.devices])
        found: Floats = (joins.rtt_us[rows] + software[rows][:, None] + software[None, :]) / 1e3
        found += n_bytes * 1e-6 / joins.gb_s[rows]
        found[np.arange(len(rows)), rows] = 0.0
        return found

    def _exchanged_bytes(self) -> float:
        """x and the routing there, float64 sums back."""
        s, tokens = self.shape, self.workload.step_tokens
        return tokens * (4 * s.d_model + 8 * s.n_experts_used) + tokens * 8 * s.d_model

    def _staged_bytes(self, last: bool) -> float:
        """Activations there, activations or logits back."""
        s, w = self.shape, self.workload
        rows = w.step_tokens if w.kind == "decode" else w.step_tokens / w.tokens
        there = 4.0 * s.d_model * w.step_tokens
        return there + (4.0 * s.vocab_size * rows if last else there)

    def exchange(self, a: int, b: int) -> RoundTrip:
        """Send x and the routing, get float64 sums back."""
        return self._round_trip(a, b, self._exchanged_bytes(), _EXCHANGE_OPS)

    def _round_trip(self, a: int, b: int, n_bytes: float, n_ops: int) -> RoundTrip:
        """Packing and unpacking is Python on both sides: it costs as much as `n_ops` small ops."""
        rtt_ms, ms_per_byte = self.lab.joins.rtt_us.item(a, b) / 1e3, 1e-6 / self.lab.joins.gb_s.item(a, b)
        software_us = sum(d.exchange_us or n_ops * d.call_us for d in (self.lab.devices[a], self.lab.devices[b]))
        return RoundTrip(rtt_ms, software_us / 1e3, n_bytes, ms_per_byte)

    def hop(self, first: int, home: int, last: bool) -> float:
        """Milliseconds to have the head process run a stage on `home`."""
        trip = self.stage_trip(first, home, last)
        return trip.ms if trip else 0.0

    def _drives(self, first: int) -> int:
        return first if self._driver is None else self._driver

    def driver(self, first: int) -> str:
        """The device whose process drives the steps: the head's, or the `first` home."""
        return self.lab.devices[self._drives(first)].name

    def stage_trip(self, first: int, home: int, last: bool) -> RoundTrip | None:
        """Activations there, and activations or logits back; None where the head process has the stage itself.
        Without a head device it is the `first` home's process."""
        driver = self._drives(first)
        if driver == home:
            return None
        return self._round_trip(driver, home, self._staged_bytes(last), _STAGE_OPS)

    # -- the ends
    def output(self, home: int, sets: Sequence[WorkingSets], share: float = 1.0) -> Cost:
        """Of the output matrix, or a `share` of its rows."""
        here, rows = self._device(home, sets), self._output_rows()
        parts = [replace(m, n_bytes=int(m.n_bytes * share), n_params=int(m.n_params * share)) for m in self._output]
        return sum((here.matrix(m, rows) * min(1.0, rows) for m in parts), here.calls(*_CALLS["head"]))

    def _output_rows(self) -> float:
        w = self.workload
        return w.step_tokens if w.kind == "decode" else min(1.0, w.step_tokens / w.tokens)

    def head_exchange(self, home: int, device: int, share: float) -> float:
        """Milliseconds to send activations there, and get a `share` of the logits back."""
        n_bytes = 4.0 * self._output_rows() * (self.shape.d_model + share * self.shape.vocab_size)
        return self._round_trip(home, device, n_bytes, _EXCHANGE_OPS).ms

    def step(self, home: int, sets: Sequence[WorkingSets]) -> Cost:
        """What every step has once: the embedding's lookup, the batch, and Python around them."""
        here = self._device(home, sets)
        return here.calls(*_CALLS["embed"]) + here.glue(_STEP_OPS) + here.step()

    def _device(self, index: int, sets: Sequence[WorkingSets]) -> DeviceCost:
        key = (self.kinds[index], sets[index])
        if key not in self._costs:
            self._costs[key] = self.device_cost(self.lab.devices[index], sets[index])
        return self._costs[key]


def _race_ms(race: _Race | None) -> float:
    return float(race.total.max(0) @ race.weight) if race else 0.0


def _join_kinds(lab: Lab) -> list[list[int]]:
    """[D][D]: joins with equal numbers cost the same between devices of the same kinds."""
    figures: dict[tuple[float, float], int] = {}
    kinds = [figures.setdefault((link.rtt_us, link.gb_s), len(figures)) for link in lab.links]
    found: list[list[int]] = np.array([*kinds, MISSING, LOCAL])[lab.joins.index].tolist()
    return found


def _of_matrices(here: DeviceCost, matrices: Sequence[Matrix], tokens: float, share: float) -> Cost:
    parts = [replace(m, n_bytes=int(m.n_bytes * share), n_params=int(m.n_params * share)) for m in matrices]
    return sum((here.matrix(m, tokens) for m in parts if m.n_params), Cost())


def _layer_parts(shape: ModelShape, index: int) -> _Parts:
    tensors = [t for t in shape.tensors if t.layer == index]
    experts = _matrices(shape, index, (Role.EXPERT,))
    projections = shape.projections(index)
    rows = _summed(projections.tensors if projections else ())
    at_home = _summed(t for t in tensors if t.role in _AT_HOME and not (projections and t in projections.tensors))
    one = tuple(Matrix(m.quant, m.n_bytes // shape.n_experts, m.n_params // shape.n_experts) for m in experts)
    return _Parts(
        attention=at_home,
        projections=rows,
        router=_matrices(shape, index, (Role.ROUTER,)),
        expert=one,
        qk_norm=any("attn_q_norm" in t.name for t in tensors),
        mixer=shape.mixers[index],
    )


def _matrices(shape: ModelShape, layer: int | None, roles: tuple[Role, ...], start: str = "") -> tuple[Matrix, ...]:
    """The tensors of these roles, summed by precision. `start`: only those whose names begin so."""
    return _summed(t for t in shape.tensors if t.layer == layer and t.role in roles and t.name.startswith(start))


def _summed(tensors: Iterable[TensorShape]) -> tuple[Matrix, ...]:
    sums: dict[str, tuple[int, int]] = {}
    for t in tensors:
        n_bytes, n_params = sums.get(t.quant.name.lower(), (0, 0))
        sums[t.quant.name.lower()] = (n_bytes + t.n_bytes, n_params + t.n_params)
    return tuple(Matrix(quant, *sizes) for quant, sizes in sums.items())
