"""`motley node`: offer this machine's memory and compute to a head, until told to end."""

import argparse
import logging
import socket

from motley.cli.options import memory, positive
from motley.cli.session import probe_runtime
from motley.cluster.hello import call
from motley.cluster.link import Link
from motley.cluster.node import run_node, token_from_head
from motley.engine.node import NodeRuntime
from motley.errors import UsageError
from motley.lab.machine import usable_cores
from motley.ops.native import NativeOps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default=socket.gethostname().split(".")[0], help="default: the host's name")
    parser.add_argument("--threads", type=positive, default=usable_cores(), help="default: %(default)s")
    parser.add_argument("--memory", type=memory, default=0, metavar="SIZE", help="e.g. 8GB (default: no limit)")
    parser.add_argument("--cluster", default="motley", help="which cluster to join (default: %(default)s)")
    parser.add_argument("--peer", action="append", default=[], metavar="HOST[:PORT]", help="a member to connect to")
    parser.add_argument("--with-head", action="store_true", help="end with the head that started this node")


def run(args: argparse.Namespace) -> int:
    if not args.with_head:
        raise UsageError(
            "joining a cluster of several machines is not there yet: a head starts its local nodes itself "
            "(`motley bench`, with --with-head)"
        )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    token = token_from_head()

    def reach(host: str, port: int) -> Link:
        return call(host, port, cluster=args.cluster, name=args.name, token=token)

    ops = NativeOps(threads=args.threads)
    runtime = NodeRuntime(
        args.name,
        ops,
        reach,
        args.memory,
        probe=lambda: probe_runtime(args.name, args.threads, args.memory, ops, alone=False),
    )
    try:
        device = {"name": args.name, "kind": "cpu", "threads": args.threads, "memory_bytes": args.memory}
        return run_node(
            args.name, args.cluster, token, runtime, devices=[device], peers=args.peer, with_head=args.with_head
        )
    finally:
        runtime.close()
