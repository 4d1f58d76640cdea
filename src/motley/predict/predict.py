"""predict: how fast a placement will run, with an interval and the terms of the sum.

Pure: a shape, a lab, a placement and a workload in, a Prediction out. Reads no weights, touches no device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, hypot

import numpy as np
from numpy.typing import NDArray

from motley.errors import UsageError
from motley.lab.choice import Choice
from motley.lab.lab import Lab
from motley.lab.placement import LayerPlacement, Placement, RowsPart
from motley.predict.cost import CostModel, LayerCost, Shared
from motley.predict.device_cost import Cost, WorkingSets
from motley.predict.memory import Weights, check_fits, memory_needed, weights_on
from motley.predict.routes import Routes
from motley.predict.streaming import MOST_REMEMBERED_TOKENS, nearby
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

# Relative spread of measured speeds around a prediction, as the sigma of a lognormal: of a machine probed here and now;
# of figures that somebody wrote into a lab; of waiting for links. Devices of the catalogue bring their own, from
# published measurements (lab.profile).
_SIGMA_MEASURED = 0.12
_SIGMA_CATALOGUE = 0.30
_SIGMA_LINK = 0.50
Z90 = 1.2816  # a tenth of a normal distribution lies beyond


@dataclass(frozen=True)
class Term:
    """A part of a step. `name`: attention, router, experts, upload, link, head or python."""

    name: str
    device: str
    ms: float
    limited_by: str  # "bandwidth", "compute", "overhead" or "link"


@dataclass(frozen=True)
class Prediction:
    """Tokens per second of the whole batch: 10 %, 50 % and 90 % of measurements are expected below."""

    workload: Workload
    p10: float
    p50: float
    p90: float
    ms_per_step: float
    terms: tuple[Term, ...]  # they add up to ms_per_step

    def share(self, name: str) -> float:
        """Part of a step's time spent in the terms called `name`, 0..1."""
        return sum(t.ms for t in self.terms if t.name == name) / self.ms_per_step

    @property
    def largest(self) -> Term:
        return max(self.terms, key=lambda t: t.ms)


def predict(
    shape: ModelShape,
    lab: Lab,
    placement: Placement,
    workload: Workload,
    routes: Routes | None = None,
    head: str | None = None,
) -> Prediction:
    """`head`: the device whose process drives the steps (default: the first home, so that stages elsewhere are the
    others). Raises CapacityError where the placement does not fit (never predicted), UsageError where it does not
    match the shape or the lab."""
    check_placement(shape, lab, placement)
    check_fits(lab, memory_needed(shape, placement, workload.context, workload.batch, workload.chunk))
    return price(CostModel(shape, lab, workload, routes, head), placement)


def check_placement(shape: ModelShape, lab: Lab, placement: Placement) -> None:
    if len(placement.layers) != shape.n_layers:
        raise UsageError(f"the placement has {len(placement.layers)} layers, {shape.name} has {shape.n_layers}")
    known = {d.name for d in lab.devices}
    for i, layer in enumerate(placement.layers):
        if len(layer.experts) != shape.experts_in(i):
            raise UsageError(f"layer {i} places {len(layer.experts)} experts of {shape.experts_in(i)}")
        _check_copies(i, layer)
        if unknown := {layer.home, *layer.holders} - known:
            raise UsageError(f"layer {i} is placed on {', '.join(sorted(unknown))}, which the lab does not have")
        if layer.projections:
            projections = shape.projections(i)
            if projections is None:
                raise UsageError(f"layer {i} has no q, k and v projections to split by rows")
            _check_rows(f"layer {i}'s projections", layer.projections, projections.n_rows, layer.home, known)
    _check_streaming(shape, lab, placement)
    if placement.head:
        _check_rows("the head", placement.head, shape.vocab_size, placement.layers[-1].home, known)
    homes = [layer.home for layer in placement.layers]
    runs = [home for i, home in enumerate(homes) if i == 0 or homes[i - 1] != home]
    for home in runs:
        if runs.count(home) > 1:
            raise UsageError(f"the layers at home on {home} are not contiguous: give each device one run of layers")


def price(model: CostModel, placement: Placement) -> Prediction:
    """The placement's time, whether it fits or not."""
    return _prediction(model, summed(model, placement).terms())


