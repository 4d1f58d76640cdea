"""RDMA on Linux: is there a port, is it up, would it carry the bytes, did it.

Never run on a real card: soft-RoCE and made-up /sys trees only. The paths are those of the kernel's documentation
(Documentation/ABI/stable/sysfs-class-infiniband).
"""

import ctypes.util
from collections.abc import Iterator
from pathlib import Path

from motley.doctor.finding import Finding
from motley.doctor.system import System

Counters = dict[str, int]  # "mlx5_0/1/port_xmit_data" -> value
_DATA = ("port_xmit_data", "port_rcv_data")  # in units of four bytes


def check(system: System, library: str | None = ctypes.util.find_library("ibverbs")) -> Iterator[Finding]:
    ports = system.glob("/sys/class/infiniband/*/ports/*")
    if system.kind != "Linux" or not ports:
        if system.kind == "Linux":
            yield Finding("NO-RDMA", "note", "this machine has no RDMA device: its links are TCP")
        return
    if library is None:
        remedy = "install rdma-core's library (Debian: apt install libibverbs1 ibverbs-providers)"
        yield Finding("NO-VERBS", "error", "there is an RDMA device, but no libibverbs to drive it", remedy)
    for port in ports:
        yield from _port(system, port)


def _port(system: System, port: Path) -> Iterator[Finding]:
    device, place = port.parts[-3], "/" + str(port.relative_to(system.root))
    state, link = system.text(f"{place}/state"), system.text(f"{place}/link_layer")
    name = f"{device} port {port.name}"
    if "ACTIVE" not in state:
        remedy = "plug in the cable; for InfiniBand a subnet manager must run (opensm); for RoCE `ip link set DEV up`"
        yield Finding("PORT-DOWN", "error", f"{name} is {state.partition(': ')[2].lower() or 'in no state'}", remedy)
        return
    yield Finding("PORT-DOWN", "ok", f"{name} is active ({link}, {system.text(f'{place}/rate')})")
    if link == "Ethernet":
        yield from _roce(system, place, name)


def _roce(system: System, place: str, name: str) -> Iterator[Finding]:
    types = {system.text(f"{place}/gid_attrs/types/{p.name}") for p in system.glob(f"{place}/gid_attrs/types/*")}
    if "RoCE v2" not in types:
        remedy = "give its network interface an IP address: GIDs are made of addresses"
        yield Finding("ROCE-GID", "error", f"{name} has no RoCE v2 address (GID)", remedy)
    devices = {system.text(f"{place}/gid_attrs/ndevs/{p.name}") for p in system.glob(f"{place}/gid_attrs/ndevs/*")}
    for device in sorted(devices - {""}):
        mtu = system.number(f"/sys/class/net/{device}/mtu")
        if mtu is not None and mtu < 4200:
            said = f"{device} under {name} sends packets of {mtu} bytes: RoCE needs 4,200 for its largest"
            yield Finding("ROCE-MTU", "warning", said, f"on both ends and the switch: ip link set {device} mtu 9000")


def counters(system: System) -> Counters:
    """What every RDMA port has counted so far."""
    found: Counters = {}
    for path in system.glob("/sys/class/infiniband/*/ports/*/counters/*"):
        value = system.number("/" + str(path.relative_to(system.root)))
        if path.name in _DATA and value is not None:
            found[f"{path.parts[-5]}/{path.parts[-3]}/{path.name}"] = value
    return found


def carried(before: Counters, after: Counters, n_bytes: int) -> Finding:
    """Whether RDMA carried `n_bytes` in one direction: libraries fall back to TCP without a word. A card that counts no
    data (soft-RoCE counts packets only) proves nothing."""
    if not any(after.values()):
        said = f"the RDMA ports here count no bytes, as soft-RoCE's don't: who carried {n_bytes:,} of them is not known"
        return Finding("RDMA-SILENT", "note", said, "`UCX_LOG_LEVEL=info` says what UCX chose")
    most = max((4 * (after[name] - before.get(name, 0)) for name in after), default=0)
    if most >= n_bytes:
        return Finding("RDMA-SILENT", "ok", f"the card's own counters saw the {n_bytes:,} bytes")
    said = f"{n_bytes:,} bytes were sent, and no RDMA port counted more than {most:,}: TCP took them"
    return Finding("RDMA-SILENT", "error", said, "see the findings on RDMA; `UCX_LOG_LEVEL=info` says what UCX chose")
