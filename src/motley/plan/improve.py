"""Improving a state by small moves until none helps, or the time is over. Deterministic.

Moves: experts of one layer, or of all layers with the same home, from one device to another; the same with another
layer's experts going the other way, where memory is tight; a layer across the border between two homes; a whole run of
layers to another home.
"""

from collections.abc import Iterator
from itertools import pairwise
from time import monotonic

from motley.plan.state import Counts, Pricer, State

_GAIN = 1e-9  # relative: below it a move is a tie


def improve(pricer: Pricer, state: State, until: float) -> tuple[State, float]:
    """Hill climbing: the best of each kind of move in turn. A state that does not fit is first made to, if moves
    that shrink what is missing can."""
    state = _made_to_fit(pricer, state, until)
    best = pricer.ms(state)
    found = True
    while found and monotonic() < until:
        found = False
        for kind in (_shifts, _borders, _moves, _swaps):
            for other in kind(pricer, state):
                ms = pricer.ms(other)
                if ms < best * (1 - _GAIN):
                    state, best, found = other, ms, True
                    break
                if monotonic() > until:
                    return state, best
            if found:
                break
    return state, best


def _made_to_fit(pricer: Pricer, state: State, until: float) -> State:
    missing = pricer.missing(state)
    while missing and monotonic() < until:
        for other in (s for kind in (_shifts, _borders, _moves) for s in kind(pricer, state)):
            less = pricer.missing(other)
            if less < missing:
                state, missing = other, less
                break
        else:
            return state
    return state


def _steps(n: int) -> list[int]:
    """How many experts to move at once: all, and halves of it down to one."""
    steps = []
    while n:
        steps.append(n)
        n //= 2
    return steps


def _moved(counts: Counts, a: int, b: int, n: int) -> Counts:
    found = list(counts)
    found[a] -= n
    found[b] += n
    return tuple(found)


def _kinds(pricer: Pricer, state: State) -> list[int]:
    """One layer of each kind: equal cost, equal home, equal counts."""
    seen: dict[tuple[int, int, Counts], int] = {}
    for i, (home, counts) in enumerate(zip(state.homes, state.counts)):
        seen.setdefault((pricer.model.alike(i), home, counts), i)
    return list(seen.values())


def _pairs(pricer: Pricer) -> Iterator[tuple[int, int]]:
    devices = range(len(pricer.devices))
    return ((a, b) for a in devices for b in devices if a != b)


def _shifts(pricer: Pricer, state: State) -> Iterator[State]:
    """Experts from a to b: in all layers of a home together, then in one."""
    for a, b in _pairs(pricer):
        for home in dict.fromkeys(state.homes):
            layers = [i for i, h in enumerate(state.homes) if h == home]
            for n in _steps(max(state.counts[i][a] for i in layers)):
                counts = [_moved(c, a, b, min(n, c[a])) if i in layers else c for i, c in enumerate(state.counts)]
                yield State(state.homes, tuple(counts))
        for i in _kinds(pricer, state):
            for n in _steps(state.counts[i][a]):
                yield state.with_layer(i, state.homes[i], _moved(state.counts[i], a, b, n))


def _swaps(pricer: Pricer, state: State) -> Iterator[State]:
    """n experts of one layer from a to b, n of another's from b to a."""
    kinds = _kinds(pricer, state)
    for a, b in _pairs(pricer):
        for i in kinds:
            for j in kinds:
                for n in _steps(min(state.counts[i][a], state.counts[j][b])) if i != j else ():
                    there = state.with_layer(i, state.homes[i], _moved(state.counts[i], a, b, n))
                    yield there.with_layer(j, state.homes[j], _moved(state.counts[j], b, a, n))


def _borders(pricer: Pricer, state: State) -> Iterator[State]:
    """The layer before or after a border joins the other home; experts at the old home go along or stay."""
    for i in range(1, len(state.homes)):
        before, after = state.homes[i - 1], state.homes[i]
        if before != after:
            yield from _rehomed(state, (i,), before)
            yield from _rehomed(state, (i - 1,), after)


def _moves(pricer: Pricer, state: State) -> Iterator[State]:
    """A run of layers, or an end of one, to a device that is no home yet; or two homes trade places."""
    homes, n = state.homes, len(state.homes)
    edges = [0, *(i for i in range(1, n) if homes[i] != homes[i - 1]), n]
    for start, stop in pairwise(edges):
        for device in range(len(pricer.devices)):
            if device in homes:
                continue
            for size in _steps(stop - start):
                yield from _rehomed(state, range(start, start + size), device)
                yield from _rehomed(state, range(stop - size, stop), device)
    used = list(dict.fromkeys(homes))
    for x, a in enumerate(used):
        for b in used[x + 1 :]:
            trade = {a: b, b: a}
            yield _renamed(state, trade)


def _rehomed(state: State, layers: range | tuple[int, ...], device: int) -> Iterator[State]:
    stay, along = state, state
    for i in layers:
        old, counts = state.homes[i], state.counts[i]
        stay = stay.with_layer(i, device, counts)
        along = along.with_layer(i, device, _moved(counts, old, device, counts[old]))
    yield along
    yield stay


def _renamed(state: State, names: dict[int, int]) -> State:
    counts = []
    for row in state.counts:
        found = list(row)
        for a, b in names.items():
            found[b] = row[a]
        counts.append(tuple(found))
    return State(tuple(names.get(h, h) for h in state.homes), tuple(counts))
