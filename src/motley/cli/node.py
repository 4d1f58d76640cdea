"""`motley node`: offer this machine's memory and compute to the cluster, until told to end."""

import argparse
import logging
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from motley.bench.folders import cache_folder
from motley.cli.joined import add_cluster, cluster_named, clusters_folder, named_link, own_name
from motley.cli.options import add_device, memory, positive
from motley.cli.session import Part, Seat
from motley.cluster.access import Access
from motley.cluster.kept import bytes_of
from motley.cluster.node import run_node, token_from_head
from motley.doctor.pairs import end
from motley.doctor.system import System
from motley.engine.near import Near
from motley.engine.node import NodeRuntime
from motley.errors import UsageError
from motley.lab.machine import usable_cores
from motley.ops.devices import kind_of

log = logging.getLogger("motley.node")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--join", metavar="TOKEN", help="join a cluster first; needed once, the certificate stays")
    parser.add_argument("--name", help="with --join: this machine's name (default: the host's)")
    parser.add_argument("--threads", type=positive, default=usable_cores(), help="default: %(default)s")
    parser.add_argument("--memory", type=memory, default=0, metavar="SIZE", help="e.g. 8GB (default: no limit)")
    add_device(parser)
    add_cluster(parser)
    parser.add_argument(
        "--peer", action="append", default=[], metavar="HOST[:PORT]", help="a member, where multicast does not reach"
    )
    parser.add_argument("--with-head", action="store_true", help="end with the head that started this node")


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with ExitStack() as stack:
        access = _local(args) if args.with_head else _joined(args, stack)
        near = Near(access.reach)
        parts = Seat(access.name, args.threads, args.memory, tuple(args.device)).parts()
        runtimes = {part.name: _runtime(access, part, near) for part in parts}
        for runtime in runtimes.values():
            stack.callback(runtime.close)
        if kept := bytes_of(weights_folder()):
            log.info(
                "%.1f GB of fetched weights are kept in %s; what is deleted there is fetched again",
                kept / 1e9,
                weights_folder(),
            )
        devices = [{**asdict(part), "kind": kind_of(part.spec)} for part in parts]
        return run_node(
            access,
            runtimes[access.name],
            devices=devices,
            others={name: runtime for name, runtime in runtimes.items() if name != access.name},
            listening=lambda name, address: near.put(name, address, runtimes[name]),
            with_head=args.with_head,
        )


def _runtime(access: Access, part: Part, near: Near) -> NodeRuntime:
    ops = part.open()
    return NodeRuntime(
        part.name,
        ops,
        near.connect,
        part.memory_bytes,
        probe=lambda progress: part.probe(access.name, ops, False, progress),
        store=weights_folder(),
        end=lambda: asdict(end(System(), access.name, access.host)),
    )


def weights_folder() -> Path:
    """Of what is fetched: a folder for each model."""
    return cache_folder() / "weights"


def _local(args: argparse.Namespace) -> Access:
    """A head on this machine started us."""
    if args.join:
        raise UsageError("--with-head is for a head's own nodes: they do not --join")
    return Access(args.cluster, args.name, token_from_head(), args.peer, named=named_link(args))


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
    return Access.of(identity, trusted_lan=args.trusted_lan, peers=args.peer, named=named_link(args))
