"""Macs: RDMA over Thunderbolt. Never run on a Mac: written from Apple's and MLX's documentation."""

import platform
from collections.abc import Iterator

from motley.doctor.finding import Finding
from motley.doctor.system import System

RDMA_FROM = (26, 2)


def check(system: System, version: str = platform.mac_ver()[0]) -> Iterator[Finding]:
    if system.kind != "Darwin":
        return
    yield Finding("MAC-UNTESTED", "note", "Motley was never run on a Mac: tell us what you see")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < RDMA_FROM:
        said = f"macOS {version} has no RDMA over Thunderbolt: it came with {'.'.join(map(str, RDMA_FROM))}"
        yield Finding("MAC-OLD", "warning", said, "update macOS")
        return
    state = system.run(["rdma_ctl", "status"])
    if state is None or "enabled" not in state.lower():
        remedy = "restart into recovery (hold the power button), open Terminal there: rdma_ctl enable"
        yield Finding("MAC-RDMA-OFF", "warning", "RDMA over Thunderbolt is not enabled", remedy)
    else:
        yield Finding("MAC-RDMA-OFF", "ok", "RDMA over Thunderbolt is enabled")
