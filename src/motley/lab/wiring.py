"""Wiring: machines and the links that were asked for become a lab: names, devices by profile, a link for every pair.

Owns what may be wired how: a card on its host's PCIe or in a Mac's Thunderbolt box, RDMA only between systems that
have it. Where that is not what was asked for, a note says so in a sentence.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

from motley.errors import UsageError
from motley.lab.hardware import Hardware, hardware
from motley.lab.lab import Device, Lab, Link
from motley.lab.links import LinkKind, joining, link_kind
from motley.lab.profile import device as profiled
from motley.lab.profile import engine_note

_MANY = 16  # machines from which on the commonest link is written once, as a pattern
_MOST_LINKS = 20_000


@dataclass(frozen=True)
class Box:
    """One machine: its devices, the link its cards use if that is given, and the sums around it, outermost first:
    (which of its terms, the term's own link, the sum's link)."""

    devices: tuple[Hardware, ...]
    via: LinkKind | None
    place: tuple[tuple[int, LinkKind | None, LinkKind | None], ...]

    @property
    def system(self) -> str:
        return "macos" if any(d.system == "macos" for d in self.devices) else "linux"

    @property
    def thunderbolt(self) -> int:
        return max(d.thunderbolt for d in self.devices)

    @property
    def name(self) -> str:
        return " & ".join(d.key for d in self.devices)


@dataclass(frozen=True)
class Assembly:
    """A lab from the catalogues, and what had to be said about it."""

    lab: Lab
    notes: tuple[str, ...] = ()


def wired(boxes: Sequence[Box], engine: str) -> Assembly:
    """Raises UsageError for machines that nothing joins, or that the link asked for cannot join."""
    devices, nodes = _named(boxes, engine)
    notes = {note: None for box in boxes for d in box.devices if (note := engine_note(d, engine))}
    inside = [link for box, node in zip(boxes, nodes) for link in _inside(box, [d.name for d in node])]
    between: list[tuple[str, str, LinkKind]] = []
    for (box_a, node_a), (box_b, node_b) in combinations(list(zip(boxes, nodes)), 2):
        kind, note = _between(box_a, box_b)
        notes |= {note: None} if note else {}
        between.append((node_a[0].node, node_b[0].node, kind))
        inside += _through_cables(box_a, node_a, box_b, node_b, kind)
    return Assembly(Lab(tuple(devices), (*inside, *_written(between, len(boxes)))), tuple(notes))


def hardware_of(device: Device) -> Hardware | None:
    """The catalogue's entry behind a device of a lab, where it came from there."""
    origin, _, rest = device.source.partition(": ")
    return hardware(rest.split(",")[0]) if origin == "catalogue" else None


def kind_of(link: Link) -> LinkKind | None:
    """The catalogue's entry behind a link of a lab, where it came from there."""
    origin, _, key = link.source.partition(": ")
    return link_kind(key) if origin == "catalogue" else None


def supported(kind: LinkKind, a: tuple[str, int], b: tuple[str, int]) -> tuple[LinkKind, str]:
    """`kind` between two machines, each (system, version of its Thunderbolt ports), or what they have instead, and a
    sentence about it."""
    kind, note = joining(kind, a[0], b[0])
    old = [version for _, version in (a, b) if version and version < 5]
    if kind.key.startswith("tb5") and old:
        instead = link_kind("tb4")
        return instead, f"{kind.key} needs Thunderbolt 5 on both Macs: they talk over {instead.name} ({instead.key})"
    return kind, note


def card_link(card: Hardware, system: str, thunderbolt: int) -> LinkKind | None:
    """What joins a card to its host; None for what is no card."""
    if not card.pcie:
        return None
    return link_kind(card.pcie if system == "linux" else f"tb{max(4, thunderbolt)}-egpu")


def _named(boxes: Sequence[Box], engine: str) -> tuple[list[Device], list[list[Device]]]:
    """All devices, and those of each box. A box with several devices is a node of a name of its own."""
    total = Counter(d.key for box in boxes for d in box.devices)
    several = sum(len(box.devices) > 1 for box in boxes)
    used: Counter[str] = Counter()
    nodes: list[list[Device]] = []
    n_boxes = 0
    for box in boxes:
        node = ""
        if len(box.devices) > 1:
            n_boxes += 1
            node = f"box-{n_boxes}" if several > 1 else "box"
        found = []
        for item in box.devices:
            used[item.key] += 1
            name = f"{item.key}-{used[item.key]}" if total[item.key] > 1 else item.key
            found.append(profiled(item, engine, name, node or name))
        nodes.append(found)
    return [d for node_devices in nodes for d in node_devices], nodes


