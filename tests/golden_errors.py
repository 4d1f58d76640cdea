"""How far each family's logits are from the golden ones of tests/golden/models, on both implementations of the
operations. Used by the test and by tools/golden/record_proofs.py."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch, Ops
from motley.ops.reference import ReferenceOps

FOLDER = Path(__file__).parent / "golden" / "models"
DEVICES: dict[str, Callable[[], Ops]] = {"reference": ReferenceOps, "native": lambda: NativeOps(threads=2, kv="f32")}


def goldens() -> list[str]:
    """Names of the checkpoints that have golden logits."""
    return sorted(path.stem for path in FOLDER.glob("*.npz") if path.with_suffix(".gguf").is_file())


def architecture(name: str) -> str:
    return open_checkpoint(FOLDER / f"{name}.gguf").architecture


def digest(name: str) -> str:
    """Of what the error is measured with."""
    data = b"".join((FOLDER / f"{name}{ending}").read_bytes() for ending in (".gguf", ".npz"))
    return hashlib.sha256(data).hexdigest()


def measured(name: str) -> tuple[int, float]:
    """Tokens compared, and the larger of both devices' errors: max |a - b| / max |b| over all logits."""
    golden = dict(np.load(FOLDER / f"{name}.npz"))
    prompt, logits = golden["prompt"], golden["logits"]
    every = range(len(prompt))
    errors = []
    for make in DEVICES.values():
        runner = LocalRunner(open_checkpoint(FOLDER / f"{name}.gguf"), make(), context=max(64, len(prompt)))
        try:
            found = runner.step(Batch(prompt, every, [0] * len(prompt), every))
        finally:
            runner.close()
        errors.append(float(np.abs(found - logits).max() / np.abs(logits).max()))
    return len(prompt), max(errors)
