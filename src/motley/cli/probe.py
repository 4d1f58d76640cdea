"""`motley probe`: measure this machine's memory, compute and links, and write them down as a lab."""

import argparse
import sys
from datetime import date

from motley.cli.options import add_device, memory, output_file, positive, writing
from motley.cli.session import Seat, Session
from motley.lab.export import shareable
from motley.lab.machine import this_machine, usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, default=usable_cores(), help="default: %(default)s")
    parser.add_argument("--memory", type=memory, default=0, metavar="SIZE", help="default: what is free")
    parser.add_argument(
        "--nodes", type=positive, default=1, metavar="N", help="local nodes that share them (default: %(default)s)"
    )
    add_device(parser, "each of them")
    parser.add_argument("-o", "--output", type=output_file, metavar="LAB", help="write here (default: standard output)")
    share = "write a lab to share: no names of hosts, users or folders; processor, versions and date"
    parser.add_argument("--export", type=output_file, metavar="FILE", help=share)


def run(args: argparse.Namespace) -> int:
    share, size = max(1, args.threads // args.nodes), args.memory // args.nodes
    seats = [Seat(f"node{i}", share, size, tuple(args.device)) for i in range(args.nodes)]
    n = sum(len(seat.parts()) for seat in seats)
    print(f"measuring {n} device{'s'[: n > 1]}, about 10 s each", file=sys.stderr)
    with Session.local(seats) as session:
        lab = session.probe()
    if args.export:
        with writing(args.export):
            args.export.write_text(shareable(lab, this_machine(), date.today()), encoding="utf-8")
    if args.output:
        with writing(args.output):
            args.output.write_text(lab.dumps(), encoding="utf-8")
    elif not args.export:
        print(lab.dumps(), end="")
    return 0
