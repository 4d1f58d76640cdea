"""The network of one machine: interfaces slower than they could be, firewalls, clocks."""

import re
from collections.abc import Iterator

from motley.doctor.finding import Finding
from motley.doctor.system import System


def check(system: System) -> Iterator[Finding]:
    if system.kind == "Linux":
        for place in system.glob("/sys/class/net/*"):
            yield from _interface(system, place.name)
        yield from _firewall(system)
        yield from _clock(system)


def _interface(system: System, name: str) -> Iterator[Finding]:
    base = f"/sys/class/net/{name}"
    speed = system.number(f"{base}/speed")
    if system.text(f"{base}/operstate") != "up" or not speed or speed < 0:
        return  # a virtual one knows no speed
    most = _most_mbit(system.run(["ethtool", name]) or "")
    if not most:
        yield Finding(
            "LINK-SLOW", "note", f"{name} runs at {speed / 1e3:g} Gbit/s; whether its card can do more, ethtool says"
        )
    elif most > speed:
        said = f"{name} runs at {speed / 1e3:g} Gbit/s, and its card can do {most / 1e3:g}"
        yield Finding("LINK-SLOW", "warning", said, "change the cable or the switch's port, or the card's setting")
    else:
        yield Finding("LINK-SLOW", "ok", f"{name} runs at {speed / 1e3:g} Gbit/s")
    if system.text(f"{base}/duplex") == "half":
        yield Finding(
            "HALF-DUPLEX", "error", f"{name} runs at half duplex", "let both ends negotiate: ethtool -s DEV autoneg on"
        )
    yield from _slot(system, name, base)


def _slot(system: System, name: str, base: str) -> Iterator[Finding]:
    width, most = (system.number(f"{base}/device/{kind}_link_width") for kind in ("current", "max"))
    if width and most and width < most:
        said = f"the card of {name} has {width} of its {most} PCIe lanes"
        yield Finding("SLOT-NARROW", "warning", said, "put it into a slot with more lanes")


def _most_mbit(ethtool: str) -> int:
    """The largest mode that the card itself supports."""
    part = re.search(r"Supported link modes:(.*?)\n\s*Supported pause", ethtool, re.DOTALL)
    return max((int(n) for n in re.findall(r"(\d+)base", part[1])), default=0) if part else 0


def _firewall(system: System) -> Iterator[Finding]:
    rules = system.run(["nft", "list", "ruleset"])
    if rules is None:
        rules = system.run(["iptables", "-S", "INPUT"])
    if rules is None:
        yield Finding("FIREWALL", "note", "no firewall's rules could be read: that takes root, and nft or iptables")
    elif re.search(r"hook input [^}]*(policy drop|\b(drop|reject)\b)|-P INPUT DROP|-j (DROP|REJECT)", rules):
        remedy = "if nodes don't find each other: let their addresses in by TCP, and by UDP 7446 for discovery"
        yield Finding("FIREWALL", "warning", "the firewall drops or rejects some incoming connections", remedy)
    else:
        yield Finding("FIREWALL", "ok", "no firewall drops incoming connections")


def _clock(system: System) -> Iterator[Finding]:
    told = system.run(["timedatectl", "show", "--property=NTPSynchronized"])
    if told is not None and "no" in told:
        remedy = "timedatectl set-ntp true, or install chrony"
        yield Finding("CLOCK", "note", "the clock is not synchronised: two machines' logs won't line up", remedy)
