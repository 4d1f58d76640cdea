"""Where the head's rows live: the last home sends its normed activations to every other holder, multiplies its own rows
meanwhile, and puts the logits together. No dot product is split: the bits are those of one device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from motley.engine.experts import Busy, Rounds
from motley.engine.times import Clock
from motley.models.layers import OutputRows
from motley.ops.protocol import Array, Ops, Recording


class RowsOwner(Protocol):
    """Another node's rows, over a link (`cluster.remote.RemoteHead`)."""

    @property
    def traffic(self) -> Busy: ...

    @property
    def transport(self) -> str: ...

    def start(self, h: NDArray[np.float32]) -> None: ...

    def finish(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class RemoteRows:
    device: str
    owner: RowsOwner
    rows: range
    rounds: Rounds = field(default_factory=Rounds)


class PlacedHead:
    """Multiplies h by all rows, wherever they are (`models.layers.RunHead`)."""

    def __init__(self, ops: Ops, clock: Clock, remotes: Sequence[RemoteRows]) -> None:
        self._ops, self._clock, self.remotes = ops, clock, remotes

    def __call__(self, own: OutputRows, h: Array) -> Array:
        """h [R, D] -> logits [R, V]"""
        return self._done(own, h, _now)

    def recorded(self, recording: Recording) -> Callable[[OutputRows, Array], Array]:
        """As calling it, for a step that is remembered: the exchanges are the host's part of it."""
        return lambda own, h: self._done(own, h, recording.call)

    def _done(self, own: OutputRows, h: Array, call: Callable[[Callable[[], None], bool], None]) -> Array:
        ops = self._ops
        if not self.remotes:
            return own(ops, h)
        asking = _Asking(self._clock, self.remotes, ops.to_host(h), own.rows)
        call(asking.start, False)
        asking.own = ops.to_host(own(ops, h))
        call(asking.finish, True)
        return ops.from_host(asking.logits)


def _now(work: Callable[[], None], waits: bool) -> None:
    work()


class _Asking:
    """The exchanges of one step, with the same arrays every time."""

    def __init__(self, clock: Clock, remotes: Sequence[RemoteRows], h: NDArray[np.float32], rows: range) -> None:
        self._clock, self._remotes, self._h, self._rows = clock, remotes, h, rows
        width = len(rows) + sum(len(remote.rows) for remote in remotes)
        self.logits = np.empty((len(h), width), np.float32)
        self.own = self.logits  # until the own rows are known
        self._started = self._sent = 0.0

    def start(self) -> None:
        self._started = perf_counter()
        for remote in self._remotes:
            remote.owner.start(self._h)
        self._sent = perf_counter()
        self._clock.waited(self._sent - self._started)

    def finish(self) -> None:
        waiting = perf_counter()
        self.logits[:, self._rows.start : self._rows.stop] = self.own
        for remote in self._remotes:
            busy_before = remote.owner.traffic.busy_s
            self.logits[:, remote.rows.start : remote.rows.stop] = remote.owner.finish()
            work = max(waiting - self._sent, remote.owner.traffic.busy_s - busy_before)
            remote.rounds.note(perf_counter() - self._started, work)
            self._clock.asked(remote.device, "rows of the head", self._started)
        self._clock.waited(perf_counter() - waiting)
