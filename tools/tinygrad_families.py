"""Every golden family on a tinygrad device: the whole prompt, uneven chunks, and three streams at once.

    python tools/tinygrad_families.py [--device CPU] [--part whole|chunks|greedy] [FAMILY ...]

Minutes for each, as tinygrad compiles some 100 kernels for each number of rows; NOOPT=1 compiles faster. Prints
the largest error relative to the largest logit; exits 1 if one is above 1e-4 (bfloat16 on tensor cores: 2e-2) or an
answer differs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from motley.engine.engine import Engine
from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.ops.protocol import Batch
from motley.ops.tinygrad import tinygrad_ops

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "models"
PARTS = ("whole", "chunks", "greedy")


def batch_of(tokens: np.ndarray, first: int, slot: int) -> Batch:
    return Batch(tokens, range(first, first + len(tokens)), [slot] * len(tokens), range(len(tokens)))


def check(family: str, device: str, parts: Sequence[str]) -> bool:
    golden = dict(np.load(GOLDEN / f"{family}.npz"))
    ops = tinygrad_ops(device, kv="f32")
    runner = LocalRunner(open_checkpoint(GOLDEN / f"{family}.gguf"), ops, n_slots=3, context=64)
    prompt, start, said, good = golden["prompt"], perf_counter(), [family.ljust(18)], True
    limit = 2e-2 if ops.multiplies == "bfloat16" else 1e-4

    def error(logits: np.ndarray, of: slice = slice(None)) -> float:
        return float(np.abs(logits - golden["logits"][of]).max() / np.abs(golden["logits"]).max())

    if "whole" in parts:
        worst = error(runner.step(batch_of(prompt, 0, 0)))
        said, good = [*said, f"whole {worst:.1e}"], good and worst < limit
    if "chunks" in parts:
        cuts = [slice(0, 1), slice(1, 20), slice(20, 37)]
        single, *more = (error(runner.step(batch_of(prompt[p], p.start, 2)), p) for p in cuts)
        said, good = [*said, f"one token {single:.1e}", f"chunks {max(more):.1e}"], good and max(more) < limit
        good &= single < 1e-4  # as in decoding, where nothing rounds
    if "greedy" in parts:
        engine = Engine(runner, chunk=16)
        streams = [engine.submit(prompt[: 37 - cut].tolist(), 16 + cut) for cut in (0, 5, 0)]
        while not all(s.done for s in streams):
            engine.step()
        same = streams[0].answer == streams[2].answer == golden["ids"].tolist()
        said, good = [*said, f"greedy {'same' if same else 'DIFFERENT'}"], good and same
    print("  ".join([*said, f"{perf_counter() - start:.0f} s"]), flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=sorted(p.stem for p in GOLDEN.glob("*.gguf")))
    parser.add_argument("--device", default="CPU")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one (again: this one too)")
    args = parser.parse_args()
    passed = [check(family, args.device, args.part or PARTS) for family in args.families]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
