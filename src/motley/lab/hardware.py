"""The hardware catalogue: what machines people buy can do, by name, every figure with its source.

Owns the files `catalogue/*.toml` but links.toml and profiles.toml: a few, by maker; one [[device]] a machine, and its
memory sizes as variants. Vendor figures and a few measured ones: what an engine achieves of them is `profile`'s matter.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from motley.errors import UsageError
from motley.lab.spelling import by_spelling

GIB = 2**30

# Words of marketing, packaging and tables that do not tell devices apart.
_NOISE_WORDS = """nvidia geforce tesla amd instinct radeon apple intel qualcomm mac studio macbook mini edition
generation gpu cpu with the gb gib core cores card water hbm3 hbm3e virtualized integrated lm lf mlperf"""
_NOISE = frozenset(_NOISE_WORDS.split())


@dataclass(frozen=True)
class Hardware:
    """One device of the catalogue. Rates are dense; None where no figure is known."""

    key: str  # "rtx-pro-6000", "m3-ultra-512"
    model: str  # the key without a memory size: "m3-ultra"
    name: str
    cls: str  # "consumer_nvidia", "ws_nvidia", "dc_nvidia", "old_nvidia", "unified_nvidia", "apple", "cpu", "sbc", ...
    kind: str  # "cuda", "metal", "rocm", "vulkan", "sycl", "npu", "cpu"
    system: str  # "linux" or "macos": what its host runs
    memory_gb: float  # as sold, GiB
    usable_gb: float  # of it for weights, cache and buffers, GiB
    bandwidth_gb_s: float  # the vendor's, 1e9 bytes
    measured_bandwidth_gb_s: float | None = None
    fp32_tflops: float | None = None
    fp16_tflops: float | None = None
    fp16_measured_tflops: float | None = None
    int8_tops: float | None = None
    fp8_tflops: float | None = None
    fp4_tflops: float | None = None
    watts: float | None = None  # at full load: the board's for a card, the whole computer's for a Mac or a small box
    price_usd: float | None = None
    price_date: str = ""
    pcie: str = ""  # the link to its host, for a card
    thunderbolt: int = 0  # the version of a Mac's ports
    channels: int | None = None  # of memory, all sockets together
    memory_mt_s: int | None = None
    sockets: int = 1
    dense: bool = True  # every rate here is
    source_bandwidth: str = ""  # each says vendor, measured, estimate or knowledge
    source_compute: str = ""
    source_memory: str = ""
    source_usable: str = ""
    source_watts: str = "knowledge: the vendor's figure at full load; not seen in a source"
    source_price: str = ""
    aliases: tuple[str, ...] = ()
    notes: str = ""

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gb * GIB)

    @property
    def base(self) -> str:
        """The key without the memory size: of `m3-ultra-512` and `m3-ultra` alike."""
        return self.key.removesuffix(f"-{self.memory_gb:g}")

    @property
    def usable_bytes(self) -> int:
        return int(self.usable_gb * GIB)

    @property
    def measured(self) -> bool:
        """Whether any figure here was measured."""
        return self.measured_bandwidth_gb_s is not None or self.fp16_measured_tflops is not None


def hardware(name: str) -> Hardware:
    """By key (`m3-ultra-512`), by the keys of published tables (`rtx_3090`), or as people write it (`NVIDIA RTX 3090`,
    `Mac Studio M3 Ultra 512GB`). A processor takes any memory size: `epyc-9355-512`.

    Raises UsageError with the nearest names."""
    found = _exact(name) or _loose(name)
    if found is None:
        raise UsageError(f"unknown device {name!r}: {_nearest(name)}; `motley plan --devices` lists them")
    return found


def every_device() -> tuple[Hardware, ...]:
    """Each device once, with its largest memory or the usual one, by class and key."""
    return tuple(sorted(_catalogue().values(), key=lambda h: (h.cls, h.key)))


def memory_sizes(key: str) -> tuple[float, ...]:
    """The sizes a device is sold with, GiB."""
    return tuple(sorted(_variants()[key]))


def _exact(name: str) -> Hardware | None:
    word = name.strip().lower().replace("_", "-").replace(" ", "-")
    found = _catalogue().get(word) or _aliases().get(_plain(name))
    return found or _sized(word)


def _sized(word: str) -> Hardware | None:
    """`m3-ultra-512`, `m3-ultra-512gb`: a key and a memory size."""
    match = re.fullmatch(r"(.+)-(\d+)(?:gi?b)?", word)
    base = match and (_catalogue().get(match[1]) or _aliases().get(_plain(match[1])))
    return _with_memory(base, float(match[2])) if match and base else None


def _with_memory(base: Hardware, gib: float) -> Hardware | None:
    prices = _variants()[base.key]
    if len(prices) == 1 and gib in prices:
        return base
    if (base.key, gib) in _elsewhere():
        return _with_memory(_catalogue()[_elsewhere()[base.key, gib]], gib)
    anything = base.cls == "cpu" and 8 <= gib <= 12288
    if gib not in prices and not anything:
        return None
    price, date = prices.get(gib, (None, ""))
    source = base.source_price if price else ""
    share = base.usable_gb / base.memory_gb
    return replace(
        base,
        key=f"{base.key}-{gib:g}",
        name=f"{base.name} {gib:g} GB",
        memory_gb=gib,
        usable_gb=gib * share,
        price_usd=price,
        price_date=date,
        source_price=source,
    )


def _loose(name: str) -> Hardware | None:
    """`4x NVIDIA RTX 3090 24GB + CPU AMD EPYC 7543`: the first device named, count and host left out;
    `Ryzen 9 7900X (Nvidia 4090)`: the card in the host."""
    text = re.split(r"\s\+\s|\s@|,|;", name)[0]
    text = re.sub(r"^\s*\d+\s*x\s+|\s\*\s*\d+\s*$|\b\d+\s*w\b", "", text, flags=re.IGNORECASE)
    sizes = re.findall(r"(\d+(?:\.\d+)?)\s*gi?b\b", text, re.IGNORECASE)
    bare = re.sub(r"\(?\d+(?:\.\d+)?\s*gi?b\b\)?", " ", text, flags=re.IGNORECASE)
    inside = re.findall(r"\(([^()]*)\)", bare)
    outside = re.sub(r"\(.*?\)", " ", bare)
    found = [_aliases().get(_plain(part)) for part in (bare, outside, *inside)]
    known = [h for h in found if h is not None]
    base = next((h for h in known if h.kind != "cpu"), known[0] if known else None)
    if base is None or not sizes:
        return base
    return _with_memory(base, float(sizes[0])) or base


def _plain(text: str) -> str:
    """What tells devices apart, run together: `NVIDIA GeForce RTX 5060 Ti` and `rtx_5060ti` are `rtx5060ti`."""
    text = re.sub(r"\((?:r|tm)\)|®|™", " ", text.lower())
    text = re.sub(r"\d+[- ]?core\b", lambda m: m[0].replace(" ", "").replace("-", ""), text)
    words = [w for w in re.split(r"[^a-z0-9+.]+", text) if w and w not in _NOISE]
    plain = "".join(words)
    if re.fullmatch(r"[2-5]0[5-9]0(ti|super|tisuper)?", plain):
        return f"rtx{plain}"
    return f"rx{plain}" if re.fullmatch(r"\d{4}(xt|xtx|gre)", plain) else plain


def _nearest(name: str) -> str:
    known = {**{key: key for key in _names()}, **{_plain(key): key for key in _names()}}
    near = get_close_matches(name.strip().lower(), known, n=3, cutoff=0.6)
    near += get_close_matches(_plain(name), known, n=3, cutoff=0.5)
    names = list(dict.fromkeys(known[n] for n in near))[:3]
    return f"did you mean {' or '.join(names)}?" if names else f"there are {', '.join(list(_catalogue())[:6])}, ..."


def _names() -> list[str]:
    """Keys, those with a memory size too."""
    sizes = [(key, size) for key, sizes in _variants().items() for size in sizes]
    return [*_catalogue(), *(f"{key}-{size:g}" for key, size in [*sizes, *_elsewhere()])]


@cache
def _aliases() -> dict[str, Hardware]:
    return by_spelling(_catalogue().values(), _plain, "hardware")


@cache
def _variants() -> dict[str, dict[float, tuple[float | None, str]]]:
    """Memory sizes, GiB, of each device, with their price and its date."""
    found: dict[str, dict[float, tuple[float | None, str]]] = {}
    for row, _ in _rows():
        sizes: dict[float, tuple[float | None, str]] = {}
        for entry in (row, *_sizes(row)):
            price = entry.get("price_usd")
            if price or float(entry["memory_gb"]) not in sizes:
                date = entry.get("price_date", row.get("price_date", "")) if price else ""
                sizes[float(entry["memory_gb"])] = (price, date)
        found[row["key"]] = sizes
    return found


@cache
def _elsewhere() -> dict[tuple[str, float], str]:
    """(device, a memory size that another chip comes with): that device, such as the M4 Max with fewer cores."""
    return {(row["key"], float(e["memory_gb"])): e["device"] for row, _ in _rows() for e in _sizes(row, True)}


def _sizes(row: Mapping[str, Any], elsewhere: bool = False) -> list[Mapping[str, Any]]:
    """The row's memory variants as tables: its own, or those that name another device."""
    entries = [v if isinstance(v, Mapping) else {"memory_gb": v} for v in row.get("variants", [])]
    return [e for e in entries if ("device" in e) == elsewhere]


