"""Columns: the patterns that a layer may have, for `beam` to choose from.

All of them while they are few. Else those that some state already uses, on every home that the experts allow, and their
neighbours: the same with some experts on another device.
"""

from collections.abc import Iterable, Iterator
from math import comb

from motley.plan.state import Pattern, Pricer, State

_ALL = 1500  # patterns of one layer
_ALL_PRICES = 9000  # of all layers that differ
_MOST = 400  # otherwise


def every_column(pricer: Pricer) -> dict[int, list[Pattern]] | None:
    """By kind of layer; None where there are too many."""
    kinds, devices = sorted(set(pricer.kind)), len(pricer.devices)
    sizes = [len(pricer.homes) * comb(pricer.n_experts[k] + devices - 1, devices - 1) for k in kinds]
    if max(sizes) > _ALL or sum(sizes) > _ALL_PRICES:
        return None
    return {k: list(_all(pricer, pricer.n_experts[k])) for k in kinds}


def _all(pricer: Pricer, n_experts: int) -> Iterator[Pattern]:
    devices = range(len(pricer.devices))
    for home in pricer.homes:
        for counts in _compositions(n_experts, len(devices)):
            yield pricer.pattern(home, zip(devices, counts))


def _compositions(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (n,)
        return
    for first in range(n + 1):
        for rest in _compositions(n - first, parts - 1):
            yield (first, *rest)


def seen_columns(pricer: Pricer, states: Iterable[State]) -> dict[int, list[Pattern]]:
    """By kind of layer, the patterns of these states first."""
    found: dict[int, dict[Pattern, None]] = {k: {} for k in sorted(set(pricer.kind))}
    for state in states:
        for kind, pattern in zip(pricer.kind, state):
            found[kind][pattern] = None
    for patterns in found.values():
        for pattern in list(patterns):
            for near in _neighbours(pricer, pattern):
                if len(patterns) >= _MOST:
                    break
                patterns[near] = None
    return {k: list(patterns)[: 2 * _MOST] for k, patterns in found.items()}


def _neighbours(pricer: Pricer, pattern: Pattern) -> Iterator[Pattern]:
    for home in pricer.homes:
        yield pricer.pattern(home, pattern.held)
        if home != pattern.home:
            yield pricer.moved(pattern, pattern.home, home, pattern.on(pattern.home), home)
    for a, n in pattern.held:
        for b in range(len(pricer.devices)):
            if a != b:
                yield pricer.moved(pattern, a, b, 1)
                yield pricer.moved(pattern, a, b, max(1, n // 4))