def summed(model: CostModel, placement: Placement) -> "Sums":
    """A step's costs by term and device."""
    lab, sums = model.lab, Sums()
    layers, homes, sets = layer_costs(model, placement)
    for layer, cost in zip(placement.layers, layers):
        sums.layer(layer.home, cost)
    for stage_home, last in stages(homes):
        sums.add("link", lab.devices[stage_home].name, Cost(), model.hop(homes[0], stage_home, last))
    own, waits = head_costs(model, placement, homes[-1], sets)
    sums.add("head", placement.layers[-1].home, own)
    for device, ms in waits:
        sums.add("link", device, Cost(), ms)
    sums.add("python", placement.layers[0].home, model.step(homes[0], sets))
    return sums


def head_costs(
    model: CostModel, placement: Placement, home: int, sets: Sequence[WorkingSets]
) -> tuple[Cost, list[tuple[str, float]]]:
    """At the last layer's home, and how long it then waits for the slowest of the others with rows, if it does."""
    if not placement.head:
        return model.output(home, sets), []
    names = [d.name for d in model.lab.devices]
    shares = {p.device: (p.end - p.first) / model.shape.vocab_size for p in placement.head}
    own = model.output(home, sets, shares.pop(names[home], 0.0))
    others = {d: model.head_exchange(home, i, s) + model.output(i, sets, s).ms for d, i, s in _indexed(shares, names)}
    slowest = max(others, key=lambda d: others[d], default="")
    waits = [(slowest, others[slowest] - own.ms)] if slowest and others[slowest] > own.ms else []
    return own, waits


def _indexed(shares: Mapping[str, float], names: Sequence[str]) -> list[tuple[str, int, float]]:
    return [(device, names.index(device), share) for device, share in shares.items()]


def _check_rows(what: str, parts: Sequence[RowsPart], n_rows: int, home: str, known: set[str]) -> None:
    at = 0
    for part in parts:
        if part.first != at or part.end <= part.first or part.device not in known:
            raise UsageError(
                f"rows {part.first} to {part.end} of {what} on {part.device}: parts must follow each other from row 0, "
                "on devices of the lab"
            )
        at = part.end
    devices = [part.device for part in parts]
    if at != n_rows or devices[0] != home:
        raise UsageError(f"the parts of {what} must cover {n_rows} rows, those of {home}, its home, first")
    if len({*devices}) < len(devices):
        raise UsageError(f"a device has two parts of {what}: {', '.join(devices)}")


def _check_copies(index: int, layer: LayerPlacement) -> None:
    for expert, device in layer.copies:
        if not 0 <= expert < len(layer.experts) or layer.experts[expert] == device:
            raise UsageError(f"layer {index} has a copy of expert {expert} on {device}: no such expert, or it is there")
    paced = [pace.device for pace in layer.paces]
    if layer.copies and (paced[:1] != [layer.home] or not {*layer.holders} <= {*paced} or len({*paced}) < len(paced)):
        raise UsageError(f"layer {index} has copies: paces must name the home first, then every other holder, once")


def _check_streaming(shape: ModelShape, lab: Lab, placement: Placement) -> None:
    streaming = [(i, layer, layer.streaming) for i, layer in enumerate(placement.layers) if layer.streaming]
    near = {d.name: found for d, found in zip(lab.devices, nearby(shape, lab))} if streaming else {}
    for i, layer, found in streaming:
        what = f"layer {i} brings {found.at_once} experts at a time of {', '.join(found.devices)} to {layer.home}"
        if not {*found.devices} <= {*layer.holders} - {layer.home} or found.at_once < 1 or layer.copies:
            raise UsageError(f"{what}: they must be other holders of its experts, without copies")
        if not {*found.devices} <= {lab.devices[d].name for d in near[layer.home]}:
            raise UsageError(
                f"{what}: it may bring those of its node's processors, if its upload_gb_s is known and it keeps the "
                "bytes of the file"
            )
        if found.tokens <= MOST_REMEMBERED_TOKENS:
            raise UsageError(
                f"{what} in steps of {found.tokens} tokens: give more than {MOST_REMEMBERED_TOKENS}, as smaller ones "
                "may run from memory"
            )


