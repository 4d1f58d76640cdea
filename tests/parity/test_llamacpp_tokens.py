"""The tokens that llama.cpp generates greedily (tools/golden/make_llamacpp_tokens.py) against ours, by precision.

Both are fed llama.cpp's tokens, so that one flipped tie does not hide what follows. Where it computes in floats (float
weights, or quantised ones decoded beforehand) every token is the same, near-ties aside. On quantised weights it rounds
activations to 8 bits in blocks of its own choice, as our native ops do in theirs: a near-tie between two tokens, or
between two experts, may fall otherwise. `pytest -rP` shows each with both logit gaps."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.ops.protocol import Batch, Ops
from motley.ops.reference import ReferenceOps
from tiny_models import FAMILIES, QUANTS, write_tiny

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "llamacpp_tokens.json").read_text())
PROMPT: list[int] = GOLDEN["prompt"]
FLOATS = ("f32", "f16", "bf16")
NOISE = 0.03  # of logits that spread over +-12: llama.cpp's cache is half precision
MOST_FLIPS = 10  # of 64, in the most sensitive of these models; 0 to 5 in the others


def native() -> Ops:
    from motley.ops.native import NativeOps

    return NativeOps(threads=2)


def forced_logits(path: Path, ops: Ops, tokens: list[int]) -> np.ndarray:
    """float32 [64, V]: the logits before each of `tokens`."""
    fed = PROMPT + tokens[:-1]
    runner = LocalRunner(open_checkpoint(path), ops, context=128)
    try:
        return runner.step(Batch(fed, range(len(fed)), [0] * len(fed), range(len(PROMPT) - 1, len(fed))))
    finally:
        runner.close()


def flips(logits: np.ndarray, tokens: list[int]) -> list[float]:
    """Our gap at each token where we prefer another one; each is shown."""
    best = logits.argmax(axis=1)
    gaps = []
    for i in np.flatnonzero(best != tokens):
        gaps.append(float(logits[i, best[i]] - logits[i, tokens[i]]))
        print(f"token {i}: ours {best[i]}, llama.cpp's {tokens[i]}, our gap {gaps[-1]:.4f}")
    return gaps


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, list[int]]]:
    path = write_tiny(tmp_path, *request.param)
    golden = GOLDEN["models"][path.stem]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == golden["sha256"], "not the file llama.cpp ran"
    return path, golden


EVERY = pytest.mark.parametrize("model", [(a, q) for a in FAMILIES for q in QUANTS], ids="-".join, indirect=True)


@EVERY
def test_float_arithmetic_gives_llamacpps_tokens(model: tuple[Path, dict[str, list[int]]]) -> None:
    path, golden = model
    tokens = golden["decoded_tokens"]
    assert all(gap < NOISE for gap in flips(forced_logits(path, ReferenceOps(), tokens), tokens))


@EVERY
def test_native_arithmetic_gives_llamacpps_tokens(model: tuple[Path, dict[str, list[int]]]) -> None:
    path, golden = model
    tokens = golden["tokens"]
    gaps = flips(forced_logits(path, native(), tokens), tokens)
    if path.stem.endswith(FLOATS):
        assert all(gap < NOISE for gap in gaps)
    assert len(gaps) <= MOST_FLIPS
