"""The exactness principle, to the bit: batch, chunking, threads, instruction set and experts' owners change nothing."""

import numpy as np
import pytest
from random_weights import random_tensor

from motley.formats.blocks import LAYOUT
from motley.formats.decode import decode
from motley.ops.native import NativeOps, isas
from motley.ops.protocol import Batch, Routing
from motley.shape.quant import Quant

QUANTS = list(Quant)
DEVICES = [(threads, isa) for isa in isas() for threads in (1, 2, 5)]
D, F, E, A = 256, 256, 8, 3


def normal(*dims: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *dims]).standard_normal(dims).astype(np.float32)


def hostile(x: np.ndarray) -> np.ndarray:
    """A few extreme values, whose handling must be the same bits too."""
    x[0, :3], x[1, 5], x[2, 7] = (0.0, -0.0, 1e-40), 1e30, -1e20
    return x


@pytest.mark.parametrize("quant", QUANTS, ids=lambda q: q.name)
def test_linear_is_the_same_for_any_batch_threads_and_isa(quant: Quant) -> None:
    tensor = random_tensor(quant, (301, 2 * 256))
    x = hostile(normal(61, 512))
    want = None
    for threads, isa in DEVICES:
        ops = NativeOps(threads=threads, isa=isa)
        weight = ops.weight(tensor)
        (whole,) = ops.linear(x, weight)
        want = whole if want is None else want
        np.testing.assert_array_equal(whole, want)
        for n in (1, 2, 3, 17):
            chunks = [ops.linear(x[i : i + n], weight)[0] for i in range(0, len(x), n)]
            np.testing.assert_array_equal(np.concatenate(chunks), want)
        ops.close()


@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xFF], ids=hex)
@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "MXFP4"])
def test_the_largest_sums_of_products_fit(name: str, byte: int) -> None:
    """Every weight as large as its bits allow, every activation 127 or -127."""
    tensor = random_tensor(Quant[name], (40, 512))
    records = tensor.data.reshape(-1, tensor.quant.block_bytes).reshape(-1).view(LAYOUT[tensor.quant])
    for field in set(records.dtype.names or ()) - {"e"}:
        if records[field].dtype != np.float16:
            records[field] = np.full(records[field].shape, byte, np.uint8).view(records[field].dtype)
    x = np.sign(normal(18, 512))
    x[0], x[1] = 1, -1
    want = x.astype(np.float64) @ decode(tensor.data, tensor.quant).reshape(40, 512).T.astype(np.float64)
    for isa in isas():
        (got,) = NativeOps(threads=1, isa=isa).linear(x, NativeOps(threads=1, isa=isa).weight(tensor))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(("gate", "down"), [(q, q) for q in QUANTS] + [(Quant.Q4_K, Quant.Q6_K)], ids=lambda q: q.name)
def test_experts_are_the_same_for_any_batch_threads_isa_and_owners(gate: Quant, down: Quant) -> None:
    tensors = [random_tensor(gate, (E, F, D), 1), random_tensor(gate, (E, F, D), 2), random_tensor(down, (E, D, F), 3)]
    rng = np.random.default_rng(0)
    x = normal(50, D)
    ids = np.array([rng.permutation(E)[:A] for _ in x], np.int32)
    weights = rng.random(ids.shape, np.float32)
    want = None
    for threads, isa in DEVICES:
        ops = NativeOps(threads=threads, isa=isa)
        everybody = ops.experts_weight(*tensors, list(range(E)))
        whole = ops.experts(x, ids, weights, everybody)
        want = whole if want is None else want
        np.testing.assert_array_equal(whole, want)
        singles = [ops.experts(x[t : t + 1], ids[t : t + 1], weights[t : t + 1], everybody) for t in range(len(x))]
        np.testing.assert_array_equal(np.concatenate(singles), want)
        parts = [
            ops.experts(x, ids, weights, ops.experts_weight(*tensors, owned))
            for owned in ([5, 0, 3], [7, 1, 2, 4], [6])
        ]
        zero = np.zeros_like(x)
        np.testing.assert_array_equal(ops.combine(zero.copy(), parts), ops.combine(zero.copy(), [want]))
        ops.close()


@pytest.mark.parametrize("kv", ["f16", "f32"])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (8, 1)], ids=str)
def test_attention_is_the_same_for_any_chunking_threads_and_isa(kv: str, heads: tuple[int, int]) -> None:
    n_heads, n_kv = heads
    length, width = 150, 40
    q, k, v = (
        normal(length, n_heads * width),
        normal(length, n_kv * width, seed=1),
        normal(length, n_kv * width, seed=2),
    )
    want = None
    for threads, isa in DEVICES:
        ops = NativeOps(threads=threads, isa=isa, kv=kv)
        for chunk in (150, 37, 16, 1):
            cache = ops.kv_cache(2, 160, n_kv, width)
            out = []
            for first in range(0, length, chunk):
                part = slice(first, min(first + chunk, length))
                n = part.stop - first
                batch = Batch([0] * n, range(first, part.stop), [1] * n, [])
                out.append(ops.attention(q[part], k[part], v[part], cache, batch, width**-0.5))
            got = np.concatenate(out)
            want = got if want is None else want
            np.testing.assert_array_equal(got, want)
        ops.close()


def test_small_operations_are_the_same_for_any_batch_threads_and_isa() -> None:
    x = hostile(normal(40, 1111))
    norm, gate = random_tensor(Quant.F32, (1111,)), random_tensor(Quant.F32, (64, 1111))
    want = None
    for threads, isa in DEVICES:
        ops = NativeOps(threads=threads, isa=isa)
        w, router = ops.weight(norm), ops.weight(gate)
        got = [ops.rms_norm(x, w, 1e-5), *ops.router(x, router, Routing(8, True))]
        want = want or got
        for a, b in zip(got, want):
            np.testing.assert_array_equal(a, b)
        for t in range(len(x)):
            one = x[t : t + 1]
            singles = [ops.rms_norm(one, w, 1e-5), *ops.router(one, router, Routing(8, True))]
            for a, b in zip(singles, want):
                np.testing.assert_array_equal(a[0], b[t])
        ops.close()


def test_half_precision_storage_rounds_alike() -> None:
    """Every half precision, subnormals and infinities included, comes out of the cache of every instruction set."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    values = halves[np.isfinite(halves)].astype(np.float32)
    between = np.concatenate([values, values * np.float32(1.0003), [65519.0, 65520.0, 1e9, 2.9e-8, 3e-8]])
    for isa in isas():
        ops = NativeOps(isa=isa)
        cache = ops.kv_cache(1, 1, 1, len(between))
        one = np.zeros((1, len(between)), np.float32)
        batch = Batch([0], [0], [0], [])
        got = ops.attention(one, one, between[None].astype(np.float32), cache, batch, 1.0)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(got[0], between.astype(np.float32).astype(np.float16).astype(np.float32))
        ops.close()
