"""Fewer: whether a few of the many devices that a plan uses would do nearly as well, planned for themselves."""

from collections import Counter
from collections.abc import Callable

from motley.errors import CapacityError
from motley.lab.lab import Lab
from motley.plan.names import listed
from motley.plan.plan import Plan

_TRIED = (2, 4, 8, 16)  # devices, where the plan uses four times as many
_NEARLY = 0.9  # of the speed


def fewer(plan: Plan, lab: Lab, planned: Callable[[Lab], Plan]) -> list[str]:
    """A sentence where some do: those with most layers at home, then with most experts. `planned`: of another lab."""
    homes = Counter(layer.home for layer in plan.placement.layers)
    held = Counter(name for layer in plan.placement.layers for name in layer.experts)
    used = sorted(homes | held, key=lambda name: (-homes[name], -held[name]))
    for n in (n for n in _TRIED if 4 * n <= len(used)):
        try:
            part = plan.seconds[1] / planned(lab.subset(used[:n])).seconds[1]
        except CapacityError:
            continue
        if part >= _NEARLY:
            alone = listed(used[:n])
            return [f"{n} of these {len(used)} devices would nearly do: {alone} alone reach {100 * part:.0f} % of it"]
    return []
