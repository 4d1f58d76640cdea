"""Where the routed experts of a stage live: some on this device, the others on nodes across links.

The home sends its tokens to each owner first, computes its own experts while they work, then gathers. Partial sums are
float64, so that who holds an expert does not change the answer.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from motley.engine.streaming import Stream, Streams
from motley.engine.times import Clock
from motley.lab.choice import Choice
from motley.ops.protocol import Array, Experts, Ops, Recording

Meanwhile = Callable[[], None] | None  # what the home does beside the experts, once the others have begun
Bring = Callable[[], Sequence[Array]] | None  # computes experts whose weights are not kept here (`engine.streaming`)

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

    def note(self, seconds: float, work_seconds: float) -> None:
        self.count += 1
        self.seconds += seconds
        self.work_seconds += work_seconds


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
        if len(ids) == 1 and self._all_have_all:
            return self._by_rank(ids.shape[1])[ids.argsort().argsort()]
        experts, times = np.unique(ids, return_counts=True)
        chosen = self.choice.of_step(zip(experts.tolist(), times.tolist()))
        place = np.array([chosen[e] for e in experts.tolist()], np.int64)
        found: NDArray[np.int64] = place[np.searchsorted(experts, ids)]
        return found

    def _by_rank(self, n: int) -> NDArray[np.int64]:
        """[n]: where everybody has all, the holder of a token's expert depends on its place among them alone."""
        if n not in self._ranks:
            chosen = self.choice.of_step((rank, 1) for rank in range(n))
            self._ranks[n] = np.array([chosen[rank] for rank in range(n)], np.int64)
        return self._ranks[n]

    @functools.cached_property
    def _ranks(self) -> dict[int, NDArray[np.int64]]:
        return {}

    @functools.cached_property
    def _all_have_all(self) -> bool:
        return bool(self.choice.held.all())


