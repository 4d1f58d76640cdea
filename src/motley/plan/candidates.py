"""Where the search starts: the arrangements that a person would think of.

All on one device; layers split into runs; attention on one device with the experts spread over all. Each is named, so
that the plan can say what it was weighed against. They need not fit: repairing is `improve`'s work, saying so is the
plan's.
"""

from collections.abc import Iterator, Sequence
from itertools import permutations
from math import inf

import numpy as np

from motley.plan.state import Pricer, State

_FEW = 6  # devices, of which everything is tried
_MAX_PAIRED = 4  # the fastest devices, tried as two homes with shared experts
_SPLITS = 5  # at so many points
_HOMES = 8  # of many devices

_Runs = tuple[float, tuple[int, ...]]  # milliseconds so far, layers on each device
_Counts = tuple[int, ...]  # experts on each device


def candidates(pricer: Pricer) -> Iterator[tuple[str, State]]:
    names = [d.name for d in pricer.devices]
    n, few = len(names), len(names) <= _FEW
    homes = pricer.homes if few else pricer.best_homes(_HOMES, frozenset())
    for device in homes:
        yield f"all on {names[device]}", _alone(pricer, device)
    if n == 1 or not few:  # `build` knows how to use many
        return
    for order in _orders(pricer, homes):
        found = _layer_split(pricer, order)
        if found is not None:
            yield "layers split over " + ", ".join(names[d] for d in order), found
    for first, second in permutations(homes[:_MAX_PAIRED], 2):
        for state in _two_homes(pricer, first, second):
            yield f"layers split over {names[first]}, {names[second]}, experts spread", state
    if any(pricer.n_experts):
        for home in homes:
            for state in _experts_apart(pricer, home):
                yield f"attention on {names[home]}, experts spread", state
            yield f"attention on {names[home]}, experts elsewhere", _experts_elsewhere(pricer, home)


def _alone(pricer: Pricer, device: int) -> State:
    return tuple(pricer.pattern(device, {device: n}) for n in pricer.n_experts)


# -- layers in runs


def _orders(pricer: Pricer, homes: list[int]) -> Iterator[tuple[int, ...]]:
    """Which devices, in which order. All of them while they are few; then the best ones, fast to slow."""
    if len(homes) <= 4:
        for size in range(2, len(homes) + 1):
            yield from permutations(homes, size)
        return
    ranked = pricer.best_homes(len(homes), frozenset())
    by_memory = sorted(ranked, key=lambda d: -pricer.memory[d])
    for size in range(2, len(ranked) + 1):
        yield tuple(ranked[:size])
        yield tuple(by_memory[:size])


def _layer_split(pricer: Pricer, order: tuple[int, ...]) -> State | None:
    """The fastest contiguous split in that order, every device used; None where memory allows none.

    best[i]: least time of layers 0..i on the devices so far."""
    n, sets = pricer.shape.n_layers, pricer.plain_sets()
    whole = {d: _alone(pricer, d) for d in order}
    best: list[_Runs] = [(0.0, ()), *[(inf, ())] * n]
    for place, device in enumerate(order):
        room = pricer.memory[device] - pricer.work[0]
        room -= pricer.embed_bytes if place == 0 else 0
        room -= pricer.head_bytes if place == len(order) - 1 else 0
        cost = [pricer.layer_ms(i, pattern, sets) for i, pattern in enumerate(whole[device])]
        best = _extend(pricer, best, cost, room)
    if best[n][0] == inf:
        return None
    homes = tuple(d for d, size in zip(order, best[n][1]) for _ in range(size))
    return tuple(whole[d][i] for i, d in enumerate(homes))


def _two_homes(pricer: Pricer, first: int, second: int) -> Iterator[State]:
    """Attention split at several points; experts at their layer's home, or dealt by speed."""
    n = pricer.shape.n_layers
    dealt = _deal(pricer, _shares(_speed(pricer), [float(m) for m in pricer.memory], _total(pricer)))
    for at in sorted({round(n * i / (_SPLITS + 1)) for i in range(1, _SPLITS + 1)} - {0, n}):
        homes = (first,) * at + (second,) * (n - at)
        yield tuple(pricer.pattern(home, {home: e}) for home, e in zip(homes, pricer.n_experts))
        yield _state(pricer, homes, dealt)


def _state(pricer: Pricer, homes: Sequence[int], counts: Sequence[_Counts]) -> State:
    return tuple(pricer.pattern(home, enumerate(row)) for home, row in zip(homes, counts))


