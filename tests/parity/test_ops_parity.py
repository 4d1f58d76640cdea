"""Each native operation against the reference: odd sizes, empty groups, one token and many, hostile values."""

from collections.abc import Iterator

import numpy as np
import pytest
from random_weights import random_tensor

from motley.formats.blocks import MXFP4_VALUES
from motley.formats.tensor import QuantTensor
from motley.ops.native import NativeOps, isas
from motley.ops.protocol import Batch, Rope, Routing
from motley.ops.reference import ReferenceOps
from motley.shape.quant import Quant

FLOATS = [Quant.F32, Quant.F16, Quant.BF16]
INTEGERS = [quant for quant in Quant if quant not in FLOATS]
REFERENCE = ReferenceOps()


@pytest.fixture(params=isas(), scope="module")
def ops(request: pytest.FixtureRequest) -> Iterator[NativeOps]:
    native = NativeOps(threads=2, isa=request.param, kv="f32")
    yield native
    native.close()


def normal(*dims: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *dims]).standard_normal(dims).astype(np.float32)


def int8_rounded(x: np.ndarray) -> np.ndarray:
    """What the kernels see of activations [T, cols] when the weights are quantised."""
    blocks = np.zeros((len(x), (x.shape[1] + 31) // 32 * 32), np.float64)
    blocks[:, : x.shape[1]] = x
    blocks = blocks.reshape(len(x), -1, 32)
    d = np.abs(blocks).max(axis=-1, keepdims=True) / 127
    q = np.rint(blocks / np.where(d == 0, 1, d))
    return np.asarray((q * d).reshape(len(x), -1)[:, : x.shape[1]])


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float = 1e-5) -> None:
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= tolerance * np.abs(want).max(initial=1e-30)


@pytest.mark.parametrize("quant", FLOATS + INTEGERS, ids=lambda q: q.name)
@pytest.mark.parametrize("tokens", [1, 2, 7, 33])
@pytest.mark.parametrize("shape", [(1, 1), (16, 2), (37, 3), (100, 8)], ids=str)
def test_linear(ops: NativeOps, quant: Quant, tokens: int, shape: tuple[int, int]) -> None:
    rows, blocks = shape
    cols = blocks * quant.block if quant.block > 1 else 1 + 19 * blocks
    w = random_tensor(quant, (rows, cols))
    x = normal(tokens, cols)
    (got,) = ops.linear(x, ops.weight(w))
    seen = x if quant in FLOATS else int8_rounded(x)
    assert_close(got, seen.astype(np.float64) @ w.decode().astype(np.float64).T)


def test_every_mxfp4_scale(ops: NativeOps) -> None:
    """Subnormal scales and products beyond float32 to the bit; 255 is NaN. Activations that int8 holds exactly."""
    stored = np.random.default_rng(0).integers(0, 256, (256, 17), np.uint8)
    stored[:, 0] = np.arange(256)
    w = QuantTensor("w", (256, 32), Quant.MXFP4, stored.reshape(-1))
    x = np.random.default_rng(1).integers(-127, 128, (9, 32)).astype(np.float32)
    x[:, 0] = 127
    (got,) = ops.linear(x, ops.weight(w))
    doubled = MXFP4_VALUES[np.stack([stored[:, 1:] & 15, stored[:, 1:] >> 4], 1).reshape(256, 32)]
    scales = np.where(stored[:, 0] == 255, np.nan, np.ldexp(1.0, stored[:, 0].astype(int) - 128))
    with np.errstate(over="ignore"):
        want = (x.astype(np.float64) @ doubled.T * scales).astype(np.float32)
    assert np.isinf(want[:, 254]).any()
    np.testing.assert_array_equal(got, want)


def test_linear_by_several_weights_equals_each_alone(ops: NativeOps) -> None:
    tensors = [random_tensor(q, (33 + i, 512), seed=i) for i, q in enumerate(FLOATS + INTEGERS)]
    weights = [ops.weight(t) for t in tensors]
    x = normal(5, 512)
    for together, weight in zip(ops.linear(x, *weights), weights):
        np.testing.assert_array_equal(together, ops.linear(x, weight)[0])


@pytest.mark.parametrize("quant", FLOATS + INTEGERS, ids=lambda q: q.name)
def test_embed_decodes_as_the_reference_to_the_bit(ops: NativeOps, quant: Quant) -> None:
    table = random_tensor(quant, (50, 512))
    table.data[: 3 * quant.block_bytes] = np.arange(3 * quant.block_bytes) * 37 % 256  # odd scales too
    tokens = np.array([49, 0, 7, 7, 1], np.int32)
    got, want = ops.embed(ops.table(table), tokens), REFERENCE.embed(table.decode(), tokens)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("width", [1, 16, 37, 2048])
@pytest.mark.parametrize("groups", [1, 3])
def test_rms_norm(ops: NativeOps, width: int, groups: int) -> None:
    weight, x = random_tensor(Quant.F32, (width,)), normal(5, width * groups)
    assert_close(ops.rms_norm(x, ops.weight(weight), 1e-5), REFERENCE.rms_norm(x, weight.decode(), 1e-5))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [0, 2, 20, 24])
