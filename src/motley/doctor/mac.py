"""Macs: RDMA over Thunderbolt. Never run on a Mac: written from Apple's and MLX's documentation."""

import platform
from collections.abc import Iterator, Sequence

from motley.cluster import thunderbolt
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
        return
    yield Finding("MAC-RDMA-OFF", "ok", "RDMA over Thunderbolt is enabled")
    yield from _ports(thunderbolt.ports(system.run))


def _ports(found: Sequence[thunderbolt.Port]) -> Iterator[Finding]:
    """What `--link jaccl` can use of them."""
    cabled = [port for port in found if port.beyond]
    if not cabled:
        said = "RDMA knows no Thunderbolt port that a cable joins to another Mac"
        yield Finding("MAC-RDMA-PORT", "note", said, "a Thunderbolt 5 cable between each two Macs")
    for port in cabled:
        if not port.active:
            said = f"RDMA is not active on {port.device}, though a cable leads to another domain"
            yield Finding("MAC-RDMA-PORT", "warning", said, "enable RDMA on the other Mac, too; Thunderbolt 5 on both")
        elif not port.has_address:
            interface = port.device.removeprefix("rdma_")
            said = f"{interface} has no IPv4 address, by which RDMA knows it"
            remedy = f"take {interface} out of the Thunderbolt Bridge and give it an address (System Settings, Network)"
            yield Finding("MAC-RDMA-PORT", "warning", said, remedy)
        else:
            yield Finding("MAC-RDMA-PORT", "ok", f"{port.device} is ready for --link jaccl")
