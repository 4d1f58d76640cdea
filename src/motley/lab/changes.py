"""Changes to a lab: add machines, drop some, swap devices or links. Pure: a lab in, another lab out.

Owns what `--add`, `--drop` and `--swap` mean. A lab is first written out pair by pair, so that a change to one link
leaves the others alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatch
from itertools import combinations
from math import log

from motley.errors import UsageError
from motley.lab.hardware import Hardware, hardware
from motley.lab.lab import Device, Lab, Link, shortened
from motley.lab.links import LinkKind, every_link, link_kind
from motley.lab.profile import device as profiled
from motley.lab.shorthand import parse
from motley.lab.wiring import Assembly, card_link, hardware_of, kind_of, supported, through, wired

_MOST = 256  # devices: beyond that, pairs are too many to write out
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


@dataclass(frozen=True)
class Change:
    """One of the three, as it was asked for."""

    verb: str  # "add", "drop" or "swap"
    text: str

    @property
    def name(self) -> str:
        return f"{self.verb} {self.text}"

    def apply(self, lab: Lab, engine: str = "motley") -> Assembly:
        """Raises UsageError for what the lab or the catalogues do not have."""
        if len(lab.devices) > _MOST:
            raise UsageError(f"the lab has {len(lab.devices)} devices: what-if takes up to {_MOST}; change the file")
        return {"add": _added, "drop": _dropped, "swap": _swapped}[self.verb](_explicit(lab), self.text, engine)


def changed(lab: Lab, changes: Iterable[Change], engine: str = "motley") -> Assembly:
    """After all of them, in their order. What an earlier one took away can't be changed any more: a note says so."""
    notes: dict[str, None] = {}
    now = lab
    for change in changes:
        try:
            step = change.apply(now, engine)
        except UsageError:
            change.apply(lab, engine)  # raises what is wrong with the change itself
            step = Assembly(now, (f"{change.name}: nothing is left for it to change",))
        now, notes = step.lab, notes | dict.fromkeys(step.notes)
    return Assembly(now, tuple(notes))


# -- add


def _added(lab: Lab, text: str, engine: str) -> Assembly:
    boxes, link = parse(text)
    fresh = wired(boxes, engine)
    new = _renamed(_explicit(fresh.lab), lab)
    notes = dict.fromkeys(fresh.notes)
    links = []
    for a in new.devices:
        for b in lab.devices:
            joined, note = _joined(lab, link, a, b, new)
            links.append(joined)
            notes |= {note: None} if note else {}
    return Assembly(Lab((*lab.devices, *new.devices), (*lab.links, *new.links, *links)), tuple(notes))


def _joined(lab: Lab, asked: LinkKind | None, a: Device, b: Device, new: Lab) -> tuple[Link, str]:
    """New device `a` to old `b`: as asked, or as the lab joins `b` to machines like `a`."""
    system_a, system_b = _system(new, a), _system(lab, b)
    others = [d for d in lab.devices if d.node != b.node]
    alike = [d for d in others if _system(lab, d)[0] == system_a[0]] or ([] if asked else others)
    like = next((lab.link(d.name, b.name) for d in alike), None)
    if asked is None:
        if like is None:
            raise UsageError(f"nothing says what joins {a.name} and {b.name}: end it with a link, such as '@10gbe'")
        return replace(like, a=a.name, b=b.name), ""
    if asked.within == "machine":
        raise UsageError(f"{asked.key} joins devices of one machine: name what joins {a.name} to {b.name}")
    kind, note = supported(asked, system_a, system_b)
    if note and like is not None:
        why = note.split(":")[0]
        return replace(like, a=a.name, b=b.name), f"{why}: they talk as the others do, over {_link_name(like)}"
    return through(kind, a.name, b.name, [*_cables(new, a), *_cables(lab, b)]), note


def _renamed(new: Lab, old: Lab) -> Lab:
    """The new devices under names and nodes that the old lab does not use."""
    taken = {n for d in old.devices for n in (d.name, d.node)}
    names: dict[str, str] = {}
    nodes: dict[str, str] = {}
    for device in new.devices:
        names[device.name] = _free(device.name, taken)
        taken.add(names[device.name])
    for device in new.devices:
        alone = device.node == device.name
        nodes.setdefault(device.node, names[device.name] if alone else _free(device.node, taken))
        taken.add(nodes[device.node])
    devices = tuple(replace(d, name=names[d.name], node=nodes[d.node]) for d in new.devices)
    return Lab(devices, tuple(replace(n, a=names[n.a], b=names[n.b]) for n in new.links))


def _free(name: str, taken: set[str]) -> str:
    stem, _, tail = name.rpartition("-")
    numbered = bool(stem) and tail.isdigit() and int(tail) < 100 and (name in taken or f"{stem}-1" in taken)
    stem = stem if numbered else name
    if name not in taken and f"{stem}-1" not in taken:
        return name
    n = 1
    while f"{stem}-{n}" in taken:
        n += 1
    return f"{stem}-{max(n, 2)}"


