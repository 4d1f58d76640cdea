"""`motley nodes`: who is in the cluster now."""

import argparse

import msgspec
from rich.console import Console
from rich.table import Table

from motley import __version__
from motley.cli.joined import add_cluster, cluster_named, clusters_folder
from motley.cli.options import output_file, writing
from motley.cluster.access import Access
from motley.cluster.joined import settle
from motley.cluster.membership import Inventory

APPEAR_S = 5.0
SETTLE_S = 0.7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cluster(parser)
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the same for programs")


def run(args: argparse.Namespace) -> int:
    from motley.cluster.identity import Identity  # `cryptography` is not for everybody's start

    identity = Identity.load(clusters_folder(), cluster_named(args))
    with Access.of(identity).look() as seat:
        there = settle(seat.nodes, APPEAR_S, SETTLE_S)
    if args.json:
        with writing(args.json):
            args.json.write_bytes(msgspec.json.encode(there))
    if not there:
        print(f"nobody else is in cluster {identity.member.cluster}: start `motley node` on its machines")
    else:
        Console().print(_table(there))
    return 0


def _table(there: dict[str, Inventory]) -> Table:
    table = Table("node", "address", "devices", "links", "Motley", box=None, header_style="bold")
    for name, node in sorted(there.items()):
        devices = ", ".join(f"{d.get('kind')}, {d.get('threads')} threads" for d in node.devices)
        other = "" if node.version == __version__ else " (not this machine's: it can't take part)"
        links = "encrypted" if node.encrypted else "trusted LAN, not encrypted"
        table.add_row(name, f"{node.host}:{node.port}", devices, links, node.version + other)
    return table
