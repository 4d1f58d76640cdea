"""Whether the processor keeps its speed: a fixed piece of work, timed before and after each test.

The work is a chain of SHA-256 rounds in one core: no memory, no other core, nothing that could be done ahead. Its speed
follows the clock, and whatever else takes the core away. The best of a few turns is taken, as others only slow it.
Where Linux counts thermal events, they are read too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import pbkdf2_hmac
from pathlib import Path
from time import perf_counter

from motley.bench.result import Clock

ROUNDS, TURNS = 4096, 48  # a millisecond or two a turn
CPUS = Path("/sys/devices/system/cpu")


def speed() -> float:
    """Rounds a second of one core, at best."""
    return ROUNDS / min(_turn() for _ in range(TURNS))


def _turn() -> float:
    start = perf_counter()
    pbkdf2_hmac("sha256", b"motley", b"clock", ROUNDS)
    return perf_counter() - start


def thermal_events(cpus: Path = CPUS) -> int | None:
    """How often the cores were slowed because of their heat since the start; None where the system does not count."""
    counts = [_number(path) for path in cpus.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")]
    known = [n for n in counts if n is not None]
    return sum(known) if known else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


@dataclass
class Watch:
    """`clock` is there when the watched block has ended."""

    clock: Clock | None = None


@contextmanager
def watched() -> Iterator[Watch]:
    """The clock before and after a block; reading it takes about a tenth of a second each time."""
    watch, before, events = Watch(), speed(), thermal_events()
    yield watch
    after, later = speed(), thermal_events()
    throttled = None if events is None or later is None else max(0, later - events)
    watch.clock = Clock(before=before, after=after, throttled=throttled)
