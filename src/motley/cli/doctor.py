"""`motley doctor`: what on this machine, or in its cluster, is in the way, and what to do about it."""

import argparse

import msgspec
from rich.console import Console
from rich.markup import escape

from motley.cli.joined import DEFAULT, add_link, add_trusted_lan, joined_session
from motley.cli.options import memory, output_file, positive, writing
from motley.cli.pairs import pairs_of
from motley.doctor.examine import examine, urgent_first
from motley.doctor.finding import Finding
from motley.doctor.pairs import check
from motley.doctor.system import System
from motley.errors import ClusterError

LOOK = {"error": "red", "warning": "yellow", "note": "cyan", "ok": "green"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = "each pair of nodes of this machine's cluster, too"
    parser.add_argument("--cluster", nargs="?", const=DEFAULT, metavar="NAME", help=where)
    add_trusted_lan(parser)
    add_link(parser)
    parser.add_argument("--threads", type=positive, default=1, help="with --cluster (default: %(default)s)")
    parser.add_argument("--memory", type=memory, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="for whoever helps: no names of users, no keys"
    )


def run(args: argparse.Namespace) -> int:
    found = examine(System())
    if args.cluster:
        found = urgent_first([*found, *_cluster(args)])
    if args.json:
        with writing(args.json):
            args.json.write_bytes(msgspec.json.encode(found))
    console = Console()
    for finding in found:
        severity, sentence = finding.severity, escape(finding.sentence)
        console.print(f"[{LOOK[severity]}]{severity:>7}[/] [bold]{finding.code}[/]  {sentence}", highlight=False)
        if finding.remedy:
            console.print(f"         -> {finding.remedy}", markup=False, highlight=False)
    return 1 if any(finding.severity == "error" for finding in found) else 0


def _cluster(args: argparse.Namespace) -> list[Finding]:
    """What the links say; that there are none is a finding, too: then a doctor is needed most."""
    try:
        with joined_session(args, args.threads) as session:
            return [finding for pair in pairs_of(session) for finding in check(pair)]
    except ClusterError as error:
        return [Finding("NO-CLUSTER", "error", str(error), "`motley nodes` shows who is there; see docs/cluster.md")]
