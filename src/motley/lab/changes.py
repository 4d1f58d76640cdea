"""Changes to a lab: add machines, drop some, swap devices or links. Pure: a lab in, another lab out.

Owns what `--add`, `--drop` and `--swap` mean. A lab is first written out pair by pair, so that a change to one link
leaves the others alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from motley.errors import UsageError
from motley.lab.edit import cables, explicit, free, link_name, meant, near, system
from motley.lab.lab import Device, Lab, Link
from motley.lab.links import LinkKind
from motley.lab.shorthand import parse
from motley.lab.swaps import swapped
from motley.lab.wiring import Assembly, hardware_of, supported, through, wired

_MOST = 256  # devices: beyond that, pairs are too many to write out


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
        if not self.text.strip():
            raise UsageError(f"--{self.verb} is empty: say what to {self.verb}")
        if len(lab.devices) > _MOST:
            raise UsageError(f"the lab has {len(lab.devices)} devices: what-if takes up to {_MOST}; change the file")
        return {"add": _added, "drop": _dropped, "swap": swapped}[self.verb](explicit(lab), self.text, engine)


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


def _added(lab: Lab, text: str, engine: str) -> Assembly:
    boxes, link = parse(text)
    fresh = wired(boxes, engine)
    new = _renamed(explicit(fresh.lab), lab)
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
    system_a, system_b = system(new, a), system(lab, b)
    others = [d for d in lab.devices if d.node != b.node]
    alike = [d for d in others if system(lab, d)[0] == system_a[0]] or ([] if asked else others)
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
        return replace(like, a=a.name, b=b.name), f"{why}: they talk as the others do, over {link_name(like)}"
    return through(kind, a.name, b.name, [*cables(new, a), *cables(lab, b)]), note


def _renamed(new: Lab, old: Lab) -> Lab:
    """The new devices under names and nodes that the old lab does not use."""
    taken = {n for d in old.devices for n in (d.name, d.node)}
    names: dict[str, str] = {}
    nodes: dict[str, str] = {}
    for device in new.devices:
        known = hardware_of(device)
        names[device.name] = free(known.key if known else device.name, taken)
        taken.add(names[device.name])
    for device in new.devices:
        alone = device.node == device.name
        if device.node not in nodes:
            nodes[device.node] = names[device.name] if alone else free("box", taken)
            taken.add(nodes[device.node])
    devices = tuple(replace(d, name=names[d.name], node=nodes[d.node]) for d in new.devices)
    return Lab(devices, tuple(replace(n, a=names[n.a], b=names[n.b]) for n in new.links))


def _dropped(lab: Lab, text: str, engine: str) -> Assembly:
    gone = {d.name for d in meant(lab, text)}
    if not gone:
        raise UsageError(f"the lab has no {text.strip()!r} to drop{near(text, lab)}")
    kept = lab.subset(d.name for d in lab.devices if d.name not in gone)
    if not kept.devices:
        raise UsageError(f"dropping {text.strip()!r} leaves no device in the lab")
    links = tuple(n for n in lab.links if gone.isdisjoint((n.a, n.b)))
    return Assembly(Lab(kept.devices, links))