@cache
def _catalogue() -> dict[str, Hardware]:
    found: dict[str, Hardware] = {}
    for row, file in _rows():
        entry = _entry(row, file)
        if entry.key in found:
            raise UsageError(f"hardware catalogue: two devices are called {entry.key!r}")
        found[entry.key] = entry
    return found


def _entry(row: Mapping[str, Any], file: Mapping[str, Any]) -> Hardware:
    group = file["class"][row["class"]]
    values = {("cls" if key == "class" else key): value for key, value in row.items() if key != "variants"}
    unknown = set(values) - {f.name for f in fields(Hardware)}
    if unknown:
        raise UsageError(f"hardware catalogue, {row['key']}: unknown keys {', '.join(sorted(unknown))}")
    for key in [k for k in values if k.startswith("source_")]:
        values[key] = file.get("sources", {}).get(values[key], values[key])
    values["aliases"] = tuple(values.get("aliases", ()))
    values["price_usd"], values["price_date"] = _variants()[row["key"]][float(row["memory_gb"])]
    return Hardware(
        model=row["key"],
        kind=group["kind"],
        system=group["system"],
        usable_gb=row["memory_gb"] * group["usable_share"],
        source_usable=group["source_usable"],
        **values,
    )


@cache
def _rows() -> tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...]:
    """(device, the file it stands in)"""
    return tuple((row, file) for file in _files() for row in file["device"])


def _files() -> Iterator[Mapping[str, Any]]:
    folder = files("motley.lab") / "catalogue"
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if path.name.endswith(".toml") and path.name not in ("links.toml", "profiles.toml"):
            yield tomllib.loads(path.read_text("utf-8"))
