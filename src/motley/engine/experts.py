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
from motley.lab.choice import Choice
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


@dataclass(frozen=True)
class Shared:
    """A layer whose experts have copies: how a step chooses, and each device's place among the holders; the home's
    is 0."""

    choice: Choice
    place: Mapping[str, int]

    def holders(self, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """[T, A]: the place of who computes each chosen expert."""
        experts, times = np.unique(ids, return_counts=True)
        chosen = self.choice.of_step(zip(experts.tolist(), times.tolist()))
        place = np.array([chosen[e] for e in experts.tolist()], np.int64)
        found: NDArray[np.int64] = place[np.searchsorted(experts, ids)]
        return found


def _only(ids: NDArray[np.int32], which: NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.where(which, ids, np.int32(-1))


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
        shared: Mapping[int, Shared] = {},
    ) -> None:
        self._ops, self._clock, self._local, self.remotes = ops, clock, local, remotes
        self._shared = shared
        self._counts = np.zeros((n_layers, n_experts), np.int64)
        self._uncounted: list[tuple[int, NDArray[np.int32]]] = []  # counted later: a step has better things to do

    def __call__(self, layer: int, h: Array, ids: Array, weights: Array) -> Sequence[Array]:
        host_ids: NDArray[np.int32] = self._ops.to_host(ids)
        self.note(layer, host_ids)
        if layer in self._shared:
            return self._by_choice(layer, h, host_ids, weights, self._shared[layer])
        asked = [(r, host_ids) for r in self.remotes if layer in r.owned and r.owned[layer][host_ids].any()]
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

    def _by_choice(
        self, layer: int, h: Array, ids: NDArray[np.int32], weights: Array, shared: Shared
    ) -> Sequence[Array]:
        """Where experts have copies: each holder is told which to compute, by ids of -1 for all others."""
        holder = shared.holders(ids)
        told = [(r, _only(ids, holder == shared.place[r.device])) for r in self.remotes if r.device in shared.place]
        asked = [(r, theirs) for r, theirs in told if (theirs >= 0).any()]
        own = self._ops.from_host(_only(ids, holder == 0))
        return self._with_others(layer, h, own, weights, asked) if asked else self._here(layer, h, own, weights)

    def _here(self, layer: int, h: Array, ids: Array, weights: Array) -> list[Array]:
        return [self._ops.experts(h, ids, weights, self._local[layer])] if layer in self._local else []

    def _with_others(
        self, layer: int, h: Array, ids: Array, weights: Array, asked: Sequence[tuple[Remote, NDArray[np.int32]]]
    ) -> list[Array]:
        """`ids` for this device, and for each that is asked."""
        ops = self._ops
        started = perf_counter()
        busy = [r.owner.traffic.busy_s for r, _ in asked]
        host_h, host_weights = ops.to_host(h), ops.to_host(weights)
        for remote, theirs in asked:
            remote.owner.start(layer, host_h, theirs, host_weights)
        sent = perf_counter()
        parts = self._here(layer, h, ids, weights)
        waiting = perf_counter()
        for (remote, _), busy_before in zip(asked, busy):
            parts.append(ops.from_host(remote.owner.finish()))
            rounds = remote.rounds
            rounds.count += 1
            rounds.seconds += perf_counter() - started
            rounds.work_seconds += max(waiting - sent, remote.owner.traffic.busy_s - busy_before)
        self._clock.waited(perf_counter() - waiting + sent - started)
        return parts
