"""Improving a state by small moves until none helps, or the time is over. Deterministic.

Moves: experts of one layer, or of a whole run of layers with one home, from one device to another; the same with
another layer's experts going the other way, where memory is tight; a layer across the border between two runs; a run,
or an end of one, to another home; two homes that trade places. On large labs only promising devices are tried: those
that a layer waits for give, those that would be done first take.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from time import monotonic

from motley.plan.state import Pattern, Pricer, State

_GAIN = 1e-9  # relative: below it a move is a tie
_GIVERS = 6  # of a layer's devices
_TAKERS = 8

Run = tuple[int, int]  # layers [start, stop)


def improve(pricer: Pricer, state: State, until: float) -> tuple[State, float]:
    """Hill climbing: the first of each kind of move that helps, in turn. A state that does not fit is first made to,
    if moves that shrink what is missing can."""
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
            if monotonic() > until:
                return state
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


def runs(state: State) -> list[Run]:
    """Of layers with one home."""
    n = len(state)
    return list(pairwise([0, *(i for i in range(1, n) if state[i].home != state[i - 1].home), n]))


def _with(state: State, layers: Sequence[int], patterns: Sequence[Pattern]) -> State:
    found = list(state)
    for i, pattern in zip(layers, patterns):
        found[i] = pattern
    return tuple(found)


def _kinds(pricer: Pricer, state: State) -> list[int]:
    """One layer of each kind and pattern."""
    seen: dict[tuple[int, Pattern], int] = {}
    for i, pattern in enumerate(state):
        seen.setdefault((pricer.kind[i], pattern), i)
    return list(seen.values())


def _pairs(pricer: Pricer, index: int, pattern: Pattern) -> list[tuple[int, int]]:
    """(giver, taker) of one layer's experts, the most promising first."""
    givers = [d for d, _ in sorted(pattern.held, key=lambda held: -pricer.done_ms(index, pattern.home, *held))]
    takers = pricer.takers(index, pattern, _TAKERS)
    return [(a, b) for b in takers for a in givers[:_GIVERS] if a != b]


def _shifts(pricer: Pricer, state: State) -> Iterator[State]:
    """Experts from a to b: in all layers of a run together, then in one."""
    for start, stop in runs(state):
        layers = [i for i in range(start, stop) if state[i].held]
        if len(layers) < 2:
            continue
        for a, b in _pairs(pricer, layers[0], state[layers[0]]):
            for n in _steps(max(state[i].on(a) for i in layers)):
                yield _with(state, layers, [pricer.moved(state[i], a, b, min(n, state[i].on(a))) for i in layers])
    for i in _kinds(pricer, state):
        for a, b in _pairs(pricer, i, state[i]):
            for n in _steps(state[i].on(a)):
                yield _with(state, (i,), [pricer.moved(state[i], a, b, n)])


def _swaps(pricer: Pricer, state: State) -> Iterator[State]:
    """n experts of one layer from a to b, n of another's from b to a."""
    kinds = _kinds(pricer, state)
    for i in kinds:
        for a, b in _pairs(pricer, i, state[i]):
            for j in kinds:
                for n in _steps(min(state[i].on(a), state[j].on(b))) if i != j else ():
                    yield _with(state, (i, j), [pricer.moved(state[i], a, b, n), pricer.moved(state[j], b, a, n)])


def _borders(pricer: Pricer, state: State) -> Iterator[State]:
    """The layer before or after a border joins the other home; experts at the old home go along or stay."""
    for i in range(1, len(state)):
        before, after = state[i - 1].home, state[i].home
        if before != after:
            yield from _rehomed(pricer, state, (i,), before)
            yield from _rehomed(pricer, state, (i - 1,), after)


def _moves(pricer: Pricer, state: State) -> Iterator[State]:
    """A run of layers, or an end of one, to a device that is no home yet; a run to a neighbour's home; or two homes
    trade places."""
    used = list(dict.fromkeys(p.home for p in state))
    fresh = pricer.best_homes(2 * _TAKERS, without=frozenset(used))
    edges = runs(state)
    for at, (start, stop) in enumerate(edges):
        for near in (at - 1, at + 1):
            if 0 <= near < len(edges):
                yield from _rehomed(pricer, state, range(start, stop), state[edges[near][0]].home)
        for device in fresh:
            for size in _steps(stop - start):
                yield from _rehomed(pricer, state, range(start, start + size), device)
                if size < stop - start:
                    yield from _rehomed(pricer, state, range(stop - size, stop), device)
    for x, a in enumerate(used):
        for b in used[x + 1 :]:
            yield _renamed(pricer, state, {a: b, b: a})


def _rehomed(pricer: Pricer, state: State, layers: Sequence[int], device: int) -> Iterator[State]:
    old = [state[i] for i in layers]
    yield _with(state, layers, [pricer.moved(p, p.home, device, p.on(p.home), device) for p in old])
    yield _with(state, layers, [pricer.pattern(device, p.held) for p in old])


def _renamed(pricer: Pricer, state: State, names: dict[int, int]) -> State:
    return tuple(
        pricer.pattern(names.get(p.home, p.home), [(names.get(d, d), n) for d, n in p.held])
        if p.home in names or any(d in names for d, _ in p.held)
        else p
        for p in state
    )
