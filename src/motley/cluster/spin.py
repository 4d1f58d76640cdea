"""Spin: how long a receiver looks again and again before it sleeps. The same rule for every link.

16 KiB there and back over TCP on loopback at real-time priority: 22-28 us, against 125-133 us when each side sleeps.
"""

import os
from collections.abc import Callable

yield_core: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


class Spin:
    """How long to look before sleeping: up to `max_us`, where frames come within that time and the core is free.

    A frame that came later than any look would have lasted halves it. So does, twice, a look that took so long that
    the core must have been given to somebody who needs it. Each other frame lets it grow by a quarter.
    """

    STOLEN_S = 100e-6  # a look takes 1 us

    def __init__(self, max_us: float) -> None:
        self.max_s = max_us * 1e-6
        self.least_s = min(20e-6, self.max_s)
        self.budget_s = self.max_s

    def learn(self, waited_s: float, core_was_stolen: bool) -> None:
        if core_was_stolen:
            self.budget_s = max(self.budget_s / 4, self.least_s)
        elif waited_s > self.max_s:
            self.budget_s = max(self.budget_s / 2, self.least_s)
        else:
            self.budget_s = min(1.25 * self.budget_s, self.max_s)


def default_spin_us() -> float:
    """Two milliseconds span the gap between two calls of OLMoE's layers on one core: after 1.5 ms an exchange costs
    70-100 us so, 195-230 us with 0.5 ms, 270 us asleep. Five would help larger layers (after 3.5 ms 106 us against
    153-182 us), and may hurt where cores are contended. With one core in all, sleep at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2000.0 if cores > 1 else 0.0
