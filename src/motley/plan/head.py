"""The head in rows: its matrix shared among the devices that share the last layer, so that all are done at once.

Looked at after the search: each device takes rows until the slowest is done soonest (water filling over what it takes
to reach it and how fast it is), as far as its memory goes; it stays if a step gets shorter by it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from motley.lab.placement import HeadPart, Placement
from motley.predict.cost import CostModel
from motley.predict.memory import memory_needed
from motley.predict.predict import layer_costs, price

ROWS = 16  # of others are multiples: a group of the kernels' that is not full works as long
_PAYS = 0.01  # least gain of a step's time


def with_head_in_rows(model: CostModel, placement: Placement, context: int, slots: int) -> Placement:
    """The same placement, with the head in rows if that makes a step shorter."""
    last = placement.layers[-1]
    devices = list(dict.fromkeys([last.home, *last.holders]))
    if len(devices) < 2:
        return placement
    split = replace(placement, head=_parts(model, placement, devices, context, slots))
    gain = price(model, placement).ms_per_step / price(model, split).ms_per_step
    return split if len(split.head) > 1 and gain > 1 + _PAYS else placement


def _parts(
    model: CostModel, placement: Placement, devices: Sequence[str], context: int, slots: int
) -> tuple[HeadPart, ...]:
    index = {d.name: i for i, d in enumerate(model.lab.devices)}
    _, homes, sets = layer_costs(model, placement)
    whole = {name: model.output(index[name], sets).ms for name in devices}
    reach = {name: model.head_exchange(homes[-1], index[name], 0.5) for name in devices[1:]} | {devices[0]: 0.0}
    most = _most(model, placement, devices, context, slots)
    share = _water(whole, reach, most)
    rows = model.shape.vocab_size
    counts = {name: int(share[name] * rows) // ROWS * ROWS for name in devices[1:]}
    ends = list(accumulate([rows - sum(counts.values()), *counts.values()]))
    parts = [HeadPart(name, first, end) for name, first, end in zip(devices, [0, *ends], ends)]
    return tuple(part for part in parts if part.end > part.first)


def _most(model: CostModel, placement: Placement, devices: Sequence[str], context: int, slots: int) -> dict[str, float]:
    """The largest share that a device's memory holds; the last home has room for all of it already."""
    needs, head = memory_needed(model.shape, placement, context, slots), model.shape.head_bytes
    rooms = {name: model.lab.device(name).memory_bytes - needs[name].total for name in devices[1:]}
    return {devices[0]: 1.0} | {name: min(1.0, max(0.0, 0.98 * room / head)) for name, room in rooms.items()}


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


def head_reasons(placement: Placement, rows: int) -> list[str]:
    """Where the head's rows are, in words."""
    if not placement.head:
        return []
    shares = ", ".join(f"{100 * (p.end - p.first) / rows:.0f} % on {p.device}" for p in placement.head)
    return [f"the output matrix is split by rows: {shares}, multiplied at the same time"]
