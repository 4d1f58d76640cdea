"""Energy while something runs, by this machine's own counters: RAPL through Linux's powercap, NVIDIA's NVML.

Nothing is estimated: a machine that does not count, or does not let this user read, has no figure but a reason.
Untested on a machine that reports energy other than by the files of a test: see docs/bench.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

from motley.bench.result import Energy

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """`joules()` since some moment, growing; where it wraps, at `range_j`."""

    name: str
    joules: Callable[[], float]
    range_j: float = 0.0

    def between(self, before: float, after: float) -> float:
        """Joules that passed, if it wrapped once at most."""
        return after - before + (self.range_j if after < before else 0.0)


@dataclass(frozen=True)
class EnergyMeter:
    """All counters of the machine; none: `why` says it."""

    counters: Sequence[Counter]
    why: str = ""

    @contextmanager
    def metered(self) -> Iterator["Spent"]:
        """`Spent` is filled when the block has ended; without counters it stays empty."""
        spent, before, start = Spent(), [c.joules() for c in self.counters], perf_counter()
        yield spent
        spent.seconds = perf_counter() - start
        spent.joules = sum(c.between(b, c.joules()) for c, b in zip(self.counters, before))
        spent.source = ", ".join(c.name for c in self.counters)


@dataclass
class Spent:
    joules: float = 0.0
    seconds: float = 0.0
    source: str = ""

    def over(self, tokens: int) -> Energy | None:
        """None where nothing was counted: no counters, or a time shorter than their steps."""
        if self.joules <= 0 or self.seconds <= 0:
            return None
        return Energy(joules_per_token=self.joules / tokens, watts=self.joules / self.seconds, source=self.source)


def energy_meter(powercap: Path = POWERCAP) -> EnergyMeter:
    """What this machine counts and lets us read."""
    rapl, why_rapl = _rapl(powercap)
    gpus, why_gpus = _nvml()
    counters = [*rapl, *gpus]
    return EnergyMeter(counters, "" if counters else f"{why_rapl}; {why_gpus}")


def nobody(why: str) -> EnergyMeter:
    """For runs that this machine's counters would not cover."""
    return EnergyMeter((), why)


def _rapl(powercap: Path) -> tuple[list[Counter], str]:
    """Packages and their memory; `psys` holds packages already, `core` and `uncore` lie within them. The zones of
    `intel-rapl-mmio` are the same counters, read another way."""
    counters, why = [], f"no RAPL counters in {powercap}"
    for zone in sorted(powercap.glob("*-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if not (name.startswith("package") or name == "dram"):
                continue
            range_j = int((zone / "max_energy_range_uj").read_text()) * 1e-6
            counter = Counter(f"RAPL {name}", _microjoules(zone / "energy_uj"), range_j)
            counter.joules()
            counters.append(counter)
        except PermissionError:
            why = f"only root may read {zone}/energy_uj"
        except (OSError, ValueError):
            continue  # a zone that the kernel lists but does not count
    return counters, why


def _microjoules(path: Path) -> Callable[[], float]:
    return lambda: int(path.read_text()) * 1e-6


def _nvml() -> tuple[list[Counter], str]:
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return [], "nvidia-ml-py is not installed"
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        counters = [Counter(f"NVML GPU {i}", _millijoules(nvml, handle)) for i, handle in enumerate(handles)]
        for counter in counters:
            counter.joules()
    except nvml.NVMLError as error:
        return [], f"NVML: {error}"
    return counters, "no NVIDIA GPU"


def _millijoules(nvml: Any, handle: Any) -> Callable[[], float]:
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1e-3
