"""RDMA on Linux: is there a port, is it up, would it carry the bytes, did it.

Never run on a real card: on soft-RoCE (tests/rdma) and made-up /sys trees only. The paths are those of the kernel's
documentation (Documentation/ABI/stable/sysfs-class-infiniband).
"""

import ctypes.util
from collections.abc import Callable, Iterator
from pathlib import Path

from motley.doctor.finding import Finding
from motley.doctor.system import System

Counters = dict[str, int]  # "mlx5_0/1/port_xmit_data" -> bytes; "rxe0/1" -> 0 for a port, whatever it counts
_UNIT = {"port_xmit_data": 4, "port_rcv_data": 4}  # bytes
_PACKETS = ("sent_pkts", "rcvd_pkts")  # of soft-RoCE, which has no folder `counters` (Linux 6.1)
_PAYLOAD = 4096  # bytes at most in a packet of RoCE
_FEW = 0.05  # of the bytes: what MPI says to find its peer may be as much


def _library() -> str | None:
    return ctypes.util.find_library("ibverbs")  # runs programs: not before there is a card


def check(system: System, library: Callable[[], str | None] = _library) -> Iterator[Finding]:
    ports = system.glob("/sys/class/infiniband/*/ports/*")
    if system.kind != "Linux" or not ports:
        if system.kind == "Linux":
            yield Finding("NO-RDMA", "note", "this machine has no RDMA device: its links are TCP")
        return
    if library() is None:
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
    """What every RDMA port has counted so far; nothing where there is no port. Of soft-RoCE's packets it is known only
    how much they hold at most."""
    found: Counters = {}
    for port in system.glob("/sys/class/infiniband/*/ports/*"):
        name, place = f"{port.parts[-3]}/{port.name}", "/" + str(port.relative_to(system.root))
        found[name] = 0
        for kind, unit in _UNIT.items():
            if (value := system.number(f"{place}/counters/{kind}")) is not None:
                found[f"{name}/{kind}"] = unit * value
        for kind in _PACKETS:
            if (value := system.number(f"{place}/hw_counters/{kind}")) is not None:
                found[f"{name}/{kind}"] = _payload(system, place) * value
    return found


def _payload(system: System, place: str) -> int:
    """Bytes at most in one of its packets."""
    device = system.text(f"{place}/gid_attrs/ndevs/0")
    mtu = system.number(f"/sys/class/net/{device}/mtu") if device else None
    return min(_PAYLOAD, mtu or _PAYLOAD)


def carried(before: Counters, after: Counters, n_bytes: int) -> Finding:
    """Whether RDMA carried `n_bytes` in one direction: libraries fall back to TCP without a word, and UCX may send a
    part of each large message by TCP beside the card (soft-RoCE: half of it). A card that counts nothing proves
    nothing."""
    if not any(after.values()):
        said = f"the RDMA ports here count nothing: who carried {n_bytes:,} bytes is not known"
        return Finding("RDMA-SILENT", "note", said, "`UCX_LOG_LEVEL=info` says what UCX chose")
    most, port = max((after[name] - before.get(name, 0), name) for name in after)
    if most >= n_bytes:
        said = f"the card's own counters saw the {n_bytes:,} bytes"
        if port.endswith(_PACKETS):
            said = f"soft-RoCE's own counters saw packets enough for the {n_bytes:,} bytes"
        return Finding("RDMA-SILENT", "ok", said)
    if most >= _FEW * n_bytes:
        said = f"{n_bytes:,} bytes were sent, and the RDMA ports counted {most:,} of them: TCP took the rest"
        remedy = "UCX_MAX_RNDV_RAILS=1, Motley's default, keeps large messages on one way: see what sets it otherwise"
        return Finding("RDMA-SILENT", "warning", said, remedy)
    said = f"{n_bytes:,} bytes were sent, and no RDMA port counted more than {most:,}: TCP took them"
    return Finding("RDMA-SILENT", "error", said, "see the findings on RDMA; `UCX_LOG_LEVEL=info` says what UCX chose")
