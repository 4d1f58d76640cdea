"""Memory: what is really free, what may be locked for RDMA, large pages."""

import re
from collections.abc import Iterator

from motley.cluster.mpi_process import LOCKED_BYTES, held_to_no_limit
from motley.doctor.finding import Finding
from motley.doctor.system import System

GB = 1e9
LOW_SHARE = 0.2
UNLIMITED = 1 << 60


def check(system: System) -> Iterator[Finding]:
    if system.kind != "Linux":
        return
    yield from _free(system)
    yield from _memlock(system)
    yield from _pages(system)


def free_bytes(system: System) -> tuple[int, int]:
    """(free, of all), by the kernel's estimate and the limits of this process's control groups, whichever is least."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", system.text("/proc/meminfo"), re.MULTILINE))
    free, total = int(found.get("MemAvailable", 0)) * 1024, int(found.get("MemTotal", 0)) * 1024
    for folder in _groups(system):
        limit, used = system.number(f"{folder}/memory.max"), system.number(f"{folder}/memory.current")
        if limit is not None and used is not None and limit < total:
            cached = re.search(r"^inactive_file (\d+)$", system.text(f"{folder}/memory.stat"), re.MULTILINE)
            free, total = min(free, limit - used + int(cached[1] if cached else 0)), limit
    return free, total


def _groups(system: System) -> list[str]:
    """This process's control group (version 2), and those around it."""
    match = re.search(r"^0::(/.*)$", system.text("/proc/self/cgroup"), re.MULTILINE)
    parts = match[1].strip("/").split("/") if match else []
    return ["/".join(["/sys/fs/cgroup", *parts[:n]]).rstrip("/") for n in range(len(parts) + 1)]


def _free(system: System) -> Iterator[Finding]:
    free, total = free_bytes(system)
    if not total:
        return
    said = f"{free / GB:.1f} of {total / GB:.1f} GB of memory are free"
    if free < LOW_SHARE * total:
        yield Finding("MEMORY-LOW", "warning", said, "end what else uses it, or give the node less with --memory")
    else:
        yield Finding("MEMORY-LOW", "ok", said)
    swap = dict(re.findall(r"^(Swap\w+):\s+(\d+) kB", system.text("/proc/meminfo"), re.MULTILINE))
    used = (int(swap.get("SwapTotal", 0)) - int(swap.get("SwapFree", 0))) * 1024
    if used > 0.5 * GB:
        said = f"{used / GB:.1f} GB are swapped out: weights that are swapped are read at the disk's speed"
        yield Finding(
            "SWAPPING", "warning", said, "end what else uses the memory: what is swapped comes back when it is read"
        )


def _memlock(system: System) -> Iterator[Finding]:
    """RDMA pins the memory that it sends from; verbs fail, or fall back, where that is not allowed."""
    match = re.search(r"Max locked memory\s+(\S+)", system.text("/proc/self/limits"))
    if not match or not system.glob("/sys/class/infiniband/*"):
        return
    limit = UNLIMITED if match[1] == "unlimited" else int(match[1])
    if limit < LOCKED_BYTES and held_to_no_limit(system.text("/proc/self/status")):
        yield Finding("MEMLOCK", "ok", "memory may be locked for RDMA, as this is root, whom no limit holds")
    elif limit < LOCKED_BYTES:
        said = f"only {limit >> 10} KiB may be locked in memory, and RDMA locks all that it sends from"
        remedy = "put `* - memlock unlimited` into /etc/security/limits.conf and log in anew"
        yield Finding("MEMLOCK", "error", said, remedy)
    else:
        yield Finding("MEMLOCK", "ok", "memory may be locked for RDMA")


def _pages(system: System) -> Iterator[Finding]:
    setting = system.text("/sys/kernel/mm/transparent_hugepage/enabled")
    if "[never]" in setting:
        remedy = "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        yield Finding("HUGE-PAGES", "note", "transparent huge pages are off: large weights cost more look-ups", remedy)
    elif setting:
        yield Finding("HUGE-PAGES", "ok", "transparent huge pages are on")