def _only(ids: NDArray[np.int32], which: NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.where(which, ids, np.int32(-1))


class Asking:
    """One layer's exchanges of a step that is remembered: the same arrays every time. `own`: the chosen experts, of
    which this device computes those that it has; `parts`: what the others computed, float64 [T, D] each."""

    def __init__(
        self,
        ops: Ops,
        clock: Clock,
        layer: int,
        h: Array,
        ids: Array,
        weights: Array,
        remotes: Sequence[Remote],
        shared: Shared | None,
    ) -> None:
        self._clock, self._layer, self._remotes, self._shared = clock, layer, remotes, shared
        self._h, self._ids, self._weights = ops.to_host(h), ops.to_host(ids), ops.to_host(weights)
        self.own = ids if shared is None else ops.from_host(np.empty_like(self._ids))
        self.parts = [np.zeros(self._h.shape, np.float64) for _ in remotes]
        self._asked: list[tuple[Remote, NDArray[np.float64]]] = []
        self._sent = self._started = 0.0

    def start(self) -> None:
        self._started = perf_counter()
        self._asked = []
        holder = None if self._shared is None else self._shared.holders(self._ids)
        if self._shared is not None and holder is not None:
            self.own[:] = _only(self._ids, holder == 0)
        for remote, part in zip(self._remotes, self.parts):
            if self._shared is None or holder is None:
                theirs = self._ids
                wanted = bool(remote.owned[self._layer][theirs].any())
            else:
                theirs = _only(self._ids, holder == self._shared.place[remote.device])
                wanted = bool((theirs >= 0).any())
            if wanted:
                self._asked.append((remote, part))
                remote.owner.start(self._layer, self._h, theirs, self._weights)
            else:
                part[:] = 0.0
        self._sent = perf_counter()
        self._clock.waited(self._sent - self._started)

    def finish(self) -> None:
        waiting = perf_counter()
        for remote, part in self._asked:
            busy = remote.owner.traffic.busy_s
            part[:] = remote.owner.finish()
            work = max(waiting - self._sent, remote.owner.traffic.busy_s - busy)
            remote.rounds.note(perf_counter() - self._started, work)
            self._clock.asked(remote.device, f"experts of layer {self._layer}", self._started)
        self._clock.waited(perf_counter() - waiting)


class PlacedExperts:
    """Runs one layer's chosen experts (`models.layers.RunExperts`) and counts how often each was chosen; each remote
    counts its own rounds. `streams`: the layers in which this device computes others' experts in large steps."""

    def __init__(
        self,
        ops: Ops,
        clock: Clock,
        local: Mapping[int, Experts],
        remotes: Sequence[Remote],
        n_layers: int,
        n_experts: int,
        shared: Mapping[int, Shared] = {},
        streams: Streams | None = None,
    ) -> None:
        self._ops, self._clock, self._local, self.remotes = ops, clock, local, remotes
        self._shared, self._streams = shared, streams
        self._counts = np.zeros((n_layers, n_experts), np.int64)
        self._uncounted: list[tuple[int, Array]] = []  # counted later: a step has better things to do
        self.watch: Callable[[int, NDArray[np.int32]], None] | None = None  # told each layer's choices, int32 [T, A]

    def __call__(
        self, layer: int, h: Array, ids: Array, weights: Array, meanwhile: Meanwhile = None
    ) -> Sequence[Array]:
        if not (self.watch or layer in self._shared or any(layer in r.owned for r in self.remotes)):
            self._later(layer, ids)  # a lazy device goes on without the host
            return self._here(layer, h, ids, weights, meanwhile)
        host_ids: NDArray[np.int32] = self._ops.to_host(ids)
        self.note(layer, host_ids)
        if layer in self._shared:
            return self._by_choice(layer, h, host_ids, weights, self._shared[layer], meanwhile)
        stream = self._streams.of(layer, len(host_ids)) if self._streams else None
        asked = [(r, host_ids) for r in self._asked(layer, stream) if r.owned[layer][host_ids].any()]
        bring = None
        if self._streams and stream:
            bring = functools.partial(self._streams.parts, stream, h, ids, weights, host_ids)
        if asked:
            return self._with_others(layer, h, ids, weights, asked, meanwhile, bring)
        return self._here(layer, h, ids, weights, meanwhile, bring)

    def _asked(self, layer: int, stream: Stream | None) -> list[Remote]:
        """Who computes experts of this layer, beside this device."""
        there = [r for r in self.remotes if layer in r.owned]
        return there if stream is None else [r for r in there if r.device not in stream.devices]

    def note(self, layer: int, ids: NDArray[np.int32]) -> None:
        """These experts were chosen: int32 [T, A]. A copy is kept: a remembered step writes over its arrays."""
        ids = ids.copy()
        if self.watch:
            self.watch(layer, ids)
        self._later(layer, ids)
        if len(ids) > _SMALL:
            self._count()

    def _later(self, layer: int, ids: Array) -> None:
        self._uncounted.append((layer, ids))
        if len(self._uncounted) > _MOST_UNCOUNTED:
            self._count()

    def chosen(self) -> NDArray[np.int64]:
        """How often each expert was chosen so far: [layers, E], a copy."""
        self._count()
        return self._counts.copy()

    def _count(self) -> None:
        noted, self._uncounted = self._uncounted, []  # at once: somebody may be noting meanwhile
        for layer, ids in noted:
            self._counts[layer] += np.bincount(self._ops.to_host(ids).ravel(), minlength=self._counts.shape[1])

    def _by_choice(
        self, layer: int, h: Array, ids: NDArray[np.int32], weights: Array, shared: Shared, meanwhile: Meanwhile
    ) -> Sequence[Array]:
        """Where experts have copies: each holder is told which to compute, by ids of -1 for all others."""
        holder = shared.holders(ids)
        told = [(r, _only(ids, holder == shared.place[r.device])) for r in self.remotes if r.device in shared.place]
        asked = [(r, theirs) for r, theirs in told if (theirs >= 0).any()]
        own = self._ops.from_host(_only(ids, holder == 0))
        if asked:
            return self._with_others(layer, h, own, weights, asked, meanwhile)
        return self._here(layer, h, own, weights, meanwhile)

    def recorded(
        self, recording: Recording, layer: int, h: Array, ids: Array, weights: Array, meanwhile: Meanwhile = None
    ) -> Sequence[Array]:
        """As calling it, for a step that is remembered: the exchanges are the host's part of it, and parts of nobody
        who was asked are zeros. Who counts the chosen is whoever runs the step."""
        stream = self._streams.of(layer, len(ids)) if self._streams else None
        bring = None
        if self._streams and stream:
            bring = functools.partial(self._streams.recorded, recording, stream, h, ids, weights)
        remotes = self._asked(layer, stream)
        if not remotes:
            return self._here(layer, h, ids, weights, meanwhile, bring)
        asking = Asking(self._ops, self._clock, layer, h, ids, weights, remotes, self._shared.get(layer))
        recording.call(asking.start)
        parts = self._here(layer, h, asking.own, weights, meanwhile, bring)
        recording.call(asking.finish, waits=True)
        return [*parts, *map(self._ops.from_host, asking.parts)]

    def _here(
        self, layer: int, h: Array, ids: Array, weights: Array, meanwhile: Meanwhile, bring: Bring = None
    ) -> list[Array]:
        parts = [self._ops.experts(h, ids, weights, self._local[layer])] if layer in self._local else []
        if meanwhile:
            meanwhile()
        if bring:
            self._ops.start(*parts)
            parts += bring()
        return parts

    def _with_others(
        self,
        layer: int,
        h: Array,
        ids: Array,
        weights: Array,
        asked: Sequence[tuple[Remote, NDArray[np.int32]]],
        meanwhile: Meanwhile,
        bring: Bring = None,
    ) -> list[Array]:
        """`ids` for this device, and for each that is asked."""
        ops = self._ops
        started = perf_counter()
        busy = [r.owner.traffic.busy_s for r, _ in asked]
        host_h, host_weights = ops.to_host(h), ops.to_host(weights)
        for remote, theirs in asked:
            remote.owner.start(layer, host_h, theirs, host_weights)
        sent = perf_counter()
        parts = self._here(layer, h, ids, weights, meanwhile, bring)
        ops.start(*parts)
        waiting = perf_counter()
        for (remote, _), busy_before in zip(asked, busy):
            parts.append(ops.from_host(remote.owner.finish()))
            work = max(waiting - sent, remote.owner.traffic.busy_s - busy_before)
            remote.rounds.note(perf_counter() - started, work)
            self._clock.asked(remote.device, f"experts of layer {layer}", started)
        self._clock.waited(perf_counter() - waiting + sent - started)
        return parts
