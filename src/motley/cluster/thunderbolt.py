"""Which RDMA device leads to which Mac: a port tells its own domain's id, and that of the cable's other end.

UNTESTED on Macs: the commands, their output and what RDMA asks of a port are MLX's (mlx/_distributed_utils/config.py,
jaccl/rdma.cpp), Apple's TN3205 and what users showed (github.com/exo-explore/exo/issues/1390).
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from motley.cluster.command import Run, run_command
from motley.errors import ClusterError

DOCTOR = "`motley doctor` says what is missing"


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: str  # "rdma_en5"
    domain: str  # its id
    beyond: str  # the one at the other end of the cable; "" without a cable
    active: bool  # RDMA is, on both sides of the cable
    has_address: bool  # IPv4: without one RDMA has no name for the port


def ports(run: Run = run_command) -> tuple[Port, ...]:
    """This machine's that RDMA knows, by name."""
    states = device_states(run(["ibv_devinfo"]) or "")
    if not states:
        return ()
    names = interfaces(run(["networksetup", "-listallhardwareports"]) or "")
    found = []
    for receptacle, domain, beyond in domains(run(["system_profiler", "SPThunderboltDataType", "-json"]) or ""):
        interface = names.get(f"Thunderbolt {receptacle}", "")
        if (device := f"rdma_{interface}") in states:
            address = re.search(r"^\s+inet ", run(["ifconfig", interface]) or "", re.MULTILINE)
            found.append(Port(device, domain, beyond, states[device], bool(address)))
    return tuple(sorted(found, key=lambda port: port.device))


def usable(found: Sequence[Port]) -> tuple[Port, ...]:
    """ClusterError where there is none at all."""
    if not found:
        raise ClusterError(
            f"the jaccl link needs RDMA over Thunderbolt 5 (macOS 26.2, enabled in recovery), and has none: {DOCTOR}"
        )
    return tuple(found)


def cable(theirs: Sequence[Port], ours: Sequence[Port]) -> tuple[Port, Port]:
    """The two ends of one that joins both machines and carries RDMA; ClusterError with the reason where none does."""
    joined = [(a, b) for a in theirs for b in ours if a.beyond == b.domain or b.beyond == a.domain]
    if not joined:
        raise ClusterError("no Thunderbolt cable leads from one Mac to the other: jaccl needs one between each two")
    for a, b in joined:
        if all(port.active and port.has_address for port in (a, b)):
            return a, b
    a, b = joined[0]
    if not (a.active and b.active):
        raise ClusterError(f"RDMA is not active on the cable between them ({a.device}, {b.device}): {DOCTOR}")
    device = (b if a.has_address else a).device.removeprefix("rdma_")
    raise ClusterError(
        f"{device} has no IPv4 address, by which RDMA knows it: take it out of the Thunderbolt Bridge, and "
        f"`sudo ifconfig {device} inet 169.254.7.{1 if a.has_address else 2} netmask 255.255.0.0 alias`"
    )


# -- what the commands print


def device_states(text: str) -> dict[str, bool]:
    """`ibv_devinfo`: whether each device's port is active."""
    states: dict[str, bool] = {}
    device = ""
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "hca_id" and value.startswith("rdma_"):
            states[device := value] = False
        elif name == "hca_id":
            device = ""
        elif name == "state" and device:
            states[device] = value.startswith("PORT_ACTIVE")
    return states


def interfaces(text: str) -> dict[str, str]:
    """`networksetup -listallhardwareports`: "Thunderbolt 2" -> "en3"."""
    found = {}
    port = ""
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "Hardware Port":
            port = value
        elif name == "Device" and port:
            found[port], port = value, ""
    return found


def domains(text: str) -> Iterator[tuple[str, str, str]]:
    """`system_profiler SPThunderboltDataType -json`: of each port its receptacle, its domain and the one beyond."""
    try:
        buses = json.loads(text)["SPThunderboltDataType"]
        for bus in buses:
            if domain := bus.get("domain_uuid_key"):
                receptacle = bus.get("receptacle_1_tag", {}).get("receptacle_id_key", "")
                yield str(receptacle), domain, next(_beyond(bus), "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # as if there were no ports


def _beyond(bus: dict[str, Any]) -> Iterator[str]:
    """Behind a hub, too."""
    for item in bus.get("_items", []):
        if domain := item.get("domain_uuid_key"):
            yield domain
        yield from _beyond(item)
