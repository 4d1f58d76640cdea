"""Streaming: what it costs a home to compute experts that another device of its node holds, when it takes their weights
from the model's file in the host's memory, a group at a time (`memory.at_once`)."""

from motley.lab.lab import Lab
from motley.predict.device_cost import Cost
from motley.predict.memory import kept_as_stored, kernels_of
from motley.shape.model import ModelShape

LEAST_TOKENS = 32  # of a step that is planned to; smaller ones run from memory, or touch few experts
MOST_REMEMBERED_TOKENS = 16  # of a step that may run from memory, with no weights that change: cluster.assignment's


def nearby(shape: ModelShape, lab: Lab) -> list[frozenset[int]]:
    """[D]: whose experts a device may bring: of its node's processors, if the file has them as they are used, it is
    known how fast it takes weights, and it keeps the bytes of the file."""
    if not shape.experts_at_hand:
        return [frozenset()] * len(lab.devices)
    able = {k: kept_as_stored(shape, k) for k in {kernels_of(d) for d in lab.devices if d.upload_gb_s}}
    nodes: dict[str, set[int]] = {}
    for d, device in enumerate(lab.devices):
        if device.kind == "cpu":
            nodes.setdefault(device.node, set()).add(d)
    return [
        frozenset(nodes.get(device.node, set()) - {d})
        if device.upload_gb_s and able[kernels_of(device)]
        else frozenset()
        for d, device in enumerate(lab.devices)
    ]


def waited_for(work: Cost, upload: Cost, groups: float, behind: bool) -> tuple[Cost, Cost]:
    """What a step waits for of a home's work and of bringing the weights for it. `behind`: the device works behind the
    host, which brings a group while the one before is multiplied: all of the longer and one group's share of the
    other."""
    if not behind:
        return work, upload
    return (work * (1 / groups), upload) if upload.ms >= work.ms else (work, upload * (1 / groups))
