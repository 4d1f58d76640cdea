"""The link catalogue: what joins machines, and devices of a machine, by name: `10gbe`, `tb5-rdma`, `pcie5x16`.

Owns `catalogue/links.toml`, and which systems a link can join: no supported RDMA joins a Mac to a Linux box.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from motley.errors import UsageError
from motley.lab.lab import Link, shortened
from motley.lab.spelling import by_spelling

# What a pair of systems talks over where an RDMA link cannot join them.
_PLAIN = {
    "tb5-rdma": "tb4",
    "tb5-rdma-3x": "tb4",
    "usb4-rdma": "tb4",
    "tb-softroce": "tb4",
    "tb5-tcp": "tb4",
    "2.5gbe-softroce": "2.5gbe",
    "10gbe-roce": "10gbe",
    "25gbe-roce": "25gbe",
    "100gbe-roce": "100gbe",
    "100gbe-x4-roce": "100gbe",
    "100gbe-x4": "100gbe",
}


@dataclass(frozen=True)
class Range:
    """A figure to expect, and the range it was seen or is believed in."""

    low: float
    p50: float
    high: float


@dataclass(frozen=True)
class LinkKind:
    """One link of the catalogue."""

    key: str
    name: str
    transport: str  # "tcp", "mpi" (RDMA on Linux), "jaccl" (RDMA on Macs), "local"
    rtt_us: Range  # there and back with a small message
    gb_s: Range  # of one stream, each way
    rdma: bool = False
    joins: frozenset[tuple[str, str]] = frozenset()  # pairs of systems, in alphabetical order
    within: str = ""  # "machine": joins devices of one computer only
    source_rtt: str = ""
    source_gb_s: str = ""
    aliases: tuple[str, ...] = ()
    notes: str = ""

    def can_join(self, a: str, b: str) -> bool:
        """Systems `a` and `b`, "linux" or "macos"."""
        return self.within == "machine" or tuple(sorted((a, b))) in self.joins

    def between(self, a: str, b: str) -> Link:
        """As a link of a lab, from device or node `a` to `b`."""
        return Link(a, b, self.transport, self.rtt_us.p50, self.gb_s.p50, source=f"catalogue: {self.key}")


def link_kind(name: str) -> LinkKind:
    """By key, or as tables write it (`25GbE TCP`). Raises UsageError with the nearest names."""
    found = _aliases().get(_plain(name))
    if found is None:
        known = {_plain(key): key for key in _catalogue()}
        near = get_close_matches(_plain(name), known, n=3, cutoff=0.5)
        names = [known[n] for n in near]
        hint = f"did you mean {' or '.join(names)}?" if names else f"there are {shortened(list(_catalogue()))}"
        raise UsageError(f"unknown link {name!r}: {hint}; `motley plan --links` lists them")
    return found


def every_link() -> tuple[LinkKind, ...]:
    return tuple(_catalogue().values())


def joining(kind: LinkKind, a: str, b: str) -> tuple[LinkKind, str]:
    """The link that joins systems `a` and `b` where `kind` was asked for: itself, or the nearest over TCP with a
    sentence that says so. Raises UsageError where there is none."""
    if kind.can_join(a, b):
        return kind, ""
    instead = _PLAIN.get(kind.key)
    if instead is None:
        able = ", ".join(k.key for k in every_link() if k.can_join(a, b) and not k.within)
        raise UsageError(f"{kind.key} cannot join {_systems(a, b)}: take one of {able}")
    other = link_kind(instead)
    what = "no supported RDMA joins" if kind.rdma else f"{kind.key} does not join"
    return other, f"{what} {_systems(a, b)}: they talk over {other.name} ({other.key}) instead of {kind.key}"


def _systems(a: str, b: str) -> str:
    names = {"linux": "a Linux box", "macos": "a Mac"}
    return f"two {'Linux boxes' if a == 'linux' else 'Macs'}" if a == b else f"{names[a]} and {names[b]}"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "", text.lower())


@cache
def _aliases() -> dict[str, LinkKind]:
    return by_spelling(_catalogue().values(), _plain, "link")


@cache
def _catalogue() -> dict[str, LinkKind]:
    text = (files("motley.lab") / "catalogue" / "links.toml").read_text("utf-8")
    return {row["key"]: _entry(row) for row in tomllib.loads(text)["link"]}


def _entry(row: Mapping[str, Any]) -> LinkKind:
    unknown = set(row) - {f.name for f in fields(LinkKind)}
    if unknown:
        raise UsageError(f"link catalogue, {row['key']}: unknown keys {', '.join(sorted(unknown))}")
    values = {
        **row,
        "rtt_us": Range(*map(float, row["rtt_us"])),
        "gb_s": Range(*map(float, row["gb_s"])),
        "joins": frozenset(tuple(sorted(pair.split("-"))) for pair in row.get("joins", [])),
        "aliases": tuple(row.get("aliases", ())),
    }
    return LinkKind(**values)