def layer_costs(model: CostModel, placement: Placement) -> tuple[list[LayerCost], list[int], tuple[WorkingSets, ...]]:
    """Each layer's cost and home, and what each device reads over and over."""
    lab, shape = model.lab, model.shape
    index = {d.name: i for i, d in enumerate(lab.devices)}
    weights = weights_on(shape, placement)
    held = [weights.get(d.name, Weights()) for d in lab.devices]
    sets = model.working_sets([w.home for w in held], [w.experts for w in held])
    homes = [index[layer.home] for layer in placement.layers]
    holders = owners(placement, index)
    found = []
    for i, (home, layer) in enumerate(zip(homes, placement.layers)):
        shared = shared_of(layer, index) if layer.copies else None
        cost = model.layer(i, home, holders[i], sets, shared, streamed_in(model, layer, index))
        if len(layer.projections) > 1:  # a single part is all of them, at home
            n_rows = layer.projections[-1].end
            shares = {index[part.device]: (part.end - part.first) / n_rows for part in layer.projections}
            cost = model.in_rows(i, home, sets, cost, shares)
        found.append(cost)
    return found, homes, sets


def streamed_in(model: CostModel, layer: LayerPlacement, index: Mapping[str, int]) -> frozenset[int]:
    """Whose experts a step of the model's workload brings to the layer's home."""
    found = layer.streaming
    if found is None or model.workload.step_tokens < found.tokens:
        return frozenset()
    return frozenset(index[d] for d in found.devices)


def shared_of(layer: LayerPlacement, index: Mapping[str, int]) -> Shared:
    """Of a layer with copies. `index` of each device."""
    devices = [index[pace.device] for pace in layer.paces]
    return Shared(devices, Choice.of(layer))


def stages(homes: Sequence[int]) -> list[tuple[int, bool]]:
    """Runs of layers with one home: (home, whether it is the last run)."""
    starts = [i for i in range(len(homes)) if i == 0 or homes[i] != homes[i - 1]]
    return [(homes[i], i == starts[-1]) for i in starts]


def owners(placement: Placement, index: dict[str, int]) -> list[NDArray[np.int64]]:
    """By layer, the device of each expert, by `index`."""
    seen: dict[tuple[str, ...], NDArray[np.int64]] = {}
    for layer in placement.layers:
        if layer.experts not in seen:
            seen[layer.experts] = np.array([index[d] for d in layer.experts], np.int64)
    return [seen[layer.experts] for layer in placement.layers]


class Sums:
    """Costs by (term, device)."""

    def __init__(self) -> None:
        self.costs: dict[tuple[str, str], Cost] = {}
        self._links: dict[str, float] = {}

    def add(self, name: str, device: str, cost: Cost, link_ms: float = 0.0) -> None:
        if link_ms:
            self._links[device] = self._links.get(device, 0.0) + link_ms
        if cost.ms:
            self.costs[name, device] = self.costs.get((name, device), Cost()) + cost

    def layer(self, home: str, cost: LayerCost) -> None:
        self.add("attention", home, cost.attention)
        self.add("router", home, cost.router)
        self.add("experts", home, cost.experts)
        self.add("upload", home, cost.upload)
        self.add("python", home, cost.python)
        for device, experts in cost.remote:
            self.add("experts", device, experts)
        for device, ms in [*cost.link, *([cost.rows] if cost.rows else [])]:
            self.add("link", device, Cost(), ms)

    def terms(self) -> tuple[Term, ...]:
        found = [Term(name, device, cost.ms, cost.limited_by) for (name, device), cost in self.costs.items()]
        return (*found, *(Term("link", device, ms, "link") for device, ms in self._links.items()))


def _prediction(model: CostModel, terms: tuple[Term, ...]) -> Prediction:
    ms = sum(t.ms for t in terms)
    speed = 1e3 * model.workload.step_tokens / ms
    factor = exp(Z90 * _sigma(model, terms))
    return Prediction(model.workload, speed / factor, speed, speed * factor, ms, terms)


def _sigma(model: CostModel, terms: tuple[Term, ...]) -> float:
    """Of the logarithm of speed: each device's own by its share of the time, and what links add by theirs."""
    total = sum(t.ms for t in terms)
    devices = sum(t.ms * _device_sigma(model, t.device) for t in terms if t.name != "link")
    waiting = sum(t.ms for t in terms if t.name == "link")
    return hypot(devices / max(total - waiting, 1e-12), _SIGMA_LINK * waiting / total)


def _device_sigma(model: CostModel, name: str) -> float:
    device = model.lab.device(name)
    if device.source.startswith("measured"):
        return _SIGMA_MEASURED
    own = device.prefill_sigma if model.workload.kind == "prefill" else device.sigma
    return own or _SIGMA_CATALOGUE
