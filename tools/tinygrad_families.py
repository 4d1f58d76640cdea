"""Every golden family on a tinygrad device: the whole prompt, uneven chunks, decoding, and three streams at once.

    python tools/tinygrad_families.py [--device CPU] [--part whole|chunks|decode|greedy] [FAMILY ...]

The device `emulated`: the CUDA kernels on the CPU (tests/parity/cuda_emulation). With them the streams' prompts come
in chunks of 8, which nothing rounds to bfloat16. Decoding says the kernels of a step of one token, five, and two.

Minutes for each, as tinygrad compiles some 100 kernels for each number of rows; NOOPT=1 compiles faster. Prints
the largest error relative to the largest logit; exits 1 if one is above 1e-4 or an answer differs. Of prompts that go
through bfloat16 on tensor cores 2e-2 is allowed, and two tokens of a step may be further off: an expert that nearly
ties flips there, which is its token's error alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from motley.engine.engine import Engine
from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.ops.protocol import Batch
from motley.ops.tinygrad import TinygradOps, tinygrad_ops

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "models"
PARTS = ("whole", "chunks", "decode", "greedy")
EXACT, ROUNDED, FLIPPED = 1e-4, 2e-2, 0.2  # of the largest logit; a flipped expert gave 0.09 at most in the emulation
MAY_FLIP = 2


def batch_of(tokens: np.ndarray, first: int, slot: int) -> Batch:
    return Batch(tokens, range(first, first + len(tokens)), [slot] * len(tokens), range(len(tokens)))


def opened(device: str, folder: Path) -> TinygradOps:
    if device != "emulated":
        return tinygrad_ops(device, kv="f32")
    sys.path.insert(0, str(GOLDEN.parents[1] / "parity"))
    from cuda_emulation.emulated_ops import EmulatedOps

    return EmulatedOps(folder)


def decode(runner: LocalRunner, golden: dict[str, np.ndarray]) -> tuple[float, list[int]]:
    """Three tokens one by one, five of two sequences at once, then one of each: the largest error, and the kernels."""
    steps = [([p], [1]) for p in range(3)] + [([3, 4, 0, 1, 2], [1, 1, 0, 0, 0]), ([5, 3], [1, 0])]
    worst = 0.0
    for positions, slots in steps:
        logits = runner.step(Batch(golden["prompt"][positions], positions, slots, range(len(slots))))
        worst = max(worst, float(np.abs(logits - golden["logits"][positions]).max()))
    assert runner.model.stage is not None
    remembered = runner.model.stage._remembered.values()
    counts = [step._program.n_kernels for step in remembered]  # type: ignore[union-attr]  # no halves, on one device
    return worst / float(np.abs(golden["logits"]).max()), counts


def check(family: str, device: str, parts: Sequence[str], folder: Path) -> bool:
    golden = dict(np.load(GOLDEN / f"{family}.npz"))
    ops = opened(device, folder)
    runner = LocalRunner(open_checkpoint(GOLDEN / f"{family}.gguf"), ops, n_slots=3, context=64)
    prompt, start, said, good = golden["prompt"], perf_counter(), [family.ljust(18)], True

    def errors(logits: np.ndarray, of: slice = slice(None)) -> np.ndarray:
        """Of each token, sorted."""
        return np.sort(np.abs(logits - golden["logits"][of]).max(axis=1) / np.abs(golden["logits"]).max())

    def within(found: np.ndarray) -> bool:
        if ops.multiplies != "bfloat16":
            return bool(found[-1] < EXACT)
        return bool(found[-1 - MAY_FLIP] < ROUNDED and found[-1] < FLIPPED)

    if "whole" in parts:
        found = errors(runner.step(batch_of(prompt, 0, 0)))
        said, good = [*said, f"whole {found[-1]:.1e}"], good and within(found)
    if "chunks" in parts:
        cuts = [slice(0, 1), slice(1, 20), slice(20, 37)]
        single, *more = (errors(runner.step(batch_of(prompt[p], p.start, 2)), p) for p in cuts)
        worst = max(found[-1] for found in more)
        said = [*said, f"one token {single[0]:.1e}", f"chunks {worst:.1e}"]
        good &= all(map(within, more)) and bool(single[0] < EXACT)  # as in decoding, where nothing rounds
    if "decode" in parts:
        worst, counts = decode(runner, golden)
        said, good = [*said, f"decode {worst:.1e} by {', '.join(map(str, counts))}"], good and worst < EXACT
    if "greedy" in parts:
        engine = Engine(runner, chunk=8 if ops.multiplies == "bfloat16" else 16)
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
    with TemporaryDirectory() as folder:
        passed = []
        for family in args.families:
            (own := Path(folder) / family).mkdir()
            passed.append(check(family, args.device, args.part or PARTS, own))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
