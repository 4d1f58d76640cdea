"""The best state made of given patterns: layer by layer, with all partial states that may still win.

A partial state is kept while what it took, and the least that the remaining layers can take, stay below the best
state known. That least is a Lagrangian bound: memory has a price on each device, found by subgradients, so that a
partial state that filled the fast devices early is not thought cheap. Where more partial states remain than `_KEPT`,
the most promising stay, and the result is no longer proven (`Found.proven`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from motley.plan.state import Pattern, Pricer, Sets, State

_GAIN = 0.002  # relative: less is not worth looking for
_KEPT = 20_000  # partial states from layer to layer
_FASTEST = 100  # of those with equal homes, against which the others are held
_AT_ONCE = 3_000_000  # of (partial state, pattern)
_ROUNDS = 120  # of the search for prices

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    state: State | None  # None: nothing better than what was known
    proven: bool


@dataclass(frozen=True, eq=False)
class _Columns:
    """C patterns of one kind of layer."""

    patterns: list[Pattern]
    home: NDArray[np.int64]  # [C]
    ms: Floats  # [C]
    use: Floats  # [C, D] parts of the model's bytes


@dataclass(frozen=True, eq=False)
class _Partials:
    """N states of the layers so far."""

    ms: Floats  # [N]
    used: Floats  # [N, D]
    first: NDArray[np.int64]
    home: NDArray[np.int64]
    homes: NDArray[np.int64]  # a bit for each device that was a home
    parent: NDArray[np.int64]
    column: NDArray[np.int64]

    def take(self, which: NDArray[np.int64]) -> "_Partials":
        return _Partials(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


class Beam:
    def __init__(self, pricer: Pricer, columns: Mapping[int, Sequence[Pattern]], sets: Sequence[Sets]) -> None:
        self._pricer = pricer
        self._unit = float(pricer.shape.n_bytes)
        n = len(pricer.devices)
        as_home = [m - pricer.work[0] if d in set(pricer.homes) else -1 for d, m in enumerate(pricer.memory)]
        self._room_home = np.array(as_home) / self._unit
        self._room = np.array([max(0, m - pricer.work[1]) for m in pricer.memory]) / self._unit
        self._hop = np.array([[pricer.hop(a, b, False) for b in range(n)] for a in range(n)])
        self._last_hop = np.array([[pricer.hop(a, b, True) for b in range(n)] for a in range(n)])
        self._ends = np.array([[pricer.ends_ms(a, b, sets) for b in range(n)] for a in range(n)])
        self._columns = {kind: self._priced(kind, patterns, sets) for kind, patterns in columns.items()}

    def _priced(self, kind: int, patterns: Sequence[Pattern], sets: Sequence[Sets]) -> _Columns:
        """Only those that fit by themselves."""
        pricer, use = self._pricer, np.zeros((len(patterns), len(self._pricer.devices)))
        for row, pattern in zip(use, patterns):
            row[pattern.home] = pricer.home_bytes[kind] + pricer.kv[kind]
            for d, n in pattern.held:
                row[d] += n * pricer.expert_bytes[kind]
        use /= self._unit
        home = np.array([p.home for p in patterns])
        fits = (use <= self._room).all(1) & (use[np.arange(len(home)), home] <= self._room_home[home])
        kept = [p for p, ok in zip(patterns, fits) if ok]
        ms = np.array([pricer.layer_ms(kind, p, sets) for p in kept])
        return _Columns(kept, home[fits], ms, use[fits])

    def search(self, best_ms: float, until: float) -> Found:
        """A state faster than `best_ms`, by the prices of `sets`."""
        kinds = self._pricer.kind
        if any(not len(self._columns[k].patterns) for k in kinds):
            return Found(None, True)
        prices = self.prices(best_ms)
        rest = [self._rest(price) for price in prices]
        partials, history, proven = self._start(), list[_Partials](), True
        for layer in range(len(kinds)):
            if monotonic() > until:
                return Found(None, False)
            partials, whole = self._extended(partials, layer, prices, rest, best_ms)
            proven = proven and whole
            if not len(partials.ms):
                return Found(None, proven)
            history.append(partials)
        return Found(self._best(history, best_ms), proven)

    # -- what memory is worth
    def prices(self, best_ms: float) -> list[Floats]:
        """[D] milliseconds for all the model's bytes: none, and those that give the highest bound."""
        kinds, times = np.unique(self._pricer.kind, return_counts=True)
        price = np.zeros(len(self._room))
        best, best_bound = price, -inf
        factor = 1.0
        for round_ in range(_ROUNDS):
            reduced = [self._columns[k].ms + self._columns[k].use @ price for k in kinds]
            chosen = [int(r.argmin()) for r in reduced]
            bound = float(sum(n * r[c] for n, r, c in zip(times, reduced, chosen)) - price @ self._room)
            if bound > best_bound * (1 + 1e-4):
                best, best_bound = price, bound
            elif round_ % 10 == 9:
                factor /= 2
            over = sum(n * self._columns[k].use[c] for n, k, c in zip(times, kinds, chosen)) - self._room
            size = float(over @ over)
            aim = best_ms if best_ms < inf else 1.5 * abs(bound) + 1e-9
            if size < 1e-18 or bound >= aim:
                break
            price = np.maximum(0.0, price + factor * (aim - bound) / size * over)
        return [np.zeros_like(price), best]

    def promising(self, best_ms: float, margin: float) -> dict[int, list[Pattern]]:
        """The patterns that may be part of a state as fast as `best_ms`, if each may turn out faster by `margin`."""
        price = self.prices(best_ms)[-1]
        reduced = {k: c.ms + c.use @ price for k, c in self._columns.items()}
        spare = best_ms * (1 + margin) - (sum(reduced[k].min() for k in self._pricer.kind) - price @ self._room)
        return {
            k: [p for p, ms in zip(c.patterns, reduced[k]) if ms <= reduced[k].min() + spare]
            for k, c in self._columns.items()
        }

    def _rest(self, price: Floats) -> list[float]:
        """[layers + 1]: the least that the layers from there on take, memory paid for."""
        least = {k: float((c.ms + c.use @ price).min()) for k, c in self._columns.items()}
        found = [0.0]
        for kind in reversed(self._pricer.kind):
            found.append(found[-1] + least[kind])
        return found[::-1]

    # -- partial states
    def _start(self) -> _Partials:
        """No layer yet: one for each first home."""
        homes = np.array(self._pricer.homes)
        used = np.zeros((len(homes), len(self._room)))
        used[np.arange(len(homes)), homes] = self._pricer.embed_bytes / self._unit
        zeros = np.zeros(len(homes), np.int64)
        return _Partials(np.zeros(len(homes)), used, homes, homes, 1 << homes, zeros, zeros)

    def _extended(
        self, old: _Partials, layer: int, prices: list[Floats], rest: list[list[float]], best_ms: float
    ) -> tuple[_Partials, bool]:
        columns, limit = self._columns[self._pricer.kind[layer]], best_ms * (1 - _GAIN)
        step = max(1, _AT_ONCE // len(columns.ms))
        parts, whole = [], True
        for start in range(0, len(old.ms), step):
            part = np.arange(start, min(start + step, len(old.ms)))
            parts.append(self._extend(old, part, columns, layer, prices, rest, limit))
        new = _Partials(*(np.concatenate(arrays) for arrays in zip(*(vars(p).values() for p in parts))))
        new = new.take(self._different(new))
        if len(new.ms) > _KEPT:
            bound = new.ms + new.used @ prices[-1]
            new, whole = new.take(np.sort(np.argpartition(bound, _KEPT)[:_KEPT])), False
        return new, whole

    def _extend(
        self,
        old: _Partials,
        part: NDArray[np.int64],
        columns: _Columns,
        layer: int,
        prices: list[Floats],
        rest: list[list[float]],
        limit: float,
    ) -> _Partials:
        last = layer == len(self._pricer.kind) - 1
        home, first, bits = old.home[part], old.first[part], 1 << columns.home
        ms = old.ms[part][:, None] + columns.ms[None, :]
        moves = home[:, None] != columns.home[None, :]
        if layer:
            ms += np.where(moves, self._hop[first, home][:, None], 0.0)  # paid when left: the last one costs another
            moves &= (old.homes[part][:, None] & bits[None, :]) != 0  # a home that was left is not taken again
        ms[moves] = inf
        if last:
            ms += (self._ends[first] + self._last_hop[first])[:, columns.home]
        may = ms < inf
        for price, after in zip(prices, rest):
            paid = ms + (old.used[part] @ price)[:, None] + (columns.use @ price)[None, :]
            may &= paid + after[layer + 1] - price @ self._room < limit
        rows, column = np.nonzero(may)
        parent, new_home = part[rows], columns.home[column]
        used = old.used[parent] + columns.use[column]
        held = used.copy()
        if last:
            held[np.arange(len(held)), new_home] += self._pricer.head_bytes / self._unit
        homes = old.homes[parent] | bits[column]
        was_home = (homes[:, None] >> np.arange(len(self._room))) & 1 == 1
        fits = (held <= np.where(was_home, self._room_home, self._room) * (1 + 1e-12)).all(1)
        found = _Partials(ms[rows, column], used, first[rows], new_home, homes, parent, column)
        return found.take(np.flatnonzero(fits))

    def _different(self, found: _Partials) -> NDArray[np.int64]:
        """Of those that differ only in how they came about, the fastest; without those that others beat."""
        facts = np.column_stack([found.first, found.home, found.homes, np.round(found.used * 1e9)])
        order = np.lexsort((found.ms, *facts.T[::-1]))
        same = np.zeros(len(order), bool)
        if len(order) > 1:
            same[1:] = (facts[order[1:]] == facts[order[:-1]]).all(1)
        order = order[~same]
        places = facts[order][:, :3]
        starts = np.flatnonzero(np.r_[True, (places[1:] != places[:-1]).any(1)]) if len(order) else order
        kept = [self._unbeaten(found, group) for group in np.split(order, starts[1:])]
        return np.sort(np.concatenate(kept))

    def _unbeaten(self, found: _Partials, group: NDArray[np.int64]) -> NDArray[np.int64]:
        """Without those that one of the fastest beats in time and on every device's memory."""
        group = group[np.argsort(found.ms[group], kind="stable")]
        used, rank = found.used[group], np.arange(len(group))
        beaten = np.zeros(len(group), bool)
        for fast in range(min(_FASTEST, len(group))):
            if not beaten[fast]:
                beaten |= (rank > fast) & (used >= used[fast] - 1e-12).all(1)
        return group[~beaten]

    def _best(self, history: list[_Partials], best_ms: float) -> State | None:
        at = int(history[-1].ms.argmin())
        if history[-1].ms[at] >= best_ms:
            return None
        state: list[Pattern] = []
        for layer in range(len(history) - 1, -1, -1):
            state.append(self._columns[self._pricer.kind[layer]].patterns[history[layer].column[at]])
            at = int(history[layer].parent[at])
        return tuple(reversed(state))
