"""CostModel: what each layer of a placement takes on a lab's devices. Shared by `predict` and `plan`.

Per layer: the home's attention and router, then the slowest of the home's own experts and, for each other device, the
link's round trip plus the bytes' time plus its experts; averaged over how the chosen experts may fall (`spread`). Then
the stages: each run of layers away from the first home costs a round trip for the activations. Layers are memoised:
most are alike.

What a layer calls is in `_CALLS`, counted in `motley.models.layers`: (ops on all threads, ops on one).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from motley.lab.lab import Lab
from motley.predict.device_cost import Cost, DeviceCost, Matrix, WorkingSets
from motley.predict.routes import Routes
from motley.predict.spread import Spread, traced_spread, uniform_spread
from motley.predict.workload import Workload
from motley.shape.model import ModelShape, Role

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


@dataclass(frozen=True)
class LayerCost:
    """One layer of one step. The parts lie on the critical path and add up."""

    attention: Cost
    router: Cost
    experts: Cost  # the home's own, when they are what the layer waits for
    remote: tuple[tuple[str, Cost], ...]  # others' experts, likewise, by device
    link: tuple[tuple[str, float], ...]  # milliseconds waiting for the link to each device
    python: Cost  # between the home's ops

    @property
    def ms(self) -> float:
        own = self.attention.ms + self.router.ms + self.experts.ms + self.python.ms
        return own + sum(c.ms for _, c in self.remote) + sum(ms for _, ms in self.link)


@dataclass(frozen=True)
class _Parts:
    """A layer's weights by precision; layers with equal parts cost the same."""

    attention: tuple[Matrix, ...]
    router: tuple[Matrix, ...]
    expert: tuple[Matrix, ...]  # one expert's
    qk_norm: bool
    recurrent: bool  # a state instead of a cache


