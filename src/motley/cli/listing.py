"""`--devices`, `--links`, `--labs`, `--engines`: what the catalogues have, as tables; then the command ends."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from motley.lab.hardware import Hardware, every_device, memory_sizes
from motley.lab.labs import named_labs
from motley.lab.links import LinkKind, every_link
from motley.lab.profile import engines
from motley.shape.catalogue import names
from motley.shape.mix import ALL_MIXES


class List(argparse.Action):
    """Prints a table instead of running the command, as --version does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "nargs": 0})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        for line in _LISTS[self.dest]():
            print(line)
        parser.exit()


def add_lists(parser: argparse.ArgumentParser) -> None:
    for name, what in (("shapes", "models"), ("quants", "quantisations")):
        parser.add_argument(f"--{name}", action=List, help=f"list the {what} that are known by name, and end")
    for name in ("devices", "links", "labs", "engines"):
        parser.add_argument(f"--{name}", action=List, help=f"list the {name} that --lab knows by name, and end")


def _devices() -> Iterator[str]:
    head = ["device", "memory, GiB", "GB/s", "fp16 TFLOPS", "watts", "USD", "figures"]
    yield from _table(head, [_device(d) for d in every_device()])


def _device(d: Hardware) -> list[str]:
    sizes = ", ".join(f"{size:g}" for size in memory_sizes(d.key))
    if d.cls == "cpu":
        sizes += ", any"
    price = f"{d.price_usd:,.0f}" if d.price_usd else ""
    figures = "vendor, measured" if d.measured else "knowledge" if d.source_bandwidth.startswith("know") else "vendor"
    return [d.key, sizes, f"{d.bandwidth_gb_s:g}", f"{d.fp16_tflops or '':}", f"{d.watts or '':}", price, figures]


def _links() -> Iterator[str]:
    head = ["link", "round trip, us", "GB/s", "transport", "joins", "name"]
    yield from _table(head, [_link(k) for k in every_link()])


def _link(k: LinkKind) -> list[str]:
    names = {"linux": "Linux", "macos": "Mac"}
    pairs = ", ".join(" - ".join(names[s] for s in pair) for pair in sorted(k.joins)) or "inside a machine"
    rtt = f"{k.rtt_us.p50:g} ({k.rtt_us.low:g} to {k.rtt_us.high:g})"
    rate = f"{k.gb_s.p50:g} ({k.gb_s.low:g} to {k.gb_s.high:g})"
    return [k.key, rtt, rate, k.transport, pairs, k.name]


def _labs() -> Iterator[str]:
    yield from _table(["lab", "as shorthand", "what"], [[n.name, n.shorthand, n.about] for n in named_labs()])


def _table(head: list[str], rows: Sequence[list[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


_LISTS: dict[str, Callable[[], Iterator[str]]] = {
    "shapes": lambda: iter(names()),
    "quants": lambda: iter(ALL_MIXES),
    "devices": _devices,
    "links": _links,
    "labs": _labs,
    "engines": lambda: iter(engines()),
}
