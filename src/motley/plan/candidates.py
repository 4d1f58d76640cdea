"""Where the search starts: the arrangements that a person would think of.

All on one device; layers split into runs; attention on one device with the experts spread over all. Each is named, so
that the plan can say what it was weighed against. They need not fit: repairing is `improve`'s work, saying so is the
plan's.
"""

from collections.abc import Iterator
from itertools import permutations
from math import inf

from motley.plan.state import Counts, Pricer, State

_MAX_ORDERS = 400
_MAX_PAIRED = 4  # the fastest devices, tried as two homes with shared experts
_SPLITS = 5  # at so many points

_Runs = tuple[float, tuple[int, ...]]  # milliseconds so far, layers on each device


def candidates(pricer: Pricer) -> Iterator[tuple[str, State]]:
    names = [d.name for d in pricer.devices]
    for device, name in enumerate(names):
        yield f"all on {name}", _alone(pricer, device)
    if len(names) == 1:
        return
    for order in _orders(pricer):
        found = _layer_split(pricer, order)
        if found is not None:
            yield "layers split over " + ", ".join(names[d] for d in order), found
    for first, second in permutations(pricer.by_speed[:_MAX_PAIRED], 2):
        for state in _two_homes(pricer, first, second):
            yield f"layers split over {names[first]}, {names[second]}, experts spread", state
    for home, name in enumerate(names):
        for state in _experts_apart(pricer, home):
            yield f"attention on {name}, experts spread", state
        yield f"attention on {name}, experts elsewhere", _experts_elsewhere(pricer, home)


def _alone(pricer: Pricer, device: int) -> State:
    counts = tuple(pricer.shape.n_experts if d == device else 0 for d in range(len(pricer.devices)))
    n = pricer.shape.n_layers
    return State((device,) * n, (counts,) * n)


# -- layers in runs


def _orders(pricer: Pricer) -> Iterator[tuple[int, ...]]:
    """Which devices, in which order. All of them while they are few; then the fastest ones, fast to slow."""
    ranked = pricer.by_speed
    if len(ranked) <= 4:
        for size in range(2, len(ranked) + 1):
            yield from permutations(ranked, size)
        return
    by_memory = sorted(ranked, key=lambda d: -pricer.devices[d].memory_bytes)
    for size in range(2, min(len(ranked), _MAX_ORDERS // 2) + 1):
        yield tuple(ranked[:size])
        yield tuple(by_memory[:size])


def _layer_split(pricer: Pricer, order: tuple[int, ...]) -> State | None:
    """The fastest contiguous split in that order, every device used; None where memory allows none.

    best[i]: least time of layers 0..i on the devices so far."""
    n = pricer.shape.n_layers
    whole = [_alone(pricer, d).counts[0] for d in range(len(pricer.devices))]
    best: list[_Runs] = [(0.0, ()), *[(inf, ())] * n]
    sets = pricer.plain_sets()
    for place, device in enumerate(order):
        room = pricer.devices[device].memory_bytes - pricer.work[0]
        room -= pricer.shape.embed_bytes if place == 0 else 0
        room -= pricer.shape.head_bytes if place == len(order) - 1 else 0
        cost = [pricer.layer_ms(i, device, whole[device], sets) for i in range(n)]
        best = _extend(pricer, best, cost, room)
    if best[n][0] == inf:
        return None
    homes = tuple(d for d, size in zip(order, best[n][1]) for _ in range(size))
    return State(homes, tuple(whole[d] for d in homes))


def _two_homes(pricer: Pricer, first: int, second: int) -> Iterator[State]:
    """Attention split at several points; experts at their layer's home, or dealt by speed."""
    n = pricer.shape.n_layers
    rooms = [float(d.memory_bytes) for d in pricer.devices]
    total = pricer.shape.n_experts * sum(pricer.expert_bytes)
    dealt = _deal(pricer, _shares(pricer.speed, rooms, total))
    whole = [_alone(pricer, d).counts[0] for d in range(len(pricer.devices))]
    for at in sorted({round(n * i / (_SPLITS + 1)) for i in range(1, _SPLITS + 1)} - {0, n}):
        homes = (first,) * at + (second,) * (n - at)
        yield State(homes, tuple(whole[home] for home in homes))
        yield State(homes, dealt)


def _extend(pricer: Pricer, best: list[_Runs], cost: list[float], room: float) -> list[_Runs]:
    n = len(cost)
    n_experts = pricer.shape.n_experts
    size = [h + e * n_experts + kv for h, e, kv in zip(pricer.home_bytes, pricer.expert_bytes, pricer.kv)]
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
    shape = pricer.shape
    fixed = sum(pricer.home_bytes) + sum(pricer.kv) + shape.embed_bytes + shape.head_bytes
    return [
        max(0.0, d.memory_bytes - (pricer.work[0] + fixed if i == home else pricer.work[1]))
        for i, d in enumerate(pricer.devices)
    ]


def _experts_apart(pricer: Pricer, home: int) -> Iterator[State]:
    """Shares by speed, and all that fits at home with the rest elsewhere: in every layer, or layer by layer."""
    rooms, total = _rooms(pricer, home), pricer.shape.n_experts * sum(pricer.expert_bytes)
    homes = (home,) * pricer.shape.n_layers
    yield State(homes, _deal(pricer, _shares(pricer.speed, rooms, total)))
    kept = min(1.0, rooms[home] / total)
    others = [0.0 if d == home else speed for d, speed in enumerate(pricer.speed)]
    spread = _shares(others, rooms, total * (1 - kept))
    yield State(homes, _deal(pricer, [kept if d == home else s * (1 - kept) for d, s in enumerate(spread)]))
    whole = _alone(pricer, home).counts[0]
    n_whole = int(kept * pricer.shape.n_layers)
    yield State(homes, (whole,) * n_whole + _deal(pricer, spread)[n_whole:])


def _experts_elsewhere(pricer: Pricer, home: int) -> State:
    rooms, total = _rooms(pricer, home), pricer.shape.n_experts * sum(pricer.expert_bytes)
    speed = [0.0 if d == home else s for d, s in enumerate(pricer.speed)]
    return State((home,) * pricer.shape.n_layers, _deal(pricer, _shares(speed, rooms, total)))


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


def _deal(pricer: Pricer, share: list[float]) -> tuple[Counts, ...]:
    """Whole experts for every layer; what one layer rounds away the next gets."""
    n, owed, dealt = pricer.shape.n_experts, [0.0] * len(share), []
    for _ in range(pricer.shape.n_layers):
        owed = [o + s * n for o, s in zip(owed, share)]
        counts = [max(0, int(o + 1e-9)) for o in owed]
        while sum(counts) < n:
            most = max(range(len(share)), key=lambda d: owed[d] - counts[d])
            counts[most] += 1
        while sum(counts) > n:
            counts[max(range(len(share)), key=lambda d: counts[d] - owed[d] if counts[d] else -inf)] -= 1
        owed = [o - c for o, c in zip(owed, counts)]
        dealt.append(tuple(counts))
    return tuple(dealt)
