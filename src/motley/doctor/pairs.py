"""Pairs of nodes: what two ends say of themselves, what was measured between them, and what is wrong with that.

`end` looks at one machine; everything else is a function of what was measured.
"""

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass

from motley.cluster.agreed import NAMED
from motley.doctor.finding import Finding
from motley.doctor.software import version_of
from motley.doctor.system import System

SLOW_RTT_US = 500.0  # of 16 KiB there and back, where nothing is known of the wire
SLOW_BESIDE_US = 300.0  # beyond the wire's own share
PING_BITS = 2 * 8 * (16 << 10)
LEAST_SHARE = 0.6  # of the negotiated speed
ENCRYPTED_GB_S = 0.7  # about what a core encrypts (docs/log.md)
SKEW_S = 1.0  # logs of two machines don't line up; certificates bear a day


@dataclass(frozen=True)
class End:
    """A node. `mtu`, `mbit`: of the interface with the address at which the others reach it; 0: not known. `machine`,
    `user`, `space`: only compared with the other end's."""

    name: str
    python: str = ""
    zenoh: str = ""
    interface: str = ""
    mtu: int = 0  # bytes
    mbit: int = 0
    machine: str = ""  # the running kernel's id
    user: int = -1
    space: str = ""  # network namespace


@dataclass(frozen=True)
class Way:
    """From one end to the other, which the one opened. `failed`: why it could not; then the rest is empty. `carried`:
    what this machine's RDMA ports say of the bytes, where it has some and the link could use them."""

    transport: str = ""
    rtt_us: float = 0.0  # 16 KiB there and back
    gb_s: float = 0.0
    failed: str = ""
    carried: Finding | None = None


@dataclass(frozen=True)
class Pair:
    a: End
    b: End
    there: Way
    back: Way
    skew_s: float = 0.0  # how far b's clock is ahead of a's
    skew_error_s: float = 0.0


def end(system: System, name: str, host: str) -> End:
    """This machine's, which others reach at `host`."""
    interface, mtu = _interface(system, host)
    return End(
        name,
        python=platform.python_version(),
        zenoh=version_of("eclipse-zenoh"),
        interface=interface,
        mtu=mtu,
        mbit=_mbit(system, interface),
        machine=system.text("/proc/sys/kernel/random/boot_id"),
        user=os.geteuid(),
        space=system.link("/proc/self/ns/net"),
    )


def check(pair: Pair) -> Iterator[Finding]:
    yield from _transport(pair)
    for way in (pair.there, pair.back):
        if way.failed:
            return
        if way.carried:
            yield way.carried
    yield from _round_trip(pair)
    yield from _bandwidth(pair)
    yield from _mtu(pair)
    yield from _skew(pair)
    yield from _versions(pair)


def _interface(system: System, host: str) -> tuple[str, int]:
    """Name and MTU of the interface that has this address; nothing where `ip` does not tell."""
    try:
        told = json.loads(system.run(["ip", "-j", "addr", "show"]) or "[]")
        for one in told:
            if any(address.get("local") == host for address in one.get("addr_info", ())):
                return str(one["ifname"]), int(one["mtu"])
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return "", 0


def _mbit(system: System, interface: str) -> int:
    """What a card negotiated. A virtual interface has no card, and may name a speed all the same (veth: 10,000)."""
    base = f"/sys/class/net/{interface}"
    if not interface or not system.glob(f"{base}/device"):
        return 0
    return max(0, system.number(f"{base}/speed") or 0)


def _transport(pair: Pair) -> Iterator[Finding]:
    a, b = pair.a.name, pair.b.name
    for near, far, way in ((a, b, pair.there), (b, a, pair.back)):
        if way.failed:
            remedy = f"a firewall on {far}, or no route from {near} to it: TCP must get through both ways"
            yield Finding("PAIR-BROKEN", "error", f"{near} does not reach {far}: {way.failed}", remedy)
            return
    there, back = pair.there.transport, pair.back.transport
    if there != back:
        said = f"{a} reaches {b} over {there}, and {b} reaches {a} over {back}"
        remedy = f"start `motley node` on both again: the links are chosen anew; {_why(pair)}"
        yield Finding("PAIR-TRANSPORT", "warning", said, remedy)
    else:
        yield Finding("PAIR-TRANSPORT", "ok", f"{a} and {b} both choose {there}: {_why(pair)}")


