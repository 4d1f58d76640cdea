"""Perplexity beside llama.cpp's own tool on the same file and text (tools/golden/make_llamacpp_perplexity.py asked it).

On float32 weights both compute in floats: all running values agree to 2e-4 (most to 1e-5; a few windows by more at
once, as where a near-tie between two experts falls otherwise). On Q8_0 both round activations to 8 bits, each in its
own way: the first windows of 255 scored tokens may differ by 0.2 %, the whole text must agree within 0.1 %."""

import json
from pathlib import Path

import numpy as np
import pytest

from motley.bundled import heldout_path
from motley.engine.local import LocalRunner
from motley.eval.perplexity import Perplexity, window_nll
from motley.eval.windows import cut, read_text
from motley.formats.checkpoint import open_checkpoint
from motley.formats.tokenizer import Tokenizer
from motley.ops.native import NativeOps
from perplexity_models import write_variant

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "llamacpp_perplexity.json").read_text())


def running_values(path: Path, n: int) -> tuple[list[float], float]:
    """After each of the first `n` windows, and the last one's standard error."""
    checkpoint = open_checkpoint(path)
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata)
    windows = cut(tokenizer, read_text(heldout_path()), GOLDEN["context"])
    assert len(windows) == 54
    runner = LocalRunner(checkpoint, NativeOps(threads=2, kv="f32"), context=windows.context)
    score, values = Perplexity(), []
    try:
        for i in range(n):
            score.add(window_nll(runner, windows, i, tokenizer.vocab_size))
            values.append(score.value)
    finally:
        runner.close()
    return values, score.error


@pytest.mark.parametrize(
    ("variant", "n", "each", "last"), [("q8_0", 54, 2e-3, 1e-3), ("f32", 12, 2e-4, 1e-4), ("bos", 12, 2e-3, 1e-3)]
)
def test_perplexity_is_llamacpps(variant: str, n: int, each: float, last: float, tmp_path: Path) -> None:
    values, error = running_values(write_variant(tmp_path, variant), n)
    golden = np.array(GOLDEN[variant]["running"][:n])
    apart = np.abs(np.array(values) / golden - 1)
    print(f"{variant}: {values[-1]:.4f}, llama.cpp {golden[-1]:.4f}: {apart[-1]:.2e} apart, at most {apart.max():.2e}")
    assert apart.max() < each
    assert apart[-1] < last
    if n == len(GOLDEN[variant]["running"]):
        assert error == pytest.approx(GOLDEN[variant]["error"], rel=1e-3)
