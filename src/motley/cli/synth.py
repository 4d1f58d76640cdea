"""`motley synth`: a model file of a real shape with random weights, for benchmarks without a download."""

import argparse
import sys
import time

from rich.console import Console

from motley.cli.options import not_negative, output_file, positive
from motley.cli.show import shown
from motley.formats.synth import synthesize
from motley.shape.model import ModelShape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", required=True, metavar="NAME", help="a model of the catalogue, e.g. olmoe-1b-7b")
    parser.add_argument("--quant", default="q4_k", metavar="Q", help="default: %(default)s")
    parser.add_argument("--layers", type=positive, metavar="N", help="only the first N layers")
    parser.add_argument("--seed", type=not_negative, default=0, help="default: %(default)s")
    parser.add_argument("-o", "--output", required=True, type=output_file, metavar="FILE")


def run(args: argparse.Namespace) -> int:
    shape = ModelShape.named(args.shape, quant=args.quant)
    if args.layers:
        shape = shape.with_layers(args.layers)
    started = time.perf_counter()
    with shown(Console(stderr=True)) as progress:
        synthesize(shape, args.output, seed=args.seed, progress=progress)
    seconds = time.perf_counter() - started
    size = args.output.stat().st_size
    print(f"{args.output}: {size / 1e9:.2f} GB in {seconds:.1f} s ({size / seconds / 1e6:.0f} MB/s)", file=sys.stderr)
    return 0
