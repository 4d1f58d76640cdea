"""Streams: in steps of many tokens a home computes experts that other devices of its node hold. It takes the weights of
the chosen ones from the model's file, a group at a time, multiplies, and keeps none.

While the device multiplies by one group, the host brings the next. At most two groups are on the device: one where it
writes a group over the one before (`ops.protocol.Upload.into`), as a device does whose remembered steps read what lies
in one place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from motley.engine.times import Clock
from motley.models.loader import ExpertTensors
from motley.ops.protocol import Activation, Array, Experts, Ops, Recording, Upload


@dataclass(frozen=True, eq=False)
class Stream:
    """Of one layer. `held`: bool [E], the experts that `devices` have; in steps of `tokens` tokens and more they are
    computed here, `at_once` of them at a time."""

    layer: int
    devices: frozenset[str]
    tokens: int
    at_once: int
    held: NDArray[np.bool_]
    tensors: ExpertTensors

    @property
    def kind(self) -> object:
        """Groups of one kind take the same memory."""
        return self.at_once, *((t.dims, t.quant) for t in self.tensors[:3])

    def groups(self, ids: NDArray[np.int32]) -> list[list[int]]:
        """The chosen experts, of ids [T, A], that are others', ascending."""
        chosen = np.unique(ids)
        chosen = chosen[chosen >= 0]
        theirs = chosen[self.held[chosen]].tolist()
        return [theirs[first : first + self.at_once] for first in range(0, len(theirs), self.at_once)]


class Streams:
    """Of a home, by layer. `repack`: see `ops.protocol.Upload`."""

    def __init__(
        self, ops: Ops, clock: Clock, activation: Activation, layers: Mapping[int, Stream], repack: bool
    ) -> None:
        self._ops, self._clock, self._activation, self._layers = ops, clock, activation, layers
        self._repack = repack
        self._kept: dict[object, Experts] = {}  # by kind
        if ops.remembers_prompts:  # their memory, before anything runs short
            for stream in layers.values():
                if stream.kind not in self._kept:
                    most = list(range(min(stream.at_once, len(stream.held))))
                    self._kept[stream.kind] = self._uploaded(stream, most)
                    self._uploaded(stream, [])  # and what writing over them needs

    def of(self, layer: int, n_tokens: int) -> Stream | None:
        """None where every holder computes its own."""
        stream = self._layers.get(layer)
        return stream if stream and n_tokens >= stream.tokens else None

    def parts(
        self, stream: Stream, h: Array, ids: Array, weights: Array, host_ids: NDArray[np.int32]
    ) -> Sequence[Array]:
        """What each group gives, float64 [T, D]."""
        ops, parts = self._ops, list[Array]()
        for group in stream.groups(host_ids):
            experts = self._uploaded(stream, group)
            parts.append(ops.experts(h, ids, weights, experts))
            ops.start(parts[-1])
            del experts  # or it would be there beside the next two
            if stream.kind not in self._kept and len(parts) > 1:
                ops.wait(parts[-2])
        return parts

    def recorded(self, recording: Recording, stream: Stream, h: Array, ids: Array, weights: Array) -> Sequence[Array]:
        """Likewise for a step that is remembered: as many groups as there can be, of which a run leaves empty what it
        does not need."""
        host_ids: NDArray[np.int32] = self._ops.to_host(ids)
        experts, parts = self._kept[stream.kind], list[Array]()
        groups: list[list[int]] = []

        def bring(i: int) -> None:
            if i == 0:
                groups[:] = stream.groups(host_ids)
            self._uploaded(stream, groups[i] if i < len(groups) else [])

        for i in range(-(-int(stream.held.sum()) // stream.at_once)):
            recording.call(partial(bring, i))
            parts.append(self._ops.experts(h, ids, weights, experts))
        return parts

    def _uploaded(self, stream: Stream, experts: list[int]) -> Experts:
        gate, up, down, biases = stream.tensors
        how = Upload(self._repack, into=self._kept.get(stream.kind))
        started, busy = perf_counter(), self._ops.busy_seconds()
        found = self._ops.experts_weight(gate, up, down, experts, how, self._activation, biases)
        waited = perf_counter() - started - (self._ops.busy_seconds() - busy)
        self._clock.uploaded(f"{len(experts)} experts of layer {stream.layer} sent here", started, waited)
        return found
