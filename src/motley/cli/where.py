"""Where a model runs: local nodes, a lab file's devices as local nodes, or the joined nodes of a cluster. The arguments
that say so (`bench`, `eval`), and the session, the placement and the runner that they mean."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from motley.cli.joined import DEFAULT, add_link, add_trusted_lan, joined_session, named_link, require_cluster
from motley.cli.options import Offered, add_device, cache_type, memory, no_repack, not_with_lab, positive
from motley.cli.run import repacked_fits
from motley.cli.session import Seat, Session, local_seats
from motley.engine.local import LocalRunner
from motley.engine.runner import Runner
from motley.formats.shape_of import shape_of
from motley.formats.tensor import Checkpoint
from motley.lab.lab import Lab
from motley.lab.machine import usable_cores
from motley.ops.devices import CPU, device_names, open_device
from motley.plan.plan import Plan
from motley.plan.search import find_placement
from motley.predict.routes import Routes
from motley.predict.workload import STEP_TOKENS, Workload
from motley.progress import Progress
from motley.shape.model import ModelShape


@dataclass(frozen=True)
class Room:
    """Of the KV cache, and for a step."""

    context: int
    slots: int
    step_tokens: int = STEP_TOKENS


def add_arguments(parser: argparse.ArgumentParser, nodes: int) -> None:
    """`nodes`: how many local ones, unless something else is asked for."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--nodes", type=positive, default=nodes, metavar="N", help="local nodes (default: %(default)s)")
    where.add_argument("--lab", type=Path, metavar="FILE", help="a lab file: its devices as local nodes, its figures")
    where.add_argument(
        "--cluster", nargs="?", const=DEFAULT, metavar="NAME", help="the joined nodes of a cluster, this machine first"
    )
    add_trusted_lan(parser)
    add_link(parser)
    memory_help = "with --cluster: what this machine gives, e.g. 8GB (default: what is free)"
    parser.add_argument("--memory", type=memory, default=0, metavar="SIZE", help=memory_help)
    parser.add_argument("--threads", type=positive, metavar="N", help="of the first node (default: most of the cores)")
    add_device(parser, "the first node")
    parser.add_argument(
        "--home",
        metavar="DEVICE",
        help="attention lives here; `any`: the planner chooses (default: the first node; dense models: any)",
    )
    parser.add_argument("--copies", action="store_true", help="experts twice where memory is left and it pays")
    cache_type(parser)
    no_repack(parser)


@contextmanager
def session(args: argparse.Namespace, shape: ModelShape, room: Room) -> Iterator[tuple[Session, Lab | None]]:
    """A session on the nodes that are asked for, and the figures that were given for them."""
    given = Lab.load(args.lab) if args.lab else None
    with _session(args, shape, given, room) as found:
        yield found, given


def _session(args: argparse.Namespace, shape: ModelShape, given: Lab | None, room: Room) -> Session:
    if args.cluster:
        return joined_session(args, args.threads or usable_cores(), args.device)
    if given:
        return Session.local(_seats_of(given), named_link(args))
    seats = local_seats(
        args.nodes, usable_cores(), shape, room.context, room.slots, args.threads, args.device, room.step_tokens
    )
    return Session.local(seats, named_link(args))


def _seats_of(lab: Lab) -> list[Seat]:
    """A node of this machine for each of the lab's, in its order. Devices that Motley can't tell the like of here are
    its CPU."""
    seats = []
    for node in dict.fromkeys(d.node for d in lab.devices):
        devices = sorted((d for d in lab.devices if d.node == node), key=lambda d: d.name != node)
        offered = [Offered("mlx" if d.kind == "mlx" else CPU, d.memory_bytes) for d in devices]
        if device_names(node, [o.spec for o in offered]) == [d.name for d in devices]:
            threads = max(d.threads for d in devices)
            seats.append(Seat(node, threads, devices[0].memory_bytes, tuple(offered)))
        else:
            seats += [Seat(d.name, d.threads, d.memory_bytes, (o,)) for d, o in zip(devices, offered)]
    return seats


def placement(
    args: argparse.Namespace,
    shape: ModelShape,
    lab: Lab,
    workload: Workload,
    room: Room,
    head: str,
    routes: Routes | None = None,
) -> Plan:
    home = args.home or (head if shape.n_experts else "any")  # a dense model has nothing else to spread
    homes = None if home == "any" else [home]
    return find_placement(
        shape,
        lab,
        workload,
        routes,
        room.context,
        room.slots,
        head=head,
        homes=homes,
        repack=args.repack,
        copies=args.copies,
        split_rows=True,
    )


@contextmanager
def running(
    args: argparse.Namespace, path: Path, checkpoint: Checkpoint, workload: Workload, progress: Progress
) -> Iterator[tuple[Runner, str]]:
    """A model ready to run, and in words where it is: in this process alone, or placed for `workload` on the nodes that
    are asked for."""
    require_cluster(args, "memory", "trusted_lan")
    not_with_lab(args, "threads", "device")
    shape, room = shape_of(checkpoint).with_cache(args.cache_type), Room(workload.context, workload.batch)
    if args.nodes == 1 and len(args.device) < 2 and not (args.lab or args.cluster):
        spec = args.device[0].spec if args.device else CPU
        repack = args.repack and (spec != CPU or repacked_fits(shape, room.context))
        runner = LocalRunner(
            checkpoint,
            open_device(spec, args.threads or usable_cores()),
            n_slots=room.slots,
            context=room.context,
            cache=shape.cache,
            repack=repack,
            progress=progress,
        )
        try:
            yield runner, "one device"
        finally:
            runner.close()
        return
    with session(args, shape, room) as (found, given):
        progress("measuring the devices and the links", 0.0)
        lab = given or found.probe()
        progress("searching for the best placement", 0.0)
        plan = placement(args, shape, lab, workload, room, found.own.name)
        with found.placed(
            str(path),
            plan.placement,
            slots=room.slots,
            context=room.context,
            cache=shape.cache,
            stored=plan.stored,
            progress=progress,
        ) as placed:
            yield placed, placement_words(plan)


def placement_words(plan: Plan) -> str:
    """`layers on node0; experts on node0 (40 of 128), node1 (88)`"""
    layers = plan.placement.layers
    homes = dict.fromkeys(layer.home for layer in layers)
    held: dict[str, int] = {}
    for layer in layers:
        for device in layer.experts:
            held[device] = held.get(device, 0) + 1
    experts = ", ".join(f"{device} ({n} of {sum(held.values())})" for device, n in held.items())
    return f"layers on {', '.join(homes)}" + (f"; experts on {experts}" if held else "")
