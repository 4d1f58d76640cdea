"""DeviceModel: the part of a placed model that one device holds, ready to run. The head and every node have one each.

Only the tensors that the part needs are read from the checkpoint.
"""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.engine.experts import ExpertOwner, PlacedExperts, Remote, Rounds, Shared
from motley.engine.rows import Elsewhere, Key, PlacedRows, RowsOwner
from motley.engine.stage import Stage
from motley.engine.streaming import Stream, Streams
from motley.engine.times import Clock
from motley.errors import ClusterError, UnsupportedError
from motley.formats.shape_of import shape_of
from motley.formats.tensor import Checkpoint
from motley.lab.choice import Choice
from motley.models.layers import output_rows
from motley.models.loader import Loader
from motley.models.registry import config_of
from motley.models.rows import Rows
from motley.ops.protocol import Ops
from motley.progress import Progress, silent
from motley.shape.mixer import CacheType
from motley.shape.model import ModelShape


class DeviceModel:
    """`layers`: the layers at home here (may be empty); `experts`: which routed experts of which layer are here;
    `owners`: the other devices' experts that the layers at home need, by device; `paces`: of the holders in layers
    whose experts have copies, this device first (`lab.placement.Pace`); `rows`: which rows are
    here of what is split, a layer's projections (by layer) or the output matrix (None), and `row_owners` who has the
    others that the layers at home need, by device; `streams`: of home layers whose large steps compute others' experts
    here, from how many tokens on, experts at a time, whose (`engine.streaming`; UnsupportedError where the file does
    not have them as they are); `cache`: how keys and values are stored (None: the device's own choice)."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        ops: Ops,
        *,
        layers: range,
        experts: Mapping[int, Sequence[int]],
        owners: Mapping[str, tuple[ExpertOwner, Mapping[int, Sequence[int]]]] = {},
        paces: Mapping[int, Sequence[tuple[str, float, float, float]]] = {},
        rows: Mapping[Key, range] = {},
        row_owners: Mapping[str, tuple[RowsOwner, Mapping[Key, range]]] = {},
        streams: Mapping[int, tuple[int, int, Sequence[str]]] = {},
        n_slots: int,
        context: int,
        cache: CacheType | None = None,
        repack: bool = True,
        progress: Progress = silent,
    ) -> None:
        self.ops = ops
        self.clock = Clock(ops.busy_seconds)
        config = config_of(checkpoint.architecture, checkpoint.metadata)
        shape = shape_of(checkpoint)
        if streams and not shape.experts_at_hand:
            raise UnsupportedError(
                f"layer {min(streams)} shall bring experts whose matrices {shape.name}'s file does not have as they "
                "are: plan it again, they are not brought"
            )
        total = planned_bytes(shape, layers, experts, rows)
        projected = {layer: part for layer, part in rows.items() if layer is not None}
        load = Loader(checkpoint, ops, progress, total, repack, projected)
        self._experts = {layer: load.experts(config, layer, ids) for layer, ids in sorted(experts.items()) if ids}
        remotes = [Remote(d, owner, _masks(owned, config.n_experts)) for d, (owner, owned) in owners.items()]
        holdings = {d: owned for d, (_, owned) in owners.items()}
        shared = {i: _shared(i, of, experts.get(i, ()), holdings, config.n_experts) for i, of in paces.items()}
        streamed = {
            layer: Stream(
                layer,
                frozenset(devices),
                tokens,
                at_once,
                _held_by(devices, remotes, layer),
                load.expert_tensors(config, layer),
            )
            for layer, (tokens, at_once, devices) in streams.items()
        }
        self.placed = PlacedExperts(
            ops,
            self.clock,
            self._experts,
            remotes,
            config.n_layers,
            config.n_experts,
            shared,
            Streams(ops, self.clock, config.activation, streamed, repack) if streamed else None,
        )
        rounds = {remote.device: remote.rounds for remote in remotes}
        others = [Elsewhere(d, owner, theirs, rounds.get(d, Rounds())) for d, (owner, theirs) in row_owners.items()]
        self.rows = PlacedRows(ops, self.clock, others)
        self.stage: Stage | None = None
        if layers:
            self.stage = Stage(
                config,
                load,
                layers,
                self.placed,
                self.rows,
                self.clock,
                head_rows=rows.get(None),
                n_slots=n_slots,
                context=context,
                cache=cache,
            )
        self._asked: dict[Key, Rows] = {
            layer: output_rows(config, load, part) if layer is None else Rows.of_layer(load, layer, part)
            for layer, part in rows.items()
            if (config.n_layers - 1 if layer is None else layer) not in layers
        }
        if layers:
            load.require_all_read(layers)
        self.n_bytes = load.n_bytes

    def run_experts(
        self, layer: int, x: NDArray[np.float32], ids: NDArray[np.int32], weights: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Another home asks: this device's share of the chosen experts, float64 [T, D]."""
        ops, experts = self.ops, self._experts.get(layer)
        if experts is None:
            held = ", ".join(map(str, self._experts)) or "none"
            raise ClusterError(
                f"no experts of layer {layer} are here (layers: {held}): load the model anew on all nodes"
            )
        started = perf_counter()
        y = ops.experts(ops.from_host(x), ops.from_host(ids), ops.from_host(weights), experts)
        out: NDArray[np.float64] = ops.to_host(y)
        if tracer := self.clock.tracer:
            tracer.note(f"experts of layer {layer}", started, perf_counter())
        return out

    def run_rows(self, layer: int | None, h: NDArray[np.float32]) -> NDArray[np.float32]:
        """Another home asks: h [T, D] times the rows that are here, of a layer's projections or (None) of the output
        matrix, [T, rows]."""
        what = "the head" if layer is None else f"the projections of layer {layer}"
        if layer not in self._asked:
            raise ClusterError(f"no rows of {what} are here: load the model anew on all nodes")
        ops = self.ops
        started = perf_counter()
        parts = [ops.to_host(y) for y in self._asked[layer](ops, ops.from_host(h))]
        out: NDArray[np.float32] = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if tracer := self.clock.tracer:
            tracer.note(f"rows of {what}", started, perf_counter())
        return out

    def exchanged(self) -> dict[str, tuple[str, Rounds]]:
        """By device that was asked, for experts or rows: over what, and how often."""
        rows = {remote.device: (remote.owner.transport, remote.rounds) for remote in self.rows.remotes}
        return {**rows, **{remote.device: (remote.owner.transport, remote.rounds) for remote in self.placed.remotes}}


