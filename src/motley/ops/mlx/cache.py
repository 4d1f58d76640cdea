"""MlxCache: one layer's keys and values on the device, a pair of arrays for each sequence, which grow with it and keep
no position that its span has left behind."""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from motley.ops.protocol import Span

Array = Any  # mx.array

_STEP = 256  # positions that memory is taken for at a time, at least


@dataclass
class Slot:
    """keys, values: [1, K, room, width]; position `start` lies at 0. No values where they lie in the keys."""

    keys: Array = None
    values: Array = None
    start: int = 0

    @property
    def room(self) -> int:
        return 0 if self.keys is None else int(self.keys.shape[2])


@dataclass(frozen=True)
class MlxCache:
    """`stored`: the type that keys and values are kept as. `one`: the values are the keys' first elements."""

    n_slots: int
    context: int
    n_kv_heads: int
    head_dim: int
    value_dim: int
    span: Span
    stored: Any
    one: bool = False
    slots: list[Slot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slots.extend(Slot() for _ in range(self.n_slots))

    def store(self, slot: int, first: int, keys: Array, values: Array) -> None:
        """keys [n, K*N], values [n, K*M] of the positions from `first` on."""
        s, n = self.slots[slot], len(keys)
        if first == 0:  # a new sequence
            s.start = 0
        _require(first, s)
        self._make_room(s, first, first + n)
        at = slice(first - s.start, first - s.start + n)
        s.keys[:, :, at] = self._heads(keys)
        if not self.one:
            s.values[:, :, at] = self._heads(values)

    def seen(self, slot: int, first: int, end: int) -> tuple[Array, Array]:
        """Keys and values of the positions [first, end): float32 [1, K, end - first, width]."""
        s = self.slots[slot]
        _require(first, s)
        part = slice(first - s.start, end - s.start)
        keys = s.keys[:, :, part].astype(mx.float32)
        return keys, keys[..., : self.value_dim] if self.one else s.values[:, :, part].astype(mx.float32)

    def _heads(self, x: Array) -> Array:
        """[n, K*width] -> [1, K, n, width]"""
        return x.reshape(len(x), self.n_kv_heads, -1).swapaxes(0, 1)[None].astype(self.stored)

    def _make_room(self, s: Slot, first: int, end: int) -> None:
        if end - s.start <= s.room:
            return
        start = min(max(self.span.first(first), s.start), first)  # what the span left behind goes
        room = min(self.context - start, max(end - start + _STEP - 1, 2 * (first - start)) // _STEP * _STEP + _STEP)
        kept = slice(start - s.start, first - s.start)
        s.keys = self._moved(s.keys, kept, room, self.head_dim)
        if not self.one:
            s.values = self._moved(s.values, kept, room, self.value_dim)
        s.start = start

    def _moved(self, old: Array, kept: slice, room: int, width: int) -> Array:
        new = mx.zeros((1, self.n_kv_heads, max(room, 1), width), self.stored)
        n = kept.stop - kept.start
        if n:
            new[:, :, :n] = old[:, :, kept]
        return new


def _require(position: int, s: Slot) -> None:
    if position < s.start:
        raise ValueError(f"position {position} was left behind: what is kept of the sequence begins at {s.start}")
