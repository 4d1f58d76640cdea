"""`motley convert`: a Hugging Face folder or a GGUF file as one GGUF file, in any precision that Motley writes."""

import argparse
import sys
import time

from rich.console import Console

from motley.cli.options import model_file, output_file, positive
from motley.cli.show import shown
from motley.formats.checkpoint import open_checkpoint
from motley.formats.convert import convert
from motley.lab.machine import usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a Hugging Face folder, hf:owner/name, or a GGUF file")
    parser.add_argument("-o", "--output", required=True, type=output_file, metavar="FILE")
    quant = "what matrices become, e.g. q4_k_m, q8_0, bf16 (default: as near as possible to what they are)"
    parser.add_argument("--quant", metavar="Q", help=quant)
    parser.add_argument("--threads", type=positive, default=usable_cores(), help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    source = open_checkpoint(model_file(args.source))
    started = time.perf_counter()
    with shown(Console(stderr=True)) as progress:
        notes = convert(source, args.output, args.quant, progress, args.threads)
    seconds = time.perf_counter() - started
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    size = args.output.stat().st_size
    print(f"{args.output}: {size / 1e9:.2f} GB in {seconds:.1f} s ({size / seconds / 1e6:.0f} MB/s)", file=sys.stderr)
    return 0
