"""`motley cluster`: make a cluster, and say who may join it."""

import argparse
import re
import time

from rich.console import Console
from rich.table import Table

from motley.cli.joined import DEFAULT, cluster_named, clusters_folder, own_host, own_name
from motley.cluster.access import Access
from motley.cluster.alone import alone
from motley.cluster.identity import Identity, init, new_token_text
from motley.cluster.joined import settle
from motley.cluster.members import expel
from motley.errors import UsageError

NEEDS = {
    "revoke": "`motley cluster revoke ID` takes a token's id: `motley cluster tokens` lists them",
    "expel": "`motley cluster expel NODE` takes a node's name: `motley nodes` lists them",
}
APPEAR_S, SETTLE_S, SPREAD_S = 5.0, 0.7, 15.0
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=["init", "token", "tokens", "revoke", "expel"],
        help="init: make a cluster, this machine its first; token: print a new command to join it; tokens: list those "
        "that were issued; revoke ID: end one; expel NODE: shut out a member that joined, at once and everywhere",
    )
    parser.add_argument("what", nargs="?", metavar="ID|NODE", help="the token to revoke, the node to expel")
    parser.add_argument("--cluster", default=DEFAULT, metavar="NAME", help="which cluster (default: %(default)s)")
    parser.add_argument("--name", help="of this machine (default: the host's)")
    parser.add_argument("--host", metavar="ADDRESS", help="of this machine, as the others reach it (default: found)")
    parser.add_argument("--valid", type=duration, default="24h", metavar="TIME", help="of the token (default: 24h)")
    parser.add_argument("--anew", action="store_true", help="with init: replace the cluster, shut out all who joined")


def run(args: argparse.Namespace) -> int:
    if (args.action in NEEDS) != bool(args.what):
        raise UsageError(NEEDS.get(args.action) or f"`motley cluster {args.action}` takes no name")
    if args.action == "init":
        host = args.host or own_host()
        identity = init(clusters_folder(), args.cluster, args.name or own_name(), host, anew=args.anew)
        _tell(identity, args.valid, first=True)
        return 0
    identity = Identity.load(clusters_folder(), cluster_named(args))
    identity.require_authority()
    if args.action == "token":
        _tell(identity, args.valid, first=False)
    elif args.action == "tokens":
        _list(identity)
    elif args.action == "revoke":
        with alone(identity.folder):
            identity.tokens.revoke(args.what)
        print(f"token {args.what} is revoked: who joined with it stays, nobody else joins with it")
    else:
        _expel(identity, args.what)
    return 0


def _expel(identity: Identity, name: str) -> None:
    revoked, beside = expel(identity, name)
    with Access.of(identity).look() as seat:
        settle(seat.nodes, APPEAR_S, SETTLE_S)
        seat.spread()
        deadline = time.monotonic() + SPREAD_S
        while (unaware := seat.unaware() - {name}) and time.monotonic() < deadline:
            time.sleep(0.1)
        told = sorted(seat.nodes().keys() - unaware - {name})
    print(f"{name} is expelled: no member accepts its certificate from the time on that it is told.")
    print(f"Told: {', '.join(told) or 'nobody is there'}; the others are told when they come.")
    if unaware:
        print(f"Not told, though there: {', '.join(sorted(unaware))}. Start `motley node` there again.")
    if beside:
        print(f"{', '.join(beside)} joined with the same token: if that is the same machine, expel it, too.")
    if revoked:
        print(f"{revoked} tokens that {name} may know are revoked: `motley cluster token` makes another.")


def duration(text: str) -> float:
    """`90m`, `24h`, `7d` -> seconds"""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} must be a time such as 30m, 24h or 7d")
    return float(int(match[1]) * UNITS_S[match[2]])


def _tell(identity: Identity, valid_s: float, *, first: bool) -> None:
    token = new_token_text(identity, valid_s)
    member = identity.member
    if first:
        print(f"Cluster {member.cluster} is made; this machine is {member.name} at {member.host}.")
        print("Here, and to let others join:\n\n    motley node\n")
    print(f"On each other machine, within {valid_s / 3600:g} hours:\n\n    motley node --join {token}\n")
    print("Whoever has this line can join: send it as you would a password.")


def _list(identity: Identity) -> None:
    table = Table("id", "state", "made", "expires", "joined with it", box=None, header_style="bold")
    now = time.time()
    for issued in identity.tokens.issued():
        made, expires = (time.strftime("%Y-%m-%d %H:%M", time.localtime(t)) for t in (issued.made, issued.expires))
        table.add_row(issued.id, issued.state(now), made, expires, ", ".join(issued.joined) or "nobody")
    Console().print(table)
