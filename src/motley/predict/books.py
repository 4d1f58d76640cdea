"""Books: a DeviceCost that notes what its milliseconds are for. `explain` puts it under the CostModel that predicts, so
that an explanation cannot differ from the prediction: costs are added and weighted as ever, their items with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from motley.predict.device_cost import FLOATS, GLUE, Cost, DeviceCost, Matrix
from motley.predict.memory import gigabytes


@dataclass(frozen=True)
class Amount:
    """What an item stands for: bytes moved, operations done, calls made, and the milliseconds of it."""

    ms: float = 0.0
    n_bytes: float = 0.0
    operations: float = 0.0
    times: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.ms + other.ms,
            self.n_bytes + other.n_bytes,
            self.operations + other.operations,
            self.times + other.times,
        )

    def __mul__(self, factor: float) -> "Amount":
        return Amount(self.ms * factor, self.n_bytes * factor, self.operations * factor, self.times * factor)


@dataclass(frozen=True)
class Item:
    """A kind of work. `weights`: whether its bytes are the model's. `figure`: what of the device decides its rate."""

    what: str
    limited_by: str
    figure: str
    weights: bool = False


@dataclass(frozen=True)
class Booked(Cost):
    """A cost and what it is made of."""

    items: Mapping[Item, Amount] = field(default_factory=dict)

    def __add__(self, other: Cost) -> "Booked":
        items = dict(self.items)
        for item, amount in (other.items if isinstance(other, Booked) else {}).items():
            items[item] = items[item] + amount if item in items else amount
        return _booked(super().__add__(other), items)

    def __radd__(self, other: Cost) -> "Booked":
        return self + other

    def __mul__(self, factor: float) -> "Booked":
        return _booked(super().__mul__(factor), {item: amount * factor for item, amount in self.items.items()})


def _booked(cost: Cost, items: Mapping[Item, Amount]) -> Booked:
    return Booked(cost.bandwidth, cost.compute, cost.overhead, items)


class BookedCost(DeviceCost):
    """Prices as DeviceCost does; every price carries its item."""

    def matrix(self, weights: Matrix, tokens: float, touched: float = 1.0, expert: bool = False) -> Cost:
        cost = super().matrix(weights, tokens, touched, expert)
        item = Item(f"{weights.quant} weights", cost.limited_by, self._matrix_figure(cost, weights, expert), True)
        amount = Amount(cost.ms, weights.n_bytes * touched, 2.0 * weights.n_params * tokens)
        return _booked(cost, {item: amount} if amount.n_bytes else {})

    def _matrix_figure(self, cost: Cost, weights: Matrix, expert: bool) -> str:
        d, kernel, moving = self._device, self._kernel(weights), cost.limited_by == "bandwidth"
        share = d.expert_share if moving else d.expert_gemm_share
        shared = f" x {'expert_share' if moving else 'expert_gemm_share'} {share:.3g}" if expert and share != 1 else ""
        if kernel is None:
            return ("read_gb_s" if moving else "f32_gflops" if weights.quant in FLOATS else "int8_gops / 2") + shared
        if not moving:
            return f"{kernel.quant} gemm_gops{shared}, after the first token"
        size = self._sets.expert if expert else self._sets.home
        return f"{kernel.quant} matvec" + (f" of {gigabytes(size)}" if size else "") + shared

    def upload(self, n_bytes: float) -> Cost:
        cost = super().upload(n_bytes)
        return _kept(cost, Item("experts' weights, sent here", "bandwidth", "upload_gb_s"), Amount(cost.ms, n_bytes))

    def elements(self, n: float) -> Cost:
        cost = super().elements(n)
        return _kept(cost, Item("element-wise work", "compute", "elements_g_s"), Amount(cost.ms, operations=n))

    def attention(self, kv_bytes: float, operations: float) -> Cost:
        cost, d = super().attention(kv_bytes, operations), self._device
        moving = cost.limited_by == "bandwidth"
        figure = "cache_gb_s" if d.cache_gb_s else "read_gb_s"
        if not moving:
            figure = "attention_gflops" if d.attention_gflops else "f32_gflops"
        return _kept(cost, Item("KV cache, state", cost.limited_by, figure), Amount(cost.ms, kv_bytes, operations))

    def calls(self, threaded: float, single: float) -> Cost:
        cost, d = super().calls(threaded, single), self._device
        every = Amount(threaded * d.op_overhead_us / 1e3, times=threaded)
        one = Amount(single * d.call_us / 1e3, times=single)
        items = {_overhead("calls of all threads", "op_overhead_us"): every, _overhead("small calls", "call_us"): one}
        return _booked(cost, {item: amount for item, amount in items.items() if amount.ms})

    def glue(self, n_ops: float) -> Cost:
        cost = super().glue(n_ops)
        return _kept(cost, _overhead("between two ops", f"{GLUE:g} x call_us"), Amount(cost.ms, times=n_ops))

    def step(self) -> Cost:
        cost = super().step()
        return _kept(cost, _overhead("once a step", "step_us"), Amount(cost.ms, times=1))

    def layer(self, *kind: Any) -> Cost:
        cost, alone = super().layer(*kind), self._device.layer_us
        figure = "layer_us" if 1e3 * cost.ms <= alone * (1 + 1e-9) else "layer_us, and more for its kind"
        return _kept(cost, _overhead("launches of a layer", figure), Amount(cost.ms, times=1))

    def routed(self) -> Cost:
        cost = super().routed()
        return _kept(cost, _overhead("launches of routing", "routed_us"), Amount(cost.ms, times=1))

    def reduce(self, n_bytes: float, times: int) -> Cost:
        cost = super().reduce(n_bytes, times)
        item = _overhead("all-reduces", "reduce_us and bytes / reduce_gb_s")
        return _kept(cost, item, Amount(cost.ms, n_bytes * times, times=times))


def _overhead(what: str, figure: str) -> Item:
    return Item(what, "overhead", figure)


def _kept(cost: Cost, item: Item, amount: Amount) -> Booked:
    return _booked(cost, {item: amount} if cost.ms else {})
