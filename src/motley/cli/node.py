"""`motley node`: offer this machine's memory and compute to the cluster, until told to end."""

import argparse
import logging
import sys
from contextlib import ExitStack

from motley.bench.folders import cache_folder
from motley.cli.joined import add_cluster, cluster_named, clusters_folder, own_name
from motley.cli.options import memory, positive
from motley.cli.session import probe_runtime
from motley.cluster.access import Access
from motley.cluster.node import run_node, token_from_head
from motley.engine.node import NodeRuntime
from motley.errors import UsageError
from motley.lab.machine import usable_cores
from motley.ops.native import NativeOps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--join", metavar="TOKEN", help="join a cluster first; needed once, the certificate stays")
    parser.add_argument("--name", help="with --join: this machine's name (default: the host's)")
    parser.add_argument("--threads", type=positive, default=usable_cores(), help="default: %(default)s")
    parser.add_argument("--memory", type=memory, default=0, metavar="SIZE", help="e.g. 8GB (default: no limit)")
    add_cluster(parser)
    parser.add_argument(
        "--peer", action="append", default=[], metavar="HOST[:PORT]", help="a member, where multicast does not reach"
    )
    parser.add_argument("--with-head", action="store_true", help="end with the head that started this node")


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with ExitStack() as stack:
        access = _local(args) if args.with_head else _joined(args, stack)
        ops = NativeOps(threads=args.threads)
        runtime = NodeRuntime(
            access.name,
            ops,
            access.reach,
            args.memory,
            probe=lambda: probe_runtime(access.name, args.threads, args.memory, ops, alone=False),
            store=cache_folder() / "weights",
        )
        stack.callback(runtime.close)
        device = {"name": access.name, "kind": "cpu", "threads": args.threads, "memory_bytes": args.memory}
        return run_node(access, runtime, devices=[device], with_head=args.with_head)


def _local(args: argparse.Namespace) -> Access:
    """A head on this machine started us."""
    if args.join:
        raise UsageError("--with-head is for a head's own nodes: they do not --join")
    return Access(args.cluster, args.name, token_from_head(), args.peer)


def _joined(args: argparse.Namespace, stack: ExitStack) -> Access:
    # here: `cryptography` takes longer to import than a local node to start
    from motley.cluster.identity import Identity
    from motley.cluster.joining import JoinServer, join
    from motley.cluster.tokens import Token

    if args.join:
        identity = join(Token.from_text(args.join), args.name or own_name(), clusters_folder())
        print(f"{identity.member.name} joined cluster {identity.member.cluster}", file=sys.stderr)
    else:
        identity = Identity.load(clusters_folder(), cluster_named(args))
        if args.name not in (None, identity.member.name):
            raise UsageError(f"this machine joined as {identity.member.name}: --name changes with --join only")
    if identity.is_authority:
        stack.callback(JoinServer(identity, identity.member.host).close)
    return Access.of(identity, trusted_lan=args.trusted_lan, peers=args.peer)
