"""Facts about this machine that no benchmark is needed for: processor, cores, memory. Linux and macOS."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    host: str
    cpu: str
    cores: int  # that this process may use
    memory_bytes: int
    available_bytes: int  # at this moment


def this_machine() -> Machine:
    read = _macos if platform.system() == "Darwin" else _linux
    cpu, total, available = read()
    return Machine(platform.node() or "localhost", cpu, usable_cores(), total, available)


def usable_cores() -> int:
    """Those this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _linux() -> tuple[str, int, int]:
    return (*_cpu_and_memory(Path("/proc/cpuinfo").read_text(), Path("/proc/meminfo").read_text()),)


def _cpu_and_memory(cpuinfo: str, meminfo: str) -> tuple[str, int, int]:
    """ARM's cpuinfo has no model name: the architecture stands in."""
    cpu = _field(cpuinfo, "model name") or platform.machine()
    total = _kilobytes(_field(meminfo, "MemTotal"))
    return cpu, total, _kilobytes(_field(meminfo, "MemAvailable")) or total


def _field(text: str, name: str) -> str:
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _kilobytes(value: str) -> int:
    return int(value.split()[0]) * 1024 if value else 0


def _macos() -> tuple[str, int, int]:
    """Untested on a Mac. What is free there has no simple answer; the total stands in."""

    def sysctl(name: str) -> str:
        return subprocess.run(
            ["sysctl", "-n", name], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()

    total = int(sysctl("hw.memsize"))
    return sysctl("machdep.cpu.brand_string"), total, total
