"""DeviceModel: the part of a placed model that one device holds, ready to run. The head and every node have one each.

Only the tensors that the part needs are read from the checkpoint.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.engine.experts import ExpertOwner, PlacedExperts, Remote
from motley.engine.stage import Stage
from motley.engine.times import Clock
from motley.formats.tensor import Checkpoint
from motley.models.layers import Loader
from motley.models.registry import family
from motley.ops.protocol import Ops

Progress = Callable[[int, int], None]  # (bytes loaded, bytes in all)


class DeviceModel:
    """`layers`: the layers at home here (may be empty); `experts`: which routed experts of which layer are here;
    `owners`: the other devices' experts that the layers at home need, by device."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        ops: Ops,
        *,
        layers: range,
        experts: Mapping[int, Sequence[int]],
        owners: Mapping[str, tuple[ExpertOwner, Mapping[int, Sequence[int]]]] = {},
        n_slots: int,
        context: int,
        progress: Progress = lambda done, total: None,
    ) -> None:
        self.ops = ops
        self.clock = Clock(ops.busy_seconds)
        config = family(checkpoint.architecture).config(checkpoint.metadata)
        load = Loader(checkpoint, ops, progress=progress, total=planned_bytes(checkpoint, layers, experts))
        self._experts = {layer: load.experts(config, layer, ids) for layer, ids in sorted(experts.items()) if ids}
        remotes = [Remote(d, owner, _masks(owned, config.n_experts)) for d, (owner, owned) in owners.items()]
        self.placed = PlacedExperts(ops, self.clock, self._experts, remotes, config.n_layers, config.n_experts)
        self.stage = (
            Stage(config, load, layers, self.placed, self.clock, n_slots=n_slots, context=context) if layers else None
        )
        self.n_bytes = load.n_bytes

    def run_experts(
        self, layer: int, x: NDArray[np.float32], ids: NDArray[np.int32], weights: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Another home asks: this device's share of the chosen experts, float64 [T, D]."""
        ops = self.ops
        y = ops.experts(ops.from_host(x), ops.from_host(ids), ops.from_host(weights), self._experts[layer])
        out: NDArray[np.float64] = ops.to_host(y)
        return out


def planned_bytes(checkpoint: Checkpoint, layers: range, experts: Mapping[int, Sequence[int]]) -> int:
    """Bytes of the tensors that such a part holds: what progress counts towards."""
    config = family(checkpoint.architecture).config(checkpoint.metadata)
    total = 0
    for name, tensor in checkpoint.tensors.items():
        layer = int(name.split(".")[1]) if name.startswith("blk.") else None
        if "_exps." in name and layer is not None:
            total += tensor.n_bytes // config.n_experts * len(experts.get(layer, ()))
        elif layer is not None:
            total += tensor.n_bytes if layer in layers else 0
        elif name == "token_embd.weight":
            tied = "output.weight" not in checkpoint.tensors
            total += tensor.n_bytes * ((0 in layers) + (tied and config.n_layers - 1 in layers))
        elif config.n_layers - 1 in layers:
            total += tensor.n_bytes
    return total


def _masks(owned: Mapping[int, Sequence[int]], n_experts: int) -> dict[int, NDArray[Any]]:
    masks = {}
    for layer, ids in owned.items():
        masks[layer] = np.zeros(n_experts, np.bool_)
        masks[layer][list(ids)] = True
    return masks