def test_rope(ops: NativeOps, interleaved: bool, dim: int) -> None:
    x, positions = normal(4, 3 * 24), np.array([0, 1, 77, 100_000], np.int32)
    rope = Rope(dim, 10_000.0, interleaved)
    want = REFERENCE.rope(x, 24, positions, rope) if dim else x.copy()
    assert_close(ops.rope(x.copy(), 24, positions, rope), want)
    assert_close(ops.rope(x.copy(), 24, positions, rope), want)  # from the cached angles


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (6, 2), (8, 1), (130, 2)], ids=str)
@pytest.mark.parametrize("width", [8, 20, 64, 128])
def test_attention_over_mixed_steps(ops: NativeOps, heads: tuple[int, int], width: int) -> None:
    """Two sequences: prefills of odd lengths, then decode steps, then both in one batch, against the reference."""
    n_heads, n_kv = heads
    native, truth = (o.kv_cache(3, 80, n_kv, width) for o in (ops, REFERENCE))
    steps = [
        ([2] * 37, range(37)),
        ([2] * 9 + [0] * 5, [*range(37, 46), *range(5)]),
        ([0], [5]),
        ([2, 0, 1], [46, 6, 0]),
        ([1] * 2 + [2] * 33, [1, 2, *range(47, 80)]),
    ]
    for i, (slots, positions) in enumerate(steps):
        batch = Batch([0] * len(slots), positions, slots, [])
        q, k, v = (normal(len(batch), n * width, seed=10 * i + n) for n in (n_heads, n_kv, n_kv + 500))
        v = v[:, : n_kv * width].copy()
        got = ops.attention(q, k, v, native, batch, width**-0.5)
        assert_close(got, REFERENCE.attention(q, k, v, truth, batch, width**-0.5))


def test_attention_with_half_precision_keys() -> None:
    with_half = NativeOps(threads=1)
    native, truth = (o.kv_cache(1, 40, 2, 32) for o in (with_half, REFERENCE))
    batch = Batch([0] * 40, range(40), [0] * 40, [])
    q, k, v = (normal(40, n * 32, seed=n) for n in (4, 2, 2))
    got = with_half.attention(q, k, v, native, batch, 32**-0.5)
    k, v = (a.astype(np.float16).astype(np.float32) for a in (k, v))
    assert_close(got, REFERENCE.attention(q, k, v, truth, batch, 32**-0.5))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("experts", [(1, 1), (7, 3), (64, 8), (129, 129)], ids=str)
def test_router(ops: NativeOps, experts: tuple[int, int], normalize: bool) -> None:
    n, used = experts
    w, x = random_tensor(Quant.F32, (n, 50)), normal(21, 50)
    ids, weights = ops.router(x, ops.weight(w), Routing(used, normalize))
    want_ids, want = REFERENCE.router(x, w.decode(), Routing(used, normalize))
    np.testing.assert_array_equal(ids, want_ids)
    assert_close(weights, want)


def test_router_ties_and_nans(ops: NativeOps) -> None:
    w = QuantTensor("r", (6, 1), Quant.F32, np.array([1, 3, np.nan, 3, 2, 3], np.float32).view(np.uint8))
    weight = ops.weight(w)
    ids, _ = ops.router(np.ones((1, 1), np.float32), weight, Routing(6, False))
    assert ids.tolist() == [[1, 3, 5, 4, 0, 2]]
    for hostile in (np.nan, np.inf, -np.inf):
        ids, _ = ops.router(np.full((2, 1), hostile, np.float32), weight, Routing(4, True))
        assert ((ids >= 0) & (ids < 6)).all()
        assert all(len(set(row)) == 4 for row in ids.tolist())


def test_router_with_quantised_weights_computes_in_float(ops: NativeOps) -> None:
    w, x = random_tensor(Quant.Q8_0, (9, 64)), normal(3, 64)
    ids, weights = ops.router(x, ops.weight(w), Routing(4, False))
    want_ids, want = REFERENCE.router(x, w.decode(), Routing(4, False))
    np.testing.assert_array_equal(ids, want_ids)
    assert_close(weights, want)


def experts_of(gate: Quant, down: Quant, n: int, d: int, f: int) -> list[QuantTensor]:
    return [random_tensor(q, dims, seed=i) for i, (q, dims) in enumerate([(gate, (n, f, d))] * 2 + [(down, (n, d, f))])]