def _why(pair: Pair) -> str:
    a, b = pair.a, pair.b
    transports = {pair.there.transport, pair.back.transport}
    if named := transports & {*NAMED}:
        link = min(named)
        one_way = f"one found no {link} link, and its log says why"
        return one_way if len(transports) > 1 else f"both were started with --link {link}"
    if not (a.machine and b.machine):
        return "whether they are one machine is not known"
    if a.machine != b.machine:
        return "they are two machines"
    if a.user != b.user:
        return "one machine, but two users, who share no memory"
    if a.space != b.space:
        return "one machine, but two network namespaces, which share no memory"
    if "local" in (pair.there.transport, pair.back.transport):
        return "one machine, which shares memory"
    return "one machine, whose socket measured clearly better than its memory, or where memory can't be shared"


def _wire_mbit(pair: Pair) -> int:
    """What both ends negotiated, at the slower one; 0: not known, or there is no wire."""
    if "local" in (pair.there.transport, pair.back.transport):
        return 0
    return min(pair.a.mbit, pair.b.mbit)


def _round_trip(pair: Pair) -> Iterator[Finding]:
    rtt_us, mbit = max(pair.there.rtt_us, pair.back.rtt_us), _wire_mbit(pair)
    wire_us = PING_BITS / mbit if mbit else 0.0
    wire = f", of which {wire_us:.0f} are the wire's at {mbit / 1e3:g} Gbit/s" if mbit else ""
    said = f"{pair.a.name} and {pair.b.name} need {rtt_us:.0f} us there and back over {pair.there.transport}{wire}"
    if rtt_us > (wire_us + SLOW_BESIDE_US if mbit else SLOW_RTT_US):
        remedy = "use a cable instead of wireless, one switch instead of several, and no saving of power on the card"
        yield Finding("PAIR-SLOW", "warning", f"{said}, and each layer waits so long", remedy)
    else:
        yield Finding("PAIR-SLOW", "ok", said)


def _bandwidth(pair: Pair) -> Iterator[Finding]:
    gb_s, mbit = min(pair.there.gb_s, pair.back.gb_s), _wire_mbit(pair)
    could = mbit / 8e3
    if not mbit or gb_s >= LEAST_SHARE * could:
        return
    wire = f"their link at {mbit / 1e3:g} Gbit/s could {could:.2f}"
    said = f"{pair.a.name} and {pair.b.name} move {gb_s:.2f} GB/s, and {wire}"
    remedy = "look for something slower in between (a switch's port, a cable), and who else uses it"
    if "tls" in pair.there.transport and LEAST_SHARE * could > ENCRYPTED_GB_S:
        remedy = (
            f"encryption takes a core: where the network is yours alone, --trusted-lan on every node; else {remedy}"
        )
    yield Finding("PAIR-BANDWIDTH", "warning", said, remedy)


def _mtu(pair: Pair) -> Iterator[Finding]:
    a, b = pair.a, pair.b
    apart = (a.machine, a.space) != (b.machine, b.space)
    if a.mtu and b.mtu and a.mtu != b.mtu and apart:
        said = f"{a.interface} of {a.name} sends packets of {a.mtu} bytes, {b.interface} of {b.name} of {b.mtu}"
        large, small = (a, b) if a.mtu > b.mtu else (b, a)
        remedy = (
            f"the same on both, and the switch: on {small.name} `ip link set {small.interface} mtu {large.mtu}`, or on "
            f"{large.name} `ip link set {large.interface} mtu {small.mtu}`"
        )
        yield Finding("PAIR-MTU", "warning", f"{said}: large ones may be lost on the way", remedy)


def _skew(pair: Pair) -> Iterator[Finding]:
    if abs(pair.skew_s) - pair.skew_error_s > SKEW_S:
        early, late = (pair.b, pair.a) if pair.skew_s < 0 else (pair.a, pair.b)
        said = f"the clock of {late.name} is {abs(pair.skew_s):.1f} s ahead of {early.name}'s: their logs don't line up"
        yield Finding("PAIR-CLOCK", "warning", said, "on both: timedatectl set-ntp true, or install chrony")


def _versions(pair: Pair) -> Iterator[Finding]:
    a, b = pair.a, pair.b
    kinds = (("eclipse-zenoh", a.zenoh, b.zenoh), ("Python", a.python, b.python))  # of Motley joining refuses others
    for what, mine, theirs in kinds:
        if _minor(mine) == _minor(theirs):
            continue
        said = f"{a.name} has {what} {mine}, {b.name} {theirs}"
        if what == "Python":
            yield Finding("PAIR-VERSIONS", "note", f"{said}: that should not matter", "if in doubt, the same on both")
        else:
            remedy = "install the same on both: pip install --upgrade motley-moe"
            yield Finding("PAIR-VERSIONS", "warning", said, remedy)


def _minor(version: str) -> str:
    """`1.7.2` -> `1.7`"""
    return ".".join(version.split(".")[:2])
