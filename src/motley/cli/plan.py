"""`motley plan`: where attention and every expert would live, how fast that is, and what decided."""

import argparse
import json

from motley.cli import placing
from motley.cli.options import output_file
from motley.plan.search import find_placement
from motley.plan.show import plan_json, plan_text
from motley.predict.workload import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    placing.add_arguments(parser)
    parser.add_argument("--workload", default="tg64", metavar="W", help="pp512, tg64@d1024, ... (default: %(default)s)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the plan for programs")


def run(args: argparse.Namespace) -> int:
    asked = placing.question(args)
    shape, lab = asked.shape, asked.lab
    workload = Workload.parse(args.workload)
    plan = find_placement(
        shape, lab, workload, asked.routes, args.context, args.slots, homes=args.home, repack=args.repack
    )
    print(plan_text(plan, shape, lab, args.context, args.slots))
    if args.json:
        args.json.write_text(json.dumps(plan_json(plan, shape, lab, args.context, args.slots), indent=1) + "\n")
    return 0