def experts_in_numpy(tensors: list[QuantTensor], owned: list[int], x: np.ndarray, ids: np.ndarray, w: np.ndarray):
    """The reference's arithmetic on rounded activations, in float64."""
    see_in = int8_rounded if tensors[0].quant in INTEGERS else lambda a: a
    see_hidden = int8_rounded if tensors[2].quant in INTEGERS else lambda a: a
    out, seen = np.zeros(x.shape), see_in(x)
    for t, k in np.ndindex(*ids.shape):
        e = int(ids[t, k])
        if e in owned:
            gate, up, down = (m.part(e).decode().astype(np.float64) for m in tensors)
            g = gate @ seen[t]
            hidden = g / (1 + np.exp(-g)) * (up @ seen[t])
            out[t] += np.float64(w[t, k]) * (down @ see_hidden(hidden[None])[0])
    return out


@pytest.mark.parametrize(
    ("gate", "down"),
    [(q, q) for q in FLOATS + INTEGERS] + [(Quant.Q4_K, Quant.Q6_K), (Quant.Q8_0, Quant.F16), (Quant.F32, Quant.Q8_0)],
    ids=lambda q: q.name,
)
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_experts(ops: NativeOps, gate: Quant, down: Quant, tokens: int) -> None:
    d, f = max(gate.block, 24), max(down.block, 20) if down.block < 256 else 256
    if gate in INTEGERS and down in INTEGERS and gate.block < 256:
        d, f = 3 * gate.block, 5 * gate.block
    tensors = experts_of(gate, down, 6, d, f)
    rng = np.random.default_rng(tokens)
    ids = np.array([rng.permutation(6)[:3] for _ in range(tokens)], np.int32)
    x, weights = normal(tokens, d), rng.random((tokens, 3), np.float32)
    for owned in ([0, 1, 2, 3, 4, 5], [4, 1], []):
        got = ops.experts(x, ids, weights, ops.experts_weight(*tensors, owned))
        assert got.dtype == np.float64
        # A hidden value on the edge between two int8 steps may round the other way: that is one step in one term.
        assert_close(got, experts_in_numpy(tensors, owned, x, ids, weights), 1e-5 if down in FLOATS else 5e-3)


def test_experts_with_an_expert_chosen_twice(ops: NativeOps) -> None:
    tensors = experts_of(Quant.F32, Quant.F32, 3, 20, 17)
    x, ids = normal(2, 20), np.array([[1, 1], [2, 1]], np.int32)
    weights = np.array([[0.25, 0.5], [1, -1]], np.float32)
    got = ops.experts(x, ids, weights, ops.experts_weight(*tensors, [0, 1, 2]))
    assert_close(got, experts_in_numpy(tensors, [0, 1, 2], x, ids, weights))


def test_combine_rounds_once(ops: NativeOps) -> None:
    x, parts = normal(3, 700), [np.random.default_rng(i).standard_normal((3, 700)) for i in range(3)]
    want = REFERENCE.combine(x.copy(), parts)
    np.testing.assert_array_equal(ops.combine(x.copy(), parts), want)


@pytest.mark.parametrize("hostile", [np.nan, np.inf, -np.inf, 3e38, 1e-44], ids=str)
@pytest.mark.parametrize("quant", FLOATS + INTEGERS, ids=lambda q: q.name)
def test_hostile_activations_stay_with_their_token(ops: NativeOps, quant: Quant, hostile: float) -> None:
    w = random_tensor(quant, (40, 512))
    weight, x = ops.weight(w), normal(6, 512)
    clean = ops.linear(x, weight)[0]
    x[3, 100] = hostile
    got = ops.linear(x, weight)[0]
    if quant in FLOATS:
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(got[3], (x @ w.decode().T)[3], rtol=1e-3, atol=1e-5)
    elif not np.isfinite(hostile):
        assert np.isnan(got[3]).all()
    np.testing.assert_array_equal(np.delete(got, 3, 0), np.delete(clean, 3, 0))


def test_hostile_activations_everywhere(ops: NativeOps) -> None:
    """Nothing crashes and no id leaves its range, whatever comes in."""
    values = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-44, 0, -0.0], np.float32)
    x = np.random.default_rng(0).choice(values, (9, 256))
    for quant in (Quant.F32, Quant.Q4_K):
        tensors = experts_of(quant, quant, 4, 256, 256)
        ids, weights = ops.router(x, ops.weight(random_tensor(Quant.F32, (4, 256))), Routing(2, True))
        assert ((ids >= 0) & (ids < 4)).all()
        ops.experts(x, ids, weights, ops.experts_weight(*tensors, [0, 1, 2, 3]))
    cache = ops.kv_cache(1, 9, 2, 64)
    batch = Batch([0] * 9, range(9), [0] * 9, [])
    ops.attention(x, x[:, :128].copy(), x[:, 128:].copy(), cache, batch, 1.0)
    ops.rms_norm(x, ops.weight(random_tensor(Quant.F32, (256,))), 1e-6)