class CostModel:
    """For one workload. Devices are indices into `lab.devices`; an owner is the device of each expert, as bytes or
    16-bit integers."""

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
        self._driver = None if head is None else lab.devices.index(lab.device(head))
        self.shape, self.lab, self.workload, self.routes = shape, lab, workload, routes
        self._parts = [_layer_parts(shape, i) for i in range(shape.n_layers)]
        self._output = _matrices(shape, None, (Role.HEAD,)) or _matrices(shape, None, (Role.EMBED,))
        self._memo: dict[object, LayerCost] = {}
        self._costs: dict[tuple[int, WorkingSets], DeviceCost] = {}
        self._joins = _joins(lab)

    def on(self, lab: Lab) -> "CostModel":
        """The same question of another lab with the same devices."""
        head = None if self._driver is None else lab.devices[self._driver].name
        return CostModel(self.shape, lab, self.workload, self.routes, head)

    def working_sets(self, home_bytes: Sequence[int], expert_bytes: Sequence[int]) -> tuple[WorkingSets, ...]:
        """From the bytes of home and expert weights on each device [D]."""
        touched = self.shape.distinct_experts(self.workload.step_tokens) / self.shape.n_experts
        return tuple(
            WorkingSets.of(d, home, experts, touched)
            for d, home, experts in zip(self.lab.devices, home_bytes, expert_bytes)
        )

    # -- one layer
    def alike(self, index: int) -> int:
        """The first layer that costs what layer `index` costs. With a trace, every layer is its own."""
        return index if self.routes is not None else self._parts.index(self._parts[index])

    def layer(self, index: int, home: int, owner: NDArray[np.int64], sets: Sequence[WorkingSets]) -> LayerCost:
        """`sets` [D]: what each device reads over and over (`working_sets`)."""
        if self.routes is None:  # only the counts matter, and equal layers are equal
            counts = tuple(np.bincount(owner, minlength=len(self.lab.devices)).tolist())
            key: object = (self._parts[index], home, counts, tuple(sets))
        else:
            key = (index, home, owner.tobytes(), tuple(sets))
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._layer(index, home, owner, sets)
        return found

    def _layer(self, index: int, home: int, owner: NDArray[np.int64], sets: Sequence[WorkingSets]) -> LayerCost:
        parts, here = self._parts[index], self._device(home, sets)
        held = np.bincount(owner, minlength=len(self.lab.devices))
        others = sorted(np.flatnonzero(held).tolist(), key=lambda d: -held[d])  # so that names decide nothing
        holders = [home, *(d for d in others if d != home)]
        local = np.array([holders.index(d) for d in owner])
        spread = self._spread(index, local, len(holders))
        attention = self._attention(parts, here)
        router = self._router(parts, here)
        return self._wait(parts, home, holders, spread, sets, attention, router)

    def _attention(self, parts: _Parts, here: DeviceCost) -> Cost:
        s, tokens = self.shape, self.workload.step_tokens
        q, k = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
        per_token = s.d_model * (1 + _INPUT + _ADD) + _INPUT * q + (_ROPE + parts.qk_norm) * (q + k)
        cost = here.calls(*_CALLS["attention"]) + here.elements(per_token * tokens) + self._kv(here)
        cost += here.layer(parts.recurrent) + here.reduce(_REDUCED_BYTES * s.d_model * tokens, _REDUCES)
        if parts.qk_norm:
            cost += here.calls(*_CALLS["qk_norm"])
        return sum((here.matrix(m, tokens) for m in parts.attention), cost)

    def _router(self, parts: _Parts, here: DeviceCost) -> Cost:
        s, tokens = self.shape, self.workload.step_tokens
        cost = here.calls(*_CALLS["router"]) + here.routed()
        cost += here.elements((s.d_model + _CHOICE * s.n_experts) * tokens)
        return sum((here.matrix(m, tokens) for m in parts.router), cost)

    def _wait(
        self,
        parts: _Parts,
        home: int,
        holders: list[int],
        spread: Spread,
        sets: Sequence[WorkingSets],
        attention: Cost,
        router: Cost,
    ) -> LayerCost:
        """The slowest holder in each case of the spread, averaged."""
        costs = [
            [self._experts(parts, d, sets, *case) for case in self._cases(spread, i)] for i, d in enumerate(holders)
        ]
        links = [
            [0.0 if d == home or not pairs else self._exchange(home, d) for _, pairs in self._cases(spread, i)]
            for i, d in enumerate(holders)
        ]
        total = np.array([[c.ms for c in row] for row in costs]) + np.array(links)  # [D, S]
        slowest = total.argmax(0)
        here, s = self._device(home, sets), self.shape
        own = here.calls(*_CALLS["combine"]) + here.elements(_COMBINE * s.d_model * self.workload.step_tokens)
        n_ops = sum(sum(_CALLS[name]) for name in ("attention", "router", "experts", "combine"))
        n_ops += sum(_CALLS["qk_norm"]) * parts.qk_norm + _ROUTING_OPS
        remote: dict[int, Cost] = {}
        link: dict[int, float] = {}
        for case, (i, weight) in enumerate(zip(slowest.tolist(), spread.weight.tolist())):
            device = holders[i]
            if device == home:
                own += costs[i][case] * weight
            else:
                remote[device] = remote.get(device, Cost()) + costs[i][case] * weight
                link[device] = link.get(device, 0.0) + links[i][case] * weight
        names = [d.name for d in self.lab.devices]
        return LayerCost(
            attention,
            router,
            own,
            tuple((names[d], c) for d, c in remote.items()),
            tuple((names[d], ms) for d, ms in link.items()),
            here.glue(n_ops),
        )

    @staticmethod
    def _cases(spread: Spread, holder: int) -> list[tuple[float, float]]:
        return list(zip(spread.distinct[:, holder].tolist(), spread.pairs[:, holder].tolist()))

    def _experts(self, parts: _Parts, device: int, sets: Sequence[WorkingSets], distinct: float, pairs: float) -> Cost:
        """`distinct` experts read, `pairs` (token, expert) products computed."""
        if not pairs:
            return Cost()
        here, s = self._device(device, sets), self.shape
        cost = here.calls(*_CALLS["experts"]) + here.elements(_EXPERT * pairs * (2 * s.d_model + 3 * s.d_expert))
        return sum((here.matrix(m, pairs, distinct, expert=True) for m in parts.expert), cost)

    def _spread(self, index: int, local: NDArray[np.int64], n_holders: int) -> Spread:
        w, used = self.workload, self.shape.n_experts_used
        if self.routes is None:
            counts = tuple(np.bincount(local, minlength=n_holders).tolist())
            return uniform_spread(counts, used, w.step_tokens)
        chosen = self.routes.chosen[:, index]
        return traced_spread(chosen, local, n_holders, w.step_tokens, run=w.kind == "prefill")

    def _kv(self, here: DeviceCost) -> Cost:
        """Attention over the cache: float32 arithmetic, the cache read once for each sequence of a step."""
        s, w = self.shape, self.workload
        sequences = w.batch if w.kind == "decode" else w.step_tokens / w.tokens if w.tokens < w.step_tokens else 1.0
        position = s.kv_bytes_per_token() / s.n_layers
        operations = 4.0 * s.n_heads * s.head_dim * w.mean_depth * w.step_tokens
        return here.attention(position * w.mean_depth * sequences, operations)

    # -- between devices
    def _exchange(self, a: int, b: int) -> float:
        """Send x and the routing, get float64 sums back."""
        s, tokens = self.shape, self.workload.step_tokens
        sent = tokens * (4 * s.d_model + 8 * s.n_experts_used)
        return self._round_trip(a, b, sent + tokens * 8 * s.d_model, _EXCHANGE_OPS)

    def _round_trip(self, a: int, b: int, n_bytes: float, n_ops: int) -> float:
        """Milliseconds. Packing and unpacking is Python on both sides: it costs as much as `n_ops` small ops."""
        rtt_ms, ms_per_byte = self._joins[a][b]
        software_us = sum(d.exchange_us or n_ops * d.call_us for d in (self.lab.devices[a], self.lab.devices[b]))
        return rtt_ms + software_us / 1e3 + n_bytes * ms_per_byte

    def hop(self, first: int, home: int, last: bool) -> float:
        """Milliseconds to have the head process run a stage on `home`: activations there, and activations or logits
        back. Without a head device it is the `first` home's process."""
        driver = first if self._driver is None else self._driver
        if driver == home:
            return 0.0
        s, w = self.shape, self.workload
        rows = w.step_tokens if w.kind == "decode" else w.step_tokens / w.tokens
        back = 4.0 * s.vocab_size * rows if last else 4.0 * s.d_model * w.step_tokens
        return self._round_trip(driver, home, 4.0 * s.d_model * w.step_tokens + back, _STAGE_OPS)

    # -- the ends
    def output(self, home: int, sets: Sequence[WorkingSets]) -> Cost:
        w, here = self.workload, self._device(home, sets)
        rows = w.step_tokens if w.kind == "decode" else min(1.0, w.step_tokens / w.tokens)
        return sum((here.matrix(m, rows) * min(1.0, rows) for m in self._output), here.calls(*_CALLS["head"]))

    def step(self, home: int, sets: Sequence[WorkingSets]) -> Cost:
        """What every step has once: the embedding's lookup, the batch, and Python around them."""
        here = self._device(home, sets)
        return here.calls(*_CALLS["embed"]) + here.glue(_STEP_OPS) + here.step()

    def _device(self, index: int, sets: Sequence[WorkingSets]) -> DeviceCost:
        key = (index, sets[index])
        if key not in self._costs:
            self._costs[key] = DeviceCost(self.lab.devices[index], sets[index])
        return self._costs[key]


