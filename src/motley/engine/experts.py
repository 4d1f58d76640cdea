"""Where the routed experts of a stage live: some on this device, the others on nodes across links.

The home sends its tokens to each owner first, computes its own experts while they work, then gathers. Partial sums are
float64, so that who holds an expert does not change the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from motley.engine.times import Clock
from motley.ops.protocol import Array, Experts, Ops

_MOST_UNCOUNTED = 1024
_SMALL = 16  # tokens: a larger step has the time to count


class Busy(Protocol):
    busy_s: float


@dataclass
class Rounds:
    """What asking one owner took so far (`engine.runner.ExchangeCount` explains the seconds)."""

    count: int = 0
    seconds: float = 0.0
    work_seconds: float = 0.0


class ExpertOwner(Protocol):
    """Another node's experts, over a link (`cluster.remote.RemoteExperts`)."""

    @property
    def traffic(self) -> Busy:
        """`busy_s`: how long the owner worked so far, by its own clock."""
        ...

    @property
    def transport(self) -> str: ...

    def start(
        self, layer: int, x: NDArray[np.float32], ids: NDArray[np.int32], weights: NDArray[np.float32]
    ) -> None: ...

    def finish(self) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Remote:
    """The experts that another device has: bool [E] by layer, and what asking it took so far."""

    device: str
    owner: ExpertOwner
    owned: Mapping[int, NDArray[np.bool_]]
    rounds: Rounds = field(default_factory=Rounds)


class PlacedExperts:
    """Runs one layer's chosen experts (`models.layers.RunExperts`) and counts how often each was chosen; each remote
    counts its own rounds."""

    def __init__(
        self,
        ops: Ops,
        clock: Clock,
        local: Mapping[int, Experts],
        remotes: Sequence[Remote],
        n_layers: int,
        n_experts: int,
    ) -> None:
        self._ops, self._clock, self._local, self.remotes = ops, clock, local, remotes
        self._counts = np.zeros((n_layers, n_experts), np.int64)
        self._uncounted: list[tuple[int, NDArray[np.int32]]] = []  # counted later: a step has better things to do

    def __call__(self, layer: int, h: Array, ids: Array, weights: Array) -> Sequence[Array]:
        host_ids: NDArray[np.int32] = self._ops.to_host(ids)
        self.note(layer, host_ids)
        asked = [r for r in self.remotes if layer in r.owned and r.owned[layer][host_ids].any()]
        if asked:
            return self._with_others(layer, h, ids, weights, asked)
        return self._here(layer, h, ids, weights)

    @property
    def alone(self) -> bool:
        """Whether no expert lives elsewhere."""
        return not self.remotes

    def note(self, layer: int, ids: NDArray[np.int32]) -> None:
        """These experts were chosen: int32 [T, A]. A copy is kept: a remembered step writes over its arrays."""
        self._uncounted.append((layer, ids.copy()))
        if len(self._uncounted) > _MOST_UNCOUNTED or len(ids) > _SMALL:
            self._count()

    def chosen(self) -> NDArray[np.int64]:
        """How often each expert was chosen so far: [layers, E], a copy."""
        self._count()
        return self._counts.copy()

    def _count(self) -> None:
        noted, self._uncounted = self._uncounted, []  # at once: somebody may be noting meanwhile
        for layer, ids in noted:
            self._counts[layer] += np.bincount(ids.ravel(), minlength=self._counts.shape[1])

    def _here(self, layer: int, h: Array, ids: Array, weights: Array) -> list[Array]:
        return [self._ops.experts(h, ids, weights, self._local[layer])] if layer in self._local else []

    def _with_others(self, layer: int, h: Array, ids: Array, weights: Array, asked: Sequence[Remote]) -> list[Array]:
        ops = self._ops
        started = perf_counter()
        busy = [r.owner.traffic.busy_s for r in asked]
        message = ops.to_host(h), ops.to_host(ids), ops.to_host(weights)
        for remote in asked:
            remote.owner.start(layer, *message)
        sent = perf_counter()
        parts = self._here(layer, h, ids, weights)
        waiting = perf_counter()
        for remote, busy_before in zip(asked, busy):
            parts.append(ops.from_host(remote.owner.finish()))
            rounds = remote.rounds
            rounds.count += 1
            rounds.seconds += perf_counter() - started
            rounds.work_seconds += max(waiting - sent, remote.owner.traffic.busy_s - busy_before)
        self._clock.waited(perf_counter() - waiting + sent - started)
        return parts
