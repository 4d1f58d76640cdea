"""Where a model is, as the pictures need it: devices, what they hold of their memory, links.

view(shown) -> {
  "devices": [{"name", "node", "kind", "threads", "memory_bytes", "source", "used", "head", "home_layers",
               "expert_share", "held": {"home", "experts", "cache", "buffers"}: bytes}],
  "links": [{"a", "b", "transport", "rtt_us", "gb_s"}],
  "predicted_tokens_per_s": None, or {"p10", "p50", "p90"}: of all sequences together
}
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from motley.lab.lab import Device, Lab
from motley.lab.machine import this_machine, usable_cores
from motley.lab.placement import LayerPlacement, Placement
from motley.plan.picture.facts import Held, held
from motley.predict.predict import Prediction
from motley.predict.workload import STEP_TOKENS
from motley.serve.state import Placed
from motley.shape.model import ModelShape

HERE = "this machine"
PARTS = ("home", "experts", "cache", "buffers")


@dataclass(frozen=True)
class Shown:
    """What the page shows. `model`: the file, for what-if. `placed`: where it is now; None: in one process."""

    model: str
    shape: ModelShape
    context: int
    slots: int
    placed: Callable[[], Placed | None]
    step_tokens: int = STEP_TOKENS


def view(shown: Shown) -> dict[str, Any]:
    placed = shown.placed() or _alone(shown)
    room = shown.context, shown.slots, shown.step_tokens
    holds = held(shown.shape, placed.lab, placed.placement, placed.stored, *room)
    return drawn(placed.lab, placed.placement, holds, placed.prediction, placed.nodes, placed.head)


def drawn(
    lab: Lab,
    placement: Placement,
    holds: dict[str, Held],
    prediction: Prediction | None,
    used: Collection[str],
    head: str = "",
) -> dict[str, Any]:
    homes = Counter(layer.home for layer in placement.layers)
    experts = Counter(device for layer in placement.layers for device in layer.experts)
    whole = max(1, experts.total())
    devices = [
        {
            "name": d.name,
            "node": d.node,
            "kind": d.kind,
            "threads": d.threads,
            "memory_bytes": d.memory_bytes,
            "source": d.source,
            "used": d.name in used,
            "head": d.name == head,
            "home_layers": homes[d.name],
            "expert_share": experts[d.name] / whole,
            "held": {part: getattr(holds[d.name], part) for part in PARTS},
        }
        for d in lab.devices
    ]
    links = [{"a": x.a, "b": x.b, "transport": x.transport, "rtt_us": x.rtt_us, "gb_s": x.gb_s} for x in lab.links]
    speed = prediction and {"p10": prediction.p10, "p50": prediction.p50, "p90": prediction.p90}
    return {"devices": devices, "links": links, "predicted_tokens_per_s": speed}


def _alone(shown: Shown) -> Placed:
    """One process, which nobody measured: everything is here, and nothing is predicted."""
    shape = shown.shape
    layers = [LayerPlacement(HERE, (HERE,) * shape.experts_in(i)) for i in range(shape.n_layers)]
    memory = this_machine().memory_bytes
    here = Device(HERE, HERE, "cpu", memory, usable_cores(), 0.0, 0.0, 0.0, 0.0)
    return Placed(Lab((here,), ()), Placement(tuple(layers)), None, (HERE,), HERE)
