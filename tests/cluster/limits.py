"""Limits for processes by control groups: of CPU time and of memory. Takes root.

`with limited(cpus=0.2) as group: group.take(pid)`: who is taken in has no more than that, its threads included. At the
end whoever is still in it is killed, and the group is removed. Version 2 where it has the controllers, else
version 1. What a process had before it was taken in is not charged, in either.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
GONE_S = 5.0


@dataclass
class Group:
    folders: list[Path] = field(default_factory=list)

    def take(self, pid: int) -> None:
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def count(self, *names: str) -> int:
        """The largest of the counters of these names: `nr_throttled`, `oom_kill`, ..."""
        files = ("cpu.stat", "memory.events", "memory.oom_control")
        texts = [path.read_text() for folder in self.folders for file in files if (path := folder / file).exists()]
        return max(
            (int(n) for text in texts for name, n in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE) if name in names),
            default=0,
        )

    def remove(self) -> None:
        """Who is in it ends before."""
        for folder in self.folders:
            deadline = time.monotonic() + GONE_S
            while True:
                try:
                    folder.rmdir()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                for pid in (folder / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                time.sleep(0.02)


@contextlib.contextmanager
def limited(*, cpus: float = 0.0, memory_bytes: int = 0) -> Iterator[Group]:
    """0: no limit. OSError where groups can't be made."""
    group, name = Group(), f"motley-{os.getpid()}-{time.monotonic_ns()}"
    try:
        if cpus:
            quota = str(round(cpus * PERIOD_US))
            settings = {
                "cpu.max": f"{quota} {PERIOD_US}",
                "cpu.cfs_period_us": str(PERIOD_US),
                "cpu.cfs_quota_us": quota,
            }
            _make(group, "cpu", name, settings, {})
        if memory_bytes:
            size = str(memory_bytes)
            swap = {"memory.swap.max": "0", "memory.memsw.limit_in_bytes": size}  # not there without swap
            _make(group, "memory", name, {"memory.max": size, "memory.limit_in_bytes": size}, swap)
        yield group
    finally:
        group.remove()


def why_not() -> str:
    """Why nothing can be limited here; "" if it can."""
    if os.geteuid() != 0:
        return "control groups take root"
    try:
        with limited(cpus=0.5, memory_bytes=1 << 30):
            return ""
    except OSError as error:
        return f"control groups can't be made here: {error}"


def _make(group: Group, controller: str, name: str, settings: dict[str, str], optional: dict[str, str]) -> None:
    """`settings`: of both versions; the files of the other one are not there."""
    folder = _parent(controller) / name
    if folder not in group.folders:
        folder.mkdir(exist_ok=True)
        group.folders.append(folder)
    wanted = {file: value for file, value in settings.items() if (folder / file).exists()}
    if not wanted:
        raise OSError(f"{folder} has no controller for {controller}")
    for file, value in {**wanted, **optional}.items():
        if (folder / file).exists():
            (folder / file).write_text(value)


def _parent(controller: str) -> Path:
    """In version 1 beneath this process's own group, whose limits go on to count."""
    groups = {kind: path for _, kind, path in (line.split(":", 2) for line in _own_groups())}
    if (
        controller in (ROOT / "cgroup.controllers").read_text().split()
        if (ROOT / "cgroup.controllers").exists()
        else ()
    ):
        return ROOT
    kind = next((kind for kind in groups if controller in kind.split(",")), controller)
    own = ROOT / kind / groups.get(kind, "/").lstrip("/")
    return own if own.exists() else ROOT / kind


def _own_groups() -> list[str]:
    try:
        return Path("/proc/self/cgroup").read_text().splitlines()
    except FileNotFoundError:
        raise OSError("no control groups here") from None
