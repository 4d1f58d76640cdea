"""Matrices in rows: the output matrix, and each layer's q, k and v, shared among the devices that share a layer's
experts, so that all are done at once.

Looked at after the search: each device takes rows until the slowest is done soonest (water filling over what it takes
to reach it and how fast it is), as far as its memory goes; what makes a step shorter stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from motley.lab.lab import Device
from motley.lab.placement import LayerPlacement, Placement, RowsPart
from motley.predict.cost import CostModel
from motley.predict.memory import ONE_LAYOUT, Need, kernels_of, memory_needed, packed_bytes
from motley.predict.predict import layer_costs, price
from motley.shape.model import ModelShape

ROWS = 16  # of others are multiples: a group of the kernels' that is not full works as long
_PAYS = 0.01  # least gain of a step's time

Models = Sequence[tuple[CostModel, float]]  # of each kind of step, and how many of them


def with_rows_split(models: Models, placement: Placement, context: int, slots: int) -> Placement:
    """The same placement, with the head in rows, and the projections, where that makes the steps shorter."""
    placement = _better(models, placement, _with_head(models[0][0], placement, context, slots))
    return _better(models, placement, _with_projections(models[0][0], placement, context, slots))


def _better(models: Models, placement: Placement, split: Placement) -> Placement:
    if split == placement:
        return placement
    before, after = (sum(n * price(m, p).ms_per_step for m, n in models) for p in (placement, split))
    return split if before > (1 + _PAYS) * after else placement


def _with_head(model: CostModel, placement: Placement, context: int, slots: int) -> Placement:
    devices = _sharing(placement.layers[-1])
    if len(devices) < 2:
        return placement
    index = {d.name: i for i, d in enumerate(model.lab.devices)}
    _, homes, sets = layer_costs(model, placement)
    whole = {name: model.output(index[name], sets).ms for name in devices}
    reach = {name: model.head_exchange(homes[-1], index[name], 0.5) for name in devices[1:]} | {devices[0]: 0.0}
    most = _most(_rooms(model, placement, context, slots), devices, model.shape.head_bytes)
    parts = _parts(_water(whole, reach, most), model.shape.vocab_size)
    return replace(placement, head=parts) if len(parts) > 1 else placement


def _with_projections(model: CostModel, placement: Placement, context: int, slots: int) -> Placement:
    """Layers that share their experts among the same devices share what memory is left there."""
    index = {d.name: i for i, d in enumerate(model.lab.devices)}
    _, homes, sets = layer_costs(model, placement)
    sharing = [_sharing(layer) if model.shape.projections(i) else [] for i, layer in enumerate(placement.layers)]
    rooms = {
        name: room // max(1, sum(name in devices[1:] for devices in sharing))
        for name, room in _rooms(model, placement, context, slots).items()
    }
    known: dict[object, tuple[RowsPart, ...]] = {}
    layers = []
    for i, (layer, devices, home) in enumerate(zip(placement.layers, sharing, homes)):
        projections, key = model.shape.projections(i), (model.alike_untraced(i), *devices)
        if projections is None or len(devices) < 2:
            layers.append(layer)
            continue
        if key not in known:
            whole = {name: model.projections(i, index[name], sets, 1.0).ms for name in devices}
            reach = {name: model.rows_reach(i, home, index[name], 0.5) for name in devices[1:]}
            most = _most(rooms, devices, projections.n_bytes)
            reach[devices[0]] = model.sending_ms(home, len(devices) - 1)
            known[key] = _parts(_water(whole, reach, most), projections.n_rows)
        layers.append(replace(layer, projections=known[key]) if len(known[key]) > 1 else layer)
    return replace(placement, layers=tuple(layers))


def _sharing(layer: LayerPlacement) -> list[str]:
    return list(dict.fromkeys([layer.home, *layer.holders]))


def _rooms(model: CostModel, placement: Placement, context: int, slots: int) -> dict[str, float]:
    """How many of the file's bytes still fit on each device in use, as it keeps them."""
    needs = memory_needed(model.shape, placement, context, slots, model.workload.chunk)
    return {name: 0.98 * _room(model.shape, model.lab.device(name), need) for name, need in needs.items()}


def _room(shape: ModelShape, device: Device, need: Need) -> float:
    kernels, left = kernels_of(device), device.memory_bytes - need.total
    packed = packed_bytes(shape, need.weights, kernels) - need.weights
    if packed > left and kernels not in ONE_LAYOUT:
        return left  # it leaves its weights as the file has them (`layout`)
    return (left - packed) * shape.n_bytes / packed_bytes(shape, shape.n_bytes, kernels)


def _most(rooms: Mapping[str, float], devices: Sequence[str], n_bytes: int) -> dict[str, float]:
    """The largest share that a device's memory holds; the home, which is the first, has room for all of it already."""
    return {devices[0]: 1.0} | {name: min(1.0, max(0.0, rooms[name] / n_bytes)) for name in devices[1:]}


def _parts(share: Mapping[str, float], n_rows: int) -> tuple[RowsPart, ...]:
    """The first device takes what is left by the others' whole groups of rows."""
    first, *others = share
    counts = {name: int(share[name] * n_rows) // ROWS * ROWS for name in others}
    ends = list(accumulate([n_rows - sum(counts.values()), *counts.values()]))
    parts = [RowsPart(name, begin, end) for name, begin, end in zip([first, *others], [0, *ends], ends)]
    return tuple(part for part in parts if part.end > part.first)


def _water(whole: Mapping[str, float], reach: Mapping[str, float], most: Mapping[str, float]) -> dict[str, float]:
    """Shares that sum to 1: at a common end t, a device has done (t - reach) / whole of it, at most `most`."""

    def shares(t: float) -> dict[str, float]:
        return {name: min(most[name], max(0.0, t - reach[name]) / whole[name]) for name in whole}

    low, high = 0.0, max(reach[name] + whole[name] for name in whole)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(shares(middle).values()) >= 1 else (middle, high)
    found = shares(high)
    total = sum(found.values())
    return {name: share / total for name, share in found.items()}


def row_reasons(placement: Placement) -> list[str]:
    """Where rows are, in words."""
    said = []
    if placement.head:
        said.append(f"the output matrix is split by rows: {_shares(placement.head)}, multiplied at the same time")
    split = [layer.projections for layer in placement.layers if layer.projections]
    for parts in dict.fromkeys(split):
        n = split.count(parts)
        said.append(
            f"q, k and v of {n} layer{'s' * (n > 1)} are split by rows: {_shares(parts)}, multiplied at the same time; "
            "the rest of attention and its cache stay at home"
        )
    return said


def _shares(parts: Sequence[RowsPart]) -> str:
    return ", ".join(f"{100 * (p.end - p.first) / parts[-1].end:.0f} % on {p.device}" for p in parts)
