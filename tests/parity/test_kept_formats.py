"""Formats without kernels of their own: what is kept in their place holds every weight exactly, in whole models too."""

from pathlib import Path

import numpy as np
import pytest
from random_weights import random_tensor

from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.ops.native import NativeOps, isas
from motley.ops.protocol import Batch, Ops
from motley.ops.reference import ReferenceOps
from motley.predict.memory import KEPT_AS
from motley.shape.quant import Quant
from tiny_models import write_tiny

KEPT = [quant for quant in Quant if quant.name.lower() in KEPT_AS]
WITH_MINIMUM = (Quant.Q4_1, Quant.Q5_1, Quant.Q2_K)
# Of llama.cpp's mixes, such as have every one of these formats
MIXES = (
    "q4_1",
    "q5_0",
    "q5_1",
    "q2_k",
    "q3_k_m",
    "iq4_nl",
    "iq4_xs",
    "iq3_xxs",
    "iq3_xs",
    "iq2_xxs",
    "iq2_xs",
    "iq2_m",
    "iq1_s",
    "iq1_m",
    "nvfp4",
)
TOKENS = [int(t) for t in np.random.default_rng(7).integers(0, 320, 40)]


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("quant", KEPT, ids=lambda q: q.name)
def test_every_weight_is_kept_exactly(quant: Quant, isa: str) -> None:
    """A token of 127 and zeros, which int8 holds exactly, brings out one column of weights times 127, rounded once."""
    tensor = random_tensor(quant, (40, 256))
    ops = NativeOps(isa=isa)
    (got,) = ops.linear(127 * np.eye(256, dtype=np.float32), ops.weight(tensor))
    ops.close()
    values = tensor.decode().T
    if quant not in WITH_MINIMUM:
        np.testing.assert_array_equal(got, 127 * values)
    else:  # two terms, each rounded
        assert np.abs(got / np.float32(127) - values).max() <= 2**-22 * np.abs(values).max()


@pytest.mark.parametrize("quant", KEPT, ids=lambda q: q.name)
def test_every_bit_pattern_of_a_block_is_decoded_as_the_reference_does(quant: Quant) -> None:
    """The table's look-up, which knows a block's layout by itself: random bytes, infinite and NaN scales too."""
    table = random_tensor(quant, (300, 256))
    table.data[:] = np.random.default_rng(3).integers(0, 256, table.data.size, np.uint8)
    ops = NativeOps()
    got = ops.embed(ops.table(table), np.arange(300, dtype=np.int32))
    ops.close()
    want = table.decode()
    np.testing.assert_array_equal(got, want)
    numbers = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got)[numbers], np.signbit(want)[numbers])


def logits(path: Path, ops: Ops, repack: bool = True) -> np.ndarray:
    runner = LocalRunner(open_checkpoint(path), ops, context=64, repack=repack)
    try:
        return runner.step(Batch(TOKENS, range(40), [0] * 40, range(40)))
    finally:
        runner.close()


@pytest.mark.parametrize("mix", MIXES)
def test_whole_models(tmp_path: Path, mix: str) -> None:
    """Repacked and from the file to the same bit; off the reference's by the rounding of activations to int8 alone: at
    most tokens a little, at a few more, where it tips the choice between two experts."""
    path = write_tiny(tmp_path, "qwen3moe", mix)
    repacked, stored = (logits(path, NativeOps(threads=2), repack) for repack in (True, False))
    np.testing.assert_array_equal(repacked, stored)
    want = logits(path, ReferenceOps())
    off = np.sqrt(np.mean((repacked - want) ** 2, axis=1)) / want.std()
    print(f"{mix}: median {np.median(off):.4f}, largest {off.max():.4f}")
    assert np.median(off) < 0.025
    assert np.quantile(off, 0.75) < 0.1


def test_the_mixes_have_every_kept_format(tmp_path: Path) -> None:
    found = {t.quant for mix in MIXES for t in open_checkpoint(write_tiny(tmp_path, "olmoe", mix)).tensors.values()}
    assert found >= set(KEPT)