def planned_bytes(
    shape: ModelShape, layers: range, experts: Mapping[int, Sequence[int]], rows: Mapping[Key, range] = {}
) -> int:
    """Bytes of the tensors that such a part holds: what progress counts towards, and what memory is asked for."""
    total = sum(shape.home_bytes(layer) for layer in layers)
    for layer, part in rows.items():
        if layer is not None and (projections := shape.projections(layer)):
            total += projections.n_bytes * len(part) // projections.n_rows
            total -= projections.n_bytes if layer in layers else 0
    total += sum(shape.expert_bytes(layer) * len(ids) for layer, ids in experts.items())
    total += shape.embed_bytes if 0 in layers else 0
    if None in rows:
        return total + shape.head_bytes * len(rows[None]) // shape.vocab_size
    return total + (shape.head_bytes if shape.n_layers - 1 in layers else 0)


def _shared(
    layer: int,
    paces: Sequence[tuple[str, float, float, float]],
    own: Sequence[int],
    others: Mapping[str, Mapping[int, Sequence[int]]],
    n_experts: int,
) -> Shared:
    held = np.zeros((len(paces), n_experts), np.bool_)
    for place, (device, *_) in enumerate(paces):
        held[place, list(others[device].get(layer, ())) if place else list(own)] = True
    if not held.any(0).all():
        raise ClusterError(f"layer {layer}: experts {np.flatnonzero(~held.any(0)).tolist()} have no holder with a pace")
    choice = Choice.paced(held, [(start, each, more) for _, start, each, more in paces])
    return Shared(choice, {device: place for place, (device, *_) in enumerate(paces)})


def _held_by(devices: Sequence[str], remotes: Sequence[Remote], layer: int) -> NDArray[np.bool_]:
    """[E]: which of the layer's experts any of these devices has."""
    held: NDArray[np.bool_] = np.any([r.owned[layer] for r in remotes if r.device in devices], axis=0)
    return held


def _masks(owned: Mapping[int, Sequence[int]], n_experts: int) -> dict[int, NDArray[Any]]:
    masks = {}
    for layer, ids in owned.items():
        masks[layer] = np.zeros(n_experts, np.bool_)
        masks[layer][list(ids)] = True
    return masks
