"""Far behind the trained context: the golden logits of each way of stretching rope, and 32,768 tokens in a cache."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.tensor import Checkpoint
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch, Rope, Span
from motley.ops.reference import ReferenceOps, as_stored
from motley.shape.mixer import BESIDE, CacheType

GOLDEN = Path(__file__).parents[1] / "golden"
LINEAR = {"qwen3.rope.scaling.type": "linear", "qwen3.rope.scaling.factor": 8.0}
# family: layers, metadata beside the file's; trained for 64 positions (qwen3: 256, stretched linearly)
STRETCHED = {"llama": (1, {}), "qwen3": (1, LINEAR), "gpt-oss": (2, {}), "deepseek2-lite": (1, {})}
LONG = 32_768


@pytest.mark.parametrize("family", STRETCHED)
def test_logits_behind_the_trained_context(family: str) -> None:
    layers, more = STRETCHED[family]
    file = open_checkpoint(GOLDEN / "models" / f"{family}.gguf")
    metadata = {**file.metadata, **more, f"{file.architecture}.block_count": layers}
    beyond = tuple(f"blk.{i}." for i in range(layers, 9))
    tensors = {name: tensor for name, tensor in file.tensors.items() if not name.startswith(beyond)}
    checkpoint = Checkpoint(metadata, tensors, file.hash)
    want = np.load(GOLDEN / "long.npz")[family]
    runner = LocalRunner(checkpoint, NativeOps(threads=2, kv="f32"), context=2048)
    tokens = np.random.default_rng(11).integers(2, runner.vocab_size, 2048)
    for first in range(0, 2048, 512):
        rows = range(512 - len(want), 512) if first == 1536 else []
        logits = runner.step(Batch(tokens[first : first + 512], range(first, first + 512), [0] * 512, rows))
    runner.close()
    assert np.abs(logits - want).max() < 2e-4 * np.abs(want).max()  # transformers' angles are float32


def some(seed: int, *dims: int) -> np.ndarray:
    return np.random.default_rng([seed, *dims]).standard_normal(dims).astype(np.float32)


ROPES = {
    "plain": Rope(16, 10_000.0),
    "linear": Rope(16, 10_000.0, factors=(8.0,) * 8),
    "uneven": Rope(16, 500_000.0, interleaved=True, factors=(1, 1, 1, 2.5, 5, 8, 8, 8), magnitude=1.2),
}


@pytest.mark.parametrize(
    ("rope", "stored", "window"),
    [("plain", "f16", 0), ("uneven", "q8_0", 0), ("linear", "q8_0", 1024), ("uneven", "f16", 1024)],
)
def test_32768_tokens(rope: str, stored: CacheType, window: int) -> None:
    """Chunks of a prompt, then one by one: some positions against the softmax over all that they see, in float64."""
    ops, heads, width = NativeOps(threads=2), 2, 16
    cache = ops.kv_cache(1, LONG, 1, width, span=Span(window), stored=stored)
    q, k, v = some(1, LONG, heads * width), some(2, LONG, width), some(3, LONG, width)
    positions = np.arange(LONG, dtype=np.int32)
    q, k = (ReferenceOps().rope(x, width, positions, ROPES[rope]) for x in (q, k))
    looked_at = [0, 1023, 1024, 20_000, 32_100, 32_766, 32_767]
    cuts = [*range(0, 32_001, 4000), 32_003, 32_766, 32_767, LONG]
    got = {}
    for a, b in pairwise(cuts):
        batch = Batch([0] * (b - a), positions[a:b], [0] * (b - a), [])
        qs, ks, vs = (np.ascontiguousarray(x[a:b]) for x in (q, k, v))
        out = ops.attention(qs, ks, vs, cache, batch, 0.25)
        got.update({p: out[p - a] for p in looked_at if a <= p < b})
    if window:
        n_bytes = (window + BESIDE) * 2 * width * (2 if stored == "f16" else 1.125)  # half a block is one
        assert 0 <= cache.n_bytes - n_bytes <= 4096
    ops.close()
    k, v = (as_stored(x, stored).astype(np.float64) for x in (k, v))
    for p in looked_at:
        seen = slice(max(0, p - window + 1) if window else 0, p + 1)
        scores = q[p].reshape(heads, width).astype(np.float64) @ k[seen].T * 0.25
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        want = (weights / weights.sum(axis=1, keepdims=True)) @ v[seen]
        np.testing.assert_allclose(got[p], want.reshape(-1), atol=3e-5)


@pytest.mark.parametrize("rope", ROPES)
def test_rope_far_out(rope: str) -> None:
    ops, positions = NativeOps(), np.array([0, 4095, 4096, 32_767, 131_071, 1_000_000], np.int32)
    x = some(4, len(positions), 3 * 16)
    want = ReferenceOps().rope(x, 16, positions, ROPES[rope])
    np.testing.assert_allclose(ops.rope(x.copy(), 16, positions, ROPES[rope]), want, atol=1e-6)
    ops.close()
