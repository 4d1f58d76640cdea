"""`motley plan`: where attention and every expert would live, how fast that is, and what decided."""

import argparse
import json
from pathlib import Path

from motley.cli.options import no_repack, output_file, positive
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.lab import Lab
from motley.plan.search import find_placement
from motley.plan.show import plan_json, plan_text
from motley.predict.routes import Routes
from motley.predict.workload import Workload
from motley.shape.model import ModelShape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL_OR_SHAPE", help="a GGUF file, or a name of the catalogue")
    parser.add_argument("--quant", default="q4_k", metavar="Q", help="of a catalogue shape (default: %(default)s)")
    parser.add_argument("--lab", required=True, type=Path, metavar="LAB", help="a lab file; `motley probe` writes one")
    parser.add_argument("--workload", default="tg64", metavar="W", help="pp512, tg64@d1024, ... (default: %(default)s)")
    parser.add_argument("--context", type=positive, default=4096, help="of a sequence (default: %(default)s)")
    parser.add_argument("--slots", type=positive, default=1, help="sequences at once (default: %(default)s)")
    parser.add_argument("--home", action="append", metavar="DEVICE", help="attention only here (default: anywhere)")
    parser.add_argument("--routes", type=Path, metavar="FILE", help="a route trace (.npz): which experts are popular")
    no_repack(parser)
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the plan for programs")


def run(args: argparse.Namespace) -> int:
    shape = model_shape(args.model, args.quant)
    lab = Lab.load(args.lab)
    routes = Routes.load(args.routes) if args.routes else None
    workload = Workload.parse(args.workload)
    plan = find_placement(shape, lab, workload, routes, args.context, args.slots, homes=args.home, repack=args.repack)
    print(plan_text(plan, shape, lab, args.context, args.slots))
    if args.json:
        args.json.write_text(json.dumps(plan_json(plan, shape, lab, args.context, args.slots), indent=1) + "\n")
    return 0


def model_shape(model: str, quant: str) -> ModelShape:
    """Of a file where there is one of that name, else of the catalogue."""
    if Path(model).is_file():
        return shape_of(open_checkpoint(model))
    return ModelShape.named(model, quant=quant)
