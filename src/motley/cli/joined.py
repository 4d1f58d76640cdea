"""What the commands on a joined cluster have in common: which cluster, and this machine's place in it."""

import argparse
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from motley.bench.folders import data_folder
from motley.cli.options import Offered
from motley.cli.session import Seat, Session
from motley.cluster import agreed
from motley.cluster.access import Access
from motley.cluster.joined import JoinedCluster
from motley.errors import UsageError

DEFAULT = "motley"


def add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cluster", default=DEFAULT, metavar="NAME", help="which cluster (default: %(default)s)")
    add_trusted_lan(parser)
    add_link(parser)


def add_trusted_lan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trusted-lan", action="store_true", help="activations cross in the clear (members stay authenticated)"
    )


def add_link(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--link",
        choices=agreed.NAMED,
        help="to all nodes that were started with it, too; not encrypted. mpi: RDMA on Linux (needs motley-moe[rdma]); "
        "jaccl: RDMA over Thunderbolt between Macs, untested (needs motley-moe[mlx]); ring: jaccl's way over TCP",
    )


def named_link(args: argparse.Namespace) -> str:
    """The transport that is asked for, "" without; it is started."""
    named = getattr(args, "link", None) or ""  # a board's runs choose their links themselves
    if named:
        agreed.started(named)
    return named


def add_grow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grow",
        action="store_true",
        help="with --cluster: a node that joins meanwhile is used at once, where that is faster (default: it is said)",
    )


def require_cluster(args: argparse.Namespace, *flags: str) -> None:
    """These say something to a joined cluster only, and must not be lost without one."""
    for flag in flags:
        if getattr(args, flag) and not args.cluster:
            name = f"--{flag.replace('_', '-')}"
            raise UsageError(f"{name} goes with --cluster: give both, or leave {name} out")


def clusters_folder() -> Path:
    return data_folder() / "clusters"


def cluster_named(args: argparse.Namespace) -> str:
    """The named one; where this machine belongs to one only, that one needs no name."""
    known = [path.parent.name for path in clusters_folder().glob("*/member.json")]
    return known[0] if args.cluster == DEFAULT and len(known) == 1 else str(args.cluster)


def own_name() -> str:
    """The host's, as far as it can be a node's."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().split(".")[0]).strip("-._")[:64] or "node"


def own_host() -> str:
    """This machine's address towards its network. Connecting a UDP socket asks for the route; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # RFC 5737: an address of nobody
        except OSError:
            raise UsageError("this machine has no route to a network: name its address with --host") from None
        return str(sock.getsockname()[0])


def joined_session(args: argparse.Namespace, threads: int, devices: Sequence[Offered] = ()) -> Session:
    """A head's session on all nodes of the cluster that are there. `devices`: of this machine; none given: its CPU."""
    from motley.cluster.identity import Identity  # `cryptography` is not for everybody's start

    identity = Identity.load(clusters_folder(), cluster_named(args))
    access = Access.of(identity, trusted_lan=args.trusted_lan, named=named_link(args))
    return Session(Seat(access.name, threads, args.memory, tuple(devices)), JoinedCluster(access))