# -- drop


def _dropped(lab: Lab, text: str, engine: str) -> Assembly:
    gone = {d.name for d in _meant(lab, text)}
    if not gone:
        raise UsageError(f"the lab has no {text.strip()!r} to drop{_near(text, lab)}")
    kept = lab.subset(d.name for d in lab.devices if d.name not in gone)
    if not kept.devices:
        raise UsageError(f"dropping {text.strip()!r} leaves no device in the lab")
    links = tuple(n for n in lab.links if gone.isdisjoint((n.a, n.b)))
    return Assembly(Lab(kept.devices, links))


def _meant(lab: Lab, text: str) -> list[Device]:
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


# -- swap


def _swapped(lab: Lab, text: str, engine: str) -> Assembly:
    left, arrow, right = (part.strip() for part in text.replace("→", "->").partition("->"))
    if not (left and arrow and right):
        raise UsageError(f"cannot swap {text!r}: write 'tcp->rdma', '10gbe->100gbe' or 'rtx-4090->rtx-5090'")
    devices = _meant(lab, left)
    if devices:
        return _swap_devices(lab, devices, hardware(right), engine)
    return _swap_links(lab, left.lower(), right)


def _swap_devices(lab: Lab, old: Sequence[Device], new: Hardware, engine: str) -> Assembly:
    taken = {d.name for d in lab.devices} - {d.name for d in old}
    names: dict[str, str] = {}
    swapped: dict[str, Device] = {}
    for device in old:
        known = hardware_of(device)
        wish = device.name.replace(known.key, new.key) if known and known.key in device.name else new.key
        names[device.name] = _free(wish, taken)
        taken.add(names[device.name])
        node = names[device.name] if device.node == device.name else device.node
        swapped[device.name] = profiled(new, engine, names[device.name], node)
    devices = tuple(swapped.get(d.name, d) for d in lab.devices)
    after = Lab(devices)
    notes: dict[str, None] = {}
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
    kind, note = supported(kind, _system(lab, a), _system(lab, b))
    return through(kind, link.a, link.b, [*_cables(lab, a), *_cables(lab, b)]), note


def _swap_links(lab: Lab, left: str, right: str) -> Assembly:
    fits = _filter(left, lab)
    meant = [link for link in lab.links if fits(link)]
    if not meant:
        has = shortened(sorted({_link_name(link) for link in lab.links})) or "none"
        raise UsageError(f"the lab has no device and no link {left!r} to swap: its links are {has}{_near(left, lab)}")
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
    a, b = _system(lab, first), _system(lab, second)
    if kind is None:
        kind = _over(word, link, a, b)
        if kind is None:
            return link, f"no supported RDMA joins {_pair(a, b)}: they stay on {_link_name(link)}"
    if kind.within == "machine" and first.node != second.node:
        raise UsageError(f"{kind.key} joins devices of one machine, not {link.a} and {link.b}")
    _, note = supported(kind, a, b)
    if note:
        return link, f"{note.split(':')[0]}: they stay on {_link_name(link)}"
    cables = [] if kind.within else [*_cables(lab, first), *_cables(lab, second)]
    return through(kind, link.a, link.b, cables), ""


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


# -- common


def _explicit(lab: Lab) -> Lab:
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


def _system(lab: Lab, device: Device) -> tuple[str, int]:
    """What the device's machine runs, and the version of its Thunderbolt ports (0: none, or not known)."""
    node = [d for d in lab.devices if d.node == device.node]
    known = [h for d in node if (h := hardware_of(d))]
    mac = any(h.system == "macos" for h in known) or any(d.kind in ("metal", "mlx") for d in node)
    return ("macos" if mac else "linux"), max((h.thunderbolt for h in known), default=0)


def _cables(lab: Lab, device: Device) -> list[LinkKind]:
    """The Thunderbolt cable that a card hangs on, if it is one at a Mac."""
    card = hardware_of(device)
    link = card_link(card, *_system(lab, device)) if card else None
    return [link] if link is not None and link.key.endswith("egpu") else []


def _pair(a: tuple[str, int], b: tuple[str, int]) -> str:
    if a[0] != b[0]:
        return "a Mac and a Linux box"
    return "Macs without Thunderbolt 5" if a[0] == "macos" else "these Linux boxes"


def _link_name(link: Link) -> str:
    kind = kind_of(link)
    return kind.key if kind else f"{link.transport} ({link.gb_s:.3g} GB/s)"


def _near(text: str, lab: Lab) -> str:
    names = list(dict.fromkeys(n for d in lab.devices for n in (d.name, d.node)))
    near = get_close_matches(text.strip().lower(), names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; it has {shortened(names)}"