def _inside(box: Box, names: Sequence[str]) -> Iterator[Link]:
    """Links between the devices of one machine."""
    cards = [card_link(d, box.system, box.thunderbolt) for d in box.devices]
    between_cards = box.via is not None and (box.via.key.startswith("nvlink") or box.via.key.endswith("p2p"))
    if box.via is not None and not between_cards:
        cards = [box.via if c else None for c in cards]
    for i, j in combinations(range(len(names)), 2):
        kinds = [c for c in (cards[i], cards[j]) if c is not None]
        if len(kinds) == 2 and between_cards and box.via is not None:
            yield box.via.between(names[i], names[j])
        elif kinds:
            yield min(kinds, key=lambda k: k.gb_s.p50).between(names[i], names[j])


def _through_cables(
    box_a: Box, node_a: Sequence[Device], box_b: Box, node_b: Sequence[Device], kind: LinkKind
) -> Iterator[Link]:
    """What cards in Thunderbolt boxes have to other machines: other than the rest of their node."""
    for a, b in product(zip(box_a.devices, node_a), zip(box_b.devices, node_b)):
        cables = [c for c in (_cable(box_a, a[0]), _cable(box_b, b[0])) if c is not None]
        if cables:
            yield through(kind, a[1].name, b[1].name, cables)


def through(kind: LinkKind, a: str, b: str, cables: Iterable[LinkKind]) -> Link:
    """`kind` between devices `a` and `b` where cards hang on cables of their own on the way."""
    network = kind.between(a, b)
    for cable in cables:
        rtt, gb_s = network.rtt_us + cable.rtt_us.p50, min(network.gb_s, cable.gb_s.p50)
        network = replace(network, rtt_us=rtt, gb_s=gb_s)
    return network


def _cable(box: Box, device: Hardware) -> LinkKind | None:
    """The Thunderbolt cable that a card hangs on."""
    link = card_link(device, box.system, box.thunderbolt)
    link = box.via if link is not None and box.via is not None else link
    return link if link is not None and link.key.endswith("egpu") else None


def _between(a: Box, b: Box) -> tuple[LinkKind, str]:
    for (term_a, own_a, shared), (term_b, own_b, _) in zip(a.place, b.place):
        if term_a != term_b:
            own = [kind for kind in (own_a, own_b) if kind is not None]
            asked = min(own, key=lambda k: (k.gb_s.p50, -k.rtt_us.p50)) if own else shared
            break
    else:
        raise AssertionError("two boxes are in the same place")
    if asked is None:
        cards = " (cards of one machine are written '2x rtx-3090 via pcie4x16')" if _loose_cards(a, b) else ""
        raise UsageError(f"nothing joins {a.name} and {b.name}: end the sum with a link, such as '@10gbe'{cards}")
    if asked.within == "machine":
        raise UsageError(
            f"{asked.key} joins devices of one machine, not {a.name} and {b.name}: write '{a.devices[0].key} & "
            f"{b.devices[0].key}' for one machine, or name a network"
        )
    return supported(asked, (a.system, a.thunderbolt), (b.system, b.thunderbolt))


def _loose_cards(a: Box, b: Box) -> bool:
    return all(len(box.devices) == 1 and box.devices[0].pcie for box in (a, b))


def _written(between: Sequence[tuple[str, str, LinkKind]], n_boxes: int) -> Iterable[Link]:
    """Each pair's link; of many machines, the commonest once, as a pattern for all that has no other."""
    if n_boxes < _MANY:
        return [kind.between(a, b) for a, b, kind in between]
    ((commonest, _),) = Counter(kind.key for _, _, kind in between).most_common(1)
    others = [(a, b, kind) for a, b, kind in between if kind.key != commonest]
    if len(others) > _MOST_LINKS:
        raise UsageError(
            f"{n_boxes} machines in islands need {len(others):,} links: write a lab file, where patterns join islands"
        )
    return [*(kind.between(a, b) for a, b, kind in others), link_kind(commonest).between("*", "*")]
