"""`motley doctor`: what on this machine, or in its cluster, is in the way, and what to do about it."""

import argparse

import msgspec
from rich.console import Console

from motley.cli.joined import DEFAULT, add_trusted_lan, joined_session
from motley.cli.options import memory, output_file, positive, writing
from motley.doctor.examine import examine
from motley.doctor.finding import Finding
from motley.doctor.network import of_pair
from motley.doctor.system import System
from motley.lab.lab import Lab

LOOK = {"error": "red", "warning": "yellow", "note": "cyan", "ok": "green"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = "the links between this machine and the nodes of its cluster, too"
    parser.add_argument("--cluster", nargs="?", const=DEFAULT, metavar="NAME", help=where)
    add_trusted_lan(parser)
    parser.add_argument("--threads", type=positive, default=1, help="with --cluster (default: %(default)s)")
    parser.add_argument("--memory", type=memory, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="for whoever helps: no names of users, no keys"
    )


def run(args: argparse.Namespace) -> int:
    found = examine(System())
    if args.cluster:
        with joined_session(args, args.threads) as session:
            found += _pairs(session.probe())
    if args.json:
        with writing(args.json):
            args.json.write_bytes(msgspec.json.encode(found))
    console = Console()
    for finding in found:
        console.print(f"[{LOOK[finding.severity]}]{finding.severity:>7}[/] [bold]{finding.code}[/]  {finding.sentence}")
        if finding.remedy:
            console.print(f"         -> {finding.remedy}", markup=False)
    return 1 if any(finding.severity == "error" for finding in found) else 0


def _pairs(lab: Lab) -> list[Finding]:
    return [finding for x in lab.links for finding in of_pair(x.a, x.b, x.transport, x.rtt_us)]
