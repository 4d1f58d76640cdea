"""What the pictures of a plan are drawn from: its devices, put together into classes where they are many, and what each
holds.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from motley.lab.lab import Device, Lab
from motley.lab.placement import Placement
from motley.page.experts import N_COLOURS
from motley.plan.plan import Plan
from motley.predict.memory import kernels_of, memory_needed, packed_bytes, weights_on
from motley.predict.routes import Routes
from motley.predict.workload import STEP_TOKENS
from motley.shape.model import ModelShape

BY_NAME = 8  # so many devices are drawn each for itself, more by class


@dataclass(frozen=True)
class Asked:
    """The question whose answer is drawn."""

    shape: ModelShape
    lab: Lab
    plan: Plan
    routes: Routes | None = None
    context: int = 4096
    slots: int = 1

    @cached_property
    def copies(self) -> int:
        """Experts that are there once more, all layers together."""
        return sum(len(layer.copies) for layer in self.plan.placement.layers)

    @cached_property
    def laid_out(self) -> Lab:
        """The lab as the plan lays weights out."""
        return self.lab.with_stored(self.plan.stored)


@dataclass(frozen=True)
class Held:
    """Bytes on a device, or on all of a class."""

    home: int = 0
    experts: int = 0
    cache: int = 0
    buffers: int = 0
    of: int = 0  # what there is

    @property
    def total(self) -> int:
        return self.home + self.experts + self.cache + self.buffers

    def __add__(self, other: "Held") -> "Held":
        return Held(*(getattr(self, n) + getattr(other, n) for n in self.__dataclass_fields__))


@dataclass(frozen=True)
class Group:
    """A device, or all devices of a class: the same figures in the same role."""

    name: str
    number: int  # its colour
    devices: tuple[Device, ...]
    held: Held  # all together
    home_layers: int
    expert_share: float  # of all experts of all layers; with copies the groups' shares add up to more than 1
    choice_share: float | None  # of all choices in the trace

    @property
    def used(self) -> bool:
        return self.home_layers > 0 or self.held.experts > 0

    @property
    def n(self) -> int:
        return len(self.devices)

    @property
    def colour(self) -> str:
        return f"d{self.number % N_COLOURS}" if self.used else "idle"


def groups(asked: Asked) -> list[Group]:
    """Homes first, in the order of their layers, then who holds most; devices without a part last."""
    lab, placement = asked.lab, asked.plan.placement
    held = held_by_device(asked)
    home_layers = Counter(layer.home for layer in placement.layers)
    experts, chosen = _experts(asked)
    n_experts = sum(len(layer.experts) for layer in placement.layers)
    members: dict[object, list[Device]] = {}
    for device in lab.devices:
        role = bool(home_layers[device.name]), bool(held[device.name].experts)
        key = device.name if len(lab.devices) <= BY_NAME else (replace(device, name="", node=""), role)
        members.setdefault(key, []).append(device)
    found = [
        Group(
            name=class_name([d.name for d in devices]),
            number=0,
            devices=tuple(devices),
            held=sum((held[d.name] for d in devices), Held()),
            home_layers=sum(home_layers[d.name] for d in devices),
            expert_share=sum(experts[d.name] for d in devices) / max(1, n_experts),
            choice_share=sum(chosen[d.name] for d in devices) / chosen.total() if chosen else None,
        )
        for devices in members.values()
    ]
    first = {layer.home: i for i, layer in reversed(list(enumerate(placement.layers)))}
    n = len(placement.layers)
    found.sort(key=lambda g: (not g.used, min(first.get(d.name, n) for d in g.devices), -g.expert_share))
    return [replace(group, number=i) for i, group in enumerate(found)]


def class_name(names: Sequence[str]) -> str:
    """`mac1`; of several `24 x mac*`."""
    if len(names) == 1:
        return names[0]
    same = 0
    while same < min(map(len, names)) and len({name[same] for name in names}) == 1:
        same += 1
    start = names[0][:same].rstrip("0123456789-_. ")
    return f"{len(names):,} x {start}*" if start else f"{names[0]} and {len(names) - 1:,} alike"


def held_by_device(asked: Asked) -> dict[str, Held]:
    """As the plan lays weights out; every device of the lab."""
    plan = asked.plan
    return held(asked.shape, asked.lab, plan.placement, plan.stored, asked.context, asked.slots, plan.objective.chunk)


def held(
    shape: ModelShape,
    lab: Lab,
    placement: Placement,
    stored: Collection[str],
    context: int,
    slots: int,
    step_tokens: int = STEP_TOKENS,
) -> dict[str, Held]:
    """Of each device of the lab. `stored`: those that leave their weights as the file has them."""
    weights = weights_on(shape, placement)
    needs = memory_needed(shape, placement, min(context, shape.context), slots, step_tokens)
    found = {}
    for device in lab.devices:
        if device.name not in needs:
            found[device.name] = Held(of=device.memory_bytes)
            continue
        need, here = needs[device.name], weights[device.name]
        total = need.weights if device.name in stored else packed_bytes(shape, need.weights, kernels_of(device))
        home = round(total * here.home / max(1, here.home + here.experts))
        found[device.name] = Held(home, total - home, need.kv, need.work, device.memory_bytes)
    return found


def _experts(asked: Asked) -> tuple[Counter[str], Counter[str]]:
    """(layer, expert) pairs on each device, copies too; and with a trace how often those were chosen, in thousandths of
    a token. Nothing is said of choices where there are copies: each step chooses between them."""
    pairs: Counter[str] = Counter()
    chosen: Counter[str] = Counter()
    for i, layer in enumerate(asked.plan.placement.layers):
        pairs.update(layer.experts)
        pairs.update(device for _, device in layer.copies)
        if asked.routes is not None and layer.experts and not asked.copies:
            for device, often in zip(layer.experts, asked.routes.popularity(i).tolist()):
                chosen[device] += round(1000 * often)
    return pairs, chosen


def group_of(found: Sequence[Group]) -> dict[str, int]:
    """Device name -> position in `found`."""
    return {device.name: i for i, group in enumerate(found) for device in group.devices}