def _joins(lab: Lab) -> list[list[tuple[float, float]]]:
    """[a][b] -> (round trip ms, ms per byte). A missing link costs infinitely much."""
    missing = set(lab.missing_links())

    def join(a: str, b: str) -> tuple[float, float]:
        if (a, b) in missing or (b, a) in missing:
            return inf, 0.0
        link = lab.link(a, b)
        return link.rtt_us / 1e3, 1 / link.gb_s / 1e6

    names = [d.name for d in lab.devices]
    return [[join(a, b) for b in names] for a in names]


def _layer_parts(shape: ModelShape, index: int) -> _Parts:
    tensors = [t for t in shape.tensors if t.layer == index]
    experts = _matrices(shape, index, (Role.EXPERT,))
    one = tuple(Matrix(m.quant, m.n_bytes // shape.n_experts, m.n_params // shape.n_experts) for m in experts)
    return _Parts(
        attention=_matrices(shape, index, (Role.ATTENTION, Role.DENSE_FFN, Role.SHARED_EXPERT)),
        router=_matrices(shape, index, (Role.ROUTER,)),
        expert=one,
        qk_norm=any("attn_q_norm" in t.name for t in tensors),
        recurrent=False,
    )


def _matrices(shape: ModelShape, layer: int | None, roles: tuple[Role, ...]) -> tuple[Matrix, ...]:
    """The tensors of these roles, summed by precision."""
    sums: dict[str, tuple[int, int]] = {}
    for t in shape.tensors:
        if t.layer == layer and t.role in roles:
            n_bytes, n_params = sums.get(t.quant.name.lower(), (0, 0))
            sums[t.quant.name.lower()] = (n_bytes + t.n_bytes, n_params + t.n_params)
    return tuple(Matrix(quant, *sizes) for quant, sizes in sums.items())
