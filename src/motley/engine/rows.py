"""Where the rows of the output matrix and of a layer's projections live: the home sends what they multiply to every
other holder, multiplies its own rows meanwhile, and puts the products together. No dot product is split: the bits are
those of one device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from motley.engine.experts import Busy, Rounds
from motley.engine.times import Clock
from motley.models.rows import Rows, cuts
from motley.ops.protocol import Array, Ops, Recording

Key = int | None  # a layer, whose projections they are; None: the output matrix


class RowsOwner(Protocol):
    """Another node's rows, over a link (`cluster.remote.RemoteRows`)."""

    @property
    def traffic(self) -> Busy: ...

    @property
    def transport(self) -> str: ...

    def start(self, layer: int | None, h: NDArray[np.float32], n_rows: int) -> None: ...

    def finish(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Elsewhere:
    """The rows that another device has, and what asking it took so far."""

    device: str
    owner: RowsOwner
    rows: Mapping[Key, range]
    rounds: Rounds = field(default_factory=Rounds)


class PlacedRows:
    """Multiplies h by all rows, wherever they are (`models.rows.RunRows`)."""

    def __init__(self, ops: Ops, clock: Clock, remotes: Sequence[Elsewhere]) -> None:
        self._ops, self._clock, self.remotes = ops, clock, remotes

    def __call__(self, own: Rows, h: Array) -> Sequence[Array]:
        """h [T, D] -> [T, height] of each matrix"""
        return self._done(own, h, _now)

    def recorded(self, recording: Recording) -> Callable[[Rows, Array], Sequence[Array]]:
        """As calling it, for a step that is remembered: the exchanges are the host's part of it."""
        return lambda own, h: self._done(own, h, recording.call)

    def _done(self, own: Rows, h: Array, call: Callable[[Callable[[], None], bool], None]) -> Sequence[Array]:
        ops = self._ops
        asked = [remote for remote in self.remotes if own.layer in remote.rows]
        if not asked:
            return own(ops, h)
        asking = _Asking(self._clock, asked, ops.to_host(h), own)
        call(asking.start, False)
        asking.own = [ops.to_host(y) for y in own(ops, h)]
        call(asking.finish, True)
        return [ops.from_host(y) for y in asking.products]


def _now(work: Callable[[], None], waits: bool) -> None:
    work()


class _Asking:
    """The exchanges of one step, with the same arrays every time."""

    def __init__(self, clock: Clock, remotes: Sequence[Elsewhere], h: NDArray[np.float32], own: Rows) -> None:
        self._clock, self._remotes, self._h, self._layer = clock, remotes, h, own.layer
        self._what = "rows of the head" if own.layer is None else f"projections of layer {own.layer}"
        self.products = [np.empty((len(h), height), np.float32) for height in own.heights]
        self.own: list[NDArray[np.float32]] = []  # until the own rows are known
        self._own_rooms = [self.products[matrix][:, first:end] for matrix, first, end in own.cuts]
        self._rooms = [self._rooms_of(cuts(own.heights, remote.rows[own.layer])) for remote in remotes]
        self._started = self._sent = 0.0

    def _rooms_of(self, parts: Sequence[tuple[int, int, int]]) -> list[tuple[NDArray[np.float32], slice]]:
        """Where the columns of an answer belong."""
        found, at = [], 0
        for matrix, first, end in parts:
            found.append((self.products[matrix][:, first:end], slice(at, at + end - first)))
            at += end - first
        return found

    def start(self) -> None:
        self._started = perf_counter()
        for remote in self._remotes:
            remote.owner.start(self._layer, self._h, len(remote.rows[self._layer]))
        self._sent = perf_counter()
        self._clock.waited(self._sent - self._started)

    def finish(self) -> None:
        waiting = perf_counter()
        for room, product in zip(self._own_rooms, self.own):
            room[:] = product
        for remote, rooms in zip(self._remotes, self._rooms):
            busy_before = remote.owner.traffic.busy_s
            answer = remote.owner.finish()
            for room, columns in rooms:
                room[:] = answer[:, columns]
            work = max(waiting - self._sent, remote.owner.traffic.busy_s - busy_before)
            remote.rounds.note(perf_counter() - self._started, work)
            self._clock.asked(remote.device, self._what, self._started)
        self._clock.waited(perf_counter() - waiting)