def _total(pricer: Pricer) -> int:
    return sum(n * size for n, size in zip(pricer.n_experts, pricer.expert_bytes))


def _speed(pricer: Pricer) -> list[float]:
    """At which experts are read, relative to each other."""
    layer = next((i for i, n in enumerate(pricer.n_experts) if n), 0)
    ms: list[float] = pricer.field.experts(layer).tolist()
    return [1 / max(m, 1e-12) for m in ms]


def _extend(pricer: Pricer, best: list[_Runs], cost: list[float], room: float) -> list[_Runs]:
    n = len(cost)
    parts = zip(pricer.home_bytes, pricer.kv, pricer.expert_bytes, pricer.n_experts)
    size = [home + kv + each * experts for home, kv, each, experts in parts]
    after: list[_Runs] = [(inf, ())] * (n + 1)
    for start in range(n):
        time, runs = best[start]
        if time == inf:
            continue
        held = 0
        for stop in range(start + 1, n + 1):
            held += size[stop - 1]
            if held > room:
                break
            time += cost[stop - 1]
            if time < after[stop][0]:
                after[stop] = time, (*runs, stop - start)
    return after


# -- experts apart from attention


def _rooms(pricer: Pricer, home: int) -> list[float]:
    """Bytes for experts on each device, with everything else at `home`."""
    fixed = sum(pricer.home_bytes) + sum(pricer.kv) + pricer.embed_bytes + pricer.head_bytes
    return [
        max(0.0, memory - (pricer.work[0] + fixed if d == home else pricer.work[1]))
        for d, memory in enumerate(pricer.memory)
    ]


def _experts_apart(pricer: Pricer, home: int) -> Iterator[State]:
    """Shares by speed, and all that fits at home with the rest elsewhere: in every layer, or layer by layer."""
    rooms, total, speeds = _rooms(pricer, home), _total(pricer), _speed(pricer)
    n = pricer.shape.n_layers
    homes = (home,) * n
    yield _state(pricer, homes, _deal(pricer, _shares(speeds, rooms, total)))
    kept = min(1.0, rooms[home] / total)
    others = [0.0 if d == home else speed for d, speed in enumerate(speeds)]
    spread = _shares(others, rooms, total * (1 - kept))
    yield _state(pricer, homes, _deal(pricer, [kept if d == home else s * (1 - kept) for d, s in enumerate(spread)]))
    n_whole = int(kept * n)
    yield _alone(pricer, home)[:n_whole] + _state(pricer, homes, _deal(pricer, spread))[n_whole:]


def _experts_elsewhere(pricer: Pricer, home: int) -> State:
    speed = [0.0 if d == home else s for d, s in enumerate(_speed(pricer))]
    dealt = _deal(pricer, _shares(speed, _rooms(pricer, home), _total(pricer)))
    return _state(pricer, (home,) * pricer.shape.n_layers, dealt)


def _shares(speed: list[float], rooms: list[float], total: float) -> list[float]:
    """Parts of `total` bytes in proportion to speed, none above its room while others have some; adds up to 1."""
    share = [0.0] * len(speed)
    full: set[int] = set()
    while len(full) < len(speed):
        free = [d for d in range(len(speed)) if d not in full and speed[d] > 0]
        left = 1.0 - sum(share[d] for d in full)
        rate = sum(speed[d] for d in free)
        if not free or left <= 0:
            break
        for d in free:
            share[d] = left * speed[d] / rate
        over = {d for d in free if share[d] * total > rooms[d]}
        if not over:
            break
        for d in over:
            share[d] = rooms[d] / total
        full |= over
    rest = 1.0 - sum(share)
    if rest > 1e-9:  # nowhere fits: give it to the roomiest, so that what is missing can be said
        share[max(range(len(share)), key=lambda d: (speed[d] > 0, rooms[d]))] += rest
    return share


def _deal(pricer: Pricer, share: list[float]) -> tuple[_Counts, ...]:
    """Whole experts for every layer; what one layer rounds away the next gets."""
    owed, dealt = np.zeros(len(share)), []
    for n in pricer.n_experts:
        owed = owed + np.array(share) * n
        counts = np.maximum(np.floor(owed + 1e-9), 0)
        for _ in range(int(abs(n - counts.sum()))):
            if counts.sum() < n:
                counts[(owed - counts).argmax()] += 1
            else:
                counts[np.where(counts > 0, counts - owed, -inf).argmax()] -= 1
        owed = owed - counts
        dealt.append(tuple(counts.astype(int).tolist()))
    return tuple(dealt)
