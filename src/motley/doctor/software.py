"""Software: versions, kernels, and the processor's own brakes."""

import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from motley import __version__
from motley.doctor.finding import Finding
from motley.doctor.system import System
from motley.errors import MotleyError


def _native_isas() -> list[str]:
    from motley.ops.native import isas

    return isas()


def check(system: System, isas: Callable[[], list[str]] = _native_isas) -> Iterator[Finding]:
    packages = ", ".join(f"{name} {version_of(name)}" for name in ("eclipse-zenoh", "numpy", "cryptography"))
    yield Finding("VERSIONS", "ok", f"Motley {__version__}, Python {platform.python_version()}, {packages}")
    yield from _kernels(isas)
    if system.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") == "powersave" and not system.text(
        "/sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference"
    ).startswith(("performance", "balance_performance")):
        remedy = "as root: cpupower frequency-set -g performance"
        yield Finding("POWERSAVE", "note", "the processor saves power: it may run below its clock", remedy)


def _kernels(isas: Callable[[], list[str]]) -> Iterator[Finding]:
    try:
        best = isas()[0]
    except MotleyError:  # its sentence holds paths, which may hold somebody's name
        yield Finding(
            "NO-KERNELS", "error", "the native kernels are missing", "install again with a C++ compiler there"
        )
        return
    if best == "scalar":
        said = "the processor has neither AVX2 nor NEON that Motley knows: only the portable kernels run, slowly"
        yield Finding("SLOW-KERNELS", "warning", said, "in a virtual machine, pass the host's processor through")
    else:
        yield Finding("SLOW-KERNELS", "ok", f"kernels for {best}")


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
