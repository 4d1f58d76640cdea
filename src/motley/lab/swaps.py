"""Swaps: devices for others, links for others, TCP for RDMA. Part of `changes`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log

from motley.errors import UsageError
from motley.lab.edit import cables, free, link_name, meant, near, system
from motley.lab.hardware import Hardware, hardware
from motley.lab.lab import Device, Lab, Link, shortened
from motley.lab.links import LinkKind, every_link, link_kind
from motley.lab.profile import device as profiled
from motley.lab.profile import engine_note
from motley.lab.wiring import Assembly, hardware_of, kind_of, supported, through

_RDMA = ("tcp", "rdma")
_OVER_RDMA = {
    "2.5gbe": "2.5gbe-softroce",
    "10gbe": "10gbe-roce",
    "25gbe": "25gbe-roce",
    "100gbe": "100gbe-roce",
    "100gbe-x4": "100gbe-x4-roce",
    "tb4": "tb-softroce",
    "tb5-tcp": "tb5-rdma",
}


def swapped(lab: Lab, text: str, engine: str) -> Assembly:
    left, arrow, right = (part.strip() for part in text.replace("→", "->").partition("->"))
    if not (left and arrow and right):
        raise UsageError(f"cannot swap {text!r}: write 'tcp->rdma', '10gbe->100gbe' or 'rtx-4090->rtx-5090'")
    devices = meant(lab, left)
    if devices:
        return _swap_devices(lab, devices, hardware(right), engine)
    return _swap_links(lab, left.lower(), right)


def _swap_devices(lab: Lab, old: Sequence[Device], new: Hardware, engine: str) -> Assembly:
    taken = {d.name for d in lab.devices} - {d.name for d in old}
    names: dict[str, str] = {}
    swapped: dict[str, Device] = {}
    for device in old:
        known = hardware_of(device)
        same = known is not None and device.name.startswith(known.key)
        wish = new.key + device.name.removeprefix(known.key) if known and same else new.key
        names[device.name] = wish if wish not in taken else free(new.key, taken)
        taken.add(names[device.name])
        node = names[device.name] if device.node == device.name else device.node
        swapped[device.name] = profiled(new, engine, names[device.name], node)
    devices = tuple(swapped.get(d.name, d) for d in lab.devices)
    after = Lab(devices)
    notes = {note: None for note in [engine_note(new, engine)] if note}
    links = []
    for link in lab.links:
        moved = replace(link, a=names.get(link.a, link.a), b=names.get(link.b, link.b))
        if moved != link:
            moved, note = _still_joined(after, moved, new)
            notes |= {note: None} if note else {}
        links.append(moved)
    return Assembly(Lab(devices, tuple(links)), tuple(notes))


def _still_joined(lab: Lab, link: Link, new: Hardware) -> tuple[Link, str]:
    """A link whose end was swapped: a card has the PCIe of its own, a network must join the two systems."""
    kind = kind_of(link)
    if kind is None:
        return link, ""
    if kind.key.startswith("pcie") and new.pcie.startswith("pcie") and "p2p" not in kind.key:
        return link_kind(new.pcie).between(link.a, link.b), ""
    a, b = lab.device(link.a), lab.device(link.b)
    if kind.within:
        return link, ""
    kind, note = supported(kind, system(lab, a), system(lab, b))
    return through(kind, link.a, link.b, [*cables(lab, a), *cables(lab, b)]), note


def _swap_links(lab: Lab, left: str, right: str) -> Assembly:
    fits = _filter(left, lab)
    meant = [link for link in lab.links if fits(link)]
    if not meant:
        has = shortened(sorted({link_name(link) for link in lab.links})) or "none"
        raise UsageError(f"the lab has no device and no link {left!r} to swap: its links are {has}{near(left, lab)}")
    word = right.lower()
    kind = None if word in _RDMA else link_kind(right)
    stay: dict[str, list[str]] = {}
    links = []
    for link in lab.links:
        swapped, why = _swap_link(lab, link, word, kind) if link in meant else (link, "")
        if why:
            stay.setdefault(why, []).append(f"{link.a} - {link.b}")
        links.append(swapped)
    notes = [f"{why} ({shortened(pairs, 3)})" for why, pairs in stay.items()]
    if any(n.transport == "mpi" and n not in lab.links for n in links):
        notes.append("RDMA between Linux boxes takes network cards that have it (RoCE or InfiniBand)")
    return Assembly(Lab(lab.devices, tuple(links)), tuple(notes))


def _filter(left: str, lab: Lab) -> Callable[[Link], bool]:
    """Which links `left` means: a transport, or a link of the catalogue; none where it is neither."""
    if left == "rdma":
        return lambda link: link.transport in ("mpi", "jaccl", "rdma")
    if any(link.transport == left for link in lab.links):
        return lambda link: link.transport == left
    try:
        key = link_kind(left).key
    except UsageError:
        key = ""
    return lambda link: (known := kind_of(link)) is not None and known.key == key


def _swap_link(lab: Lab, link: Link, word: str, kind: LinkKind | None) -> tuple[Link, str]:
    """The link after the swap, or as it was and why."""
    first, second = lab.device(link.a), lab.device(link.b)
    a, b = system(lab, first), system(lab, second)
    if kind is None:
        kind = _over(word, link, a, b)
        if kind is None:
            return link, f"no supported RDMA joins {_pair(a, b)}: they stay on {link_name(link)}"
    if kind.within == "machine" and first.node != second.node:
        raise UsageError(f"{kind.key} joins devices of one machine, not {link.a} and {link.b}")
    _, note = supported(kind, a, b)
    if note:
        return link, f"{note.split(':')[0]}: they stay on {link_name(link)}"
    hanging = [] if kind.within else [*cables(lab, first), *cables(lab, second)]
    return through(kind, link.a, link.b, hanging), ""


def _over(word: str, link: Link, a: tuple[str, int], b: tuple[str, int]) -> LinkKind | None:
    """The same wire over TCP or RDMA: by name, or where the link was measured, the Ethernet nearest in bandwidth."""
    known = kind_of(link)
    if word == "rdma" and a[0] == b[0] == "macos":
        return link_kind("tb5-rdma") if min(a[1] or 5, b[1] or 5) >= 5 else None
    table = _OVER_RDMA if word == "rdma" else {over: plain for plain, over in _OVER_RDMA.items()}
    if known is not None and known.key in table:
        found: LinkKind | None = link_kind(table[known.key])
    else:
        wires = [k for k in every_link() if "gbe" in k.key and k.rdma == (word == "rdma") and k.can_join(a[0], b[0])]
        found = min(wires, key=lambda k: abs(log(k.gb_s.p50 / link.gb_s)), default=None)
    return found if found is not None and found.can_join(a[0], b[0]) else None


def _pair(a: tuple[str, int], b: tuple[str, int]) -> str:
    if a[0] != b[0]:
        return "a Mac and a Linux box"
    return "Macs without Thunderbolt 5" if a[0] == "macos" else "these Linux boxes"
