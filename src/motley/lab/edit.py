"""What changes to a lab have in common: the lab written out pair by pair, what a text means in it, free names."""

from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatch
from itertools import combinations

from motley.errors import UsageError
from motley.lab.hardware import hardware
from motley.lab.lab import Device, Lab, Link, shortened
from motley.lab.links import LinkKind
from motley.lab.wiring import card_link, hardware_of, kind_of


def explicit(lab: Lab) -> Lab:
    """The same lab with a link for every pair of devices, and nodes that no device of another node is called."""
    names = {d.name for d in lab.devices}
    shared = {d.node for d in lab.devices if d.node != d.name}
    devices = tuple(replace(d, node=f"machine {d.node}") if d.node in shared & names else d for d in lab.devices)
    if missing := lab.missing_links():
        pairs = shortened([f"{a} - {b}" for a, b in missing])
        raise UsageError(f"the lab has no link between {pairs}: add it to the file")
    links = []
    for a, b in combinations(lab.devices, 2):
        link = lab.link(a.name, b.name)
        if link.source != "same node":
            links.append(replace(link, a=a.name, b=b.name))
    return Lab(devices, tuple(links))


def meant(lab: Lab, text: str) -> list[Device]:
    """Devices by name, node, pattern, or what they are in the catalogue."""
    word = text.strip().lower()
    by_name = [d for d in lab.devices if fnmatch(d.name.lower(), word) or fnmatch(d.node.lower(), word)]
    if by_name:
        return by_name
    origin = {d.name: hardware_of(d) for d in lab.devices}
    by_key = [d for d in lab.devices if (h := origin[d.name]) and word in (h.key, h.model)]
    if by_key:
        return by_key
    try:
        model = hardware(word)
    except UsageError:
        return []
    return [d for d in lab.devices if (h := origin[d.name]) and h.key == model.key]


def free(stem: str, taken: set[str]) -> str:
    """`stem`, or the first of `stem-2`, ... that is not taken."""
    if stem not in taken and f"{stem}-1" not in taken:
        return stem
    n = 2
    while f"{stem}-{n}" in taken:
        n += 1
    return f"{stem}-{n}"


def system(lab: Lab, device: Device) -> tuple[str, int]:
    """What the device's machine runs, and the version of its Thunderbolt ports (0: none, or not known)."""
    node = [d for d in lab.devices if d.node == device.node]
    known = [h for d in node if (h := hardware_of(d))]
    mac = any(h.system == "macos" for h in known) or any(d.kind in ("metal", "mlx") for d in node)
    return ("macos" if mac else "linux"), max((h.thunderbolt for h in known), default=0)


def cables(lab: Lab, device: Device) -> list[LinkKind]:
    """The Thunderbolt cable that a card hangs on, if it is one at a Mac."""
    card = hardware_of(device)
    link = card_link(card, *system(lab, device)) if card else None
    return [link] if link is not None and link.key.endswith("egpu") else []


def link_name(link: Link) -> str:
    kind = kind_of(link)
    return kind.key if kind else f"{link.transport} ({link.gb_s:.3g} GB/s)"


def near(text: str, lab: Lab) -> str:
    names = list(dict.fromkeys(n for d in lab.devices for n in (d.name, d.node)))
    near = get_close_matches(text.strip().lower(), names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; it has {shortened(names)}"
