"""`motley models`: the families that run, with what proves each, and those that are predicted only."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator

from motley.cli.options import output_file, writing
from motley.eval.families import Coverage, coverage
from motley.predict.show import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the table, and every known shape")


def run(args: argparse.Namespace) -> int:
    found = coverage()
    if args.json:
        with writing(args.json):
            args.json.write_text(json.dumps(found.document(), indent=1) + "\n")
    print("\n".join(_lines(found)))
    return 0


def _lines(found: Coverage) -> Iterator[str]:
    running = [family for family in found.families if family.status == "runs"]
    shapes = Counter((shape.architecture, shape.status) for shape in found.shapes)
    rows = []
    for f in found.families:
        error = "" if f.max_rel_error is None else f"{f.max_rel_error:.1e}"
        of = f"{shapes[f.name, 'runs']} of {shapes[f.name, 'runs'] + shapes[f.name, 'predicted only']}"
        proof = f.proof or ("NOT PROVEN" if f.status == "runs" else "")
        rows.append([f.name, f.title, f.status, of, error, proof])
    head = ["architecture", "family", "status", "made by synth", "relative error", "proof"]
    yield from table(head, rows)
    runs = sum(shape.status == "runs" for shape in found.shapes)
    yield f"\n{len(running)} architectures run, from GGUF files and Hugging Face's folders; others are predicted only."
    yield "Made by synth: of the catalogue's shapes, those that `motley synth` and `bench --shape` fill with random"
    yield f"weights; {runs} of {len(found.shapes)} in all."
    yield f"Weights of those that run may be {', '.join(running[0].precisions)}."
    yield "Relative error: a logit's largest difference from golden ones over the largest of those; float32 weights."
