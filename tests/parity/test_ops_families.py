"""The operations that families beyond the first three need, native against the reference: windows whose memory is a
ring, chunks, sinks, narrower values; routing by groups; one matrix a head; the gated delta rule over several steps."""

import numpy as np
import pytest

from motley.formats.tensor import QuantTensor
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch, DeltaNet, DeltaWeights, RouterVectors, Routing, Span
from motley.ops.reference import ReferenceOps
from motley.shape.quant import Quant

REFERENCE = ReferenceOps()


@pytest.fixture(scope="module")
def ops() -> NativeOps:
    return NativeOps(threads=2, kv="f32")


def normal(seed: int, *dims: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dims).astype(np.float32)


def tensor(values: np.ndarray) -> QuantTensor:
    return QuantTensor("w", values.shape, Quant.F32, values.reshape(-1).view(np.uint8))


def batch(first: int, end: int, slot: int) -> Batch:
    n = end - first
    return Batch([0] * n, range(first, end), [slot] * n, [])


@pytest.mark.parametrize("span", [Span(), Span(window=21), Span(chunk=32), Span(window=300)])
@pytest.mark.parametrize("sunk", [False, True])
def test_attention_long_after_the_ring_is_full(ops: NativeOps, span: Span, sunk: bool) -> None:
    heads, kv, n, m, context = 4, 2, 24, 40, 1000
    caches = [o.kv_cache(2, context, kv, n, m, span) for o in (ops, REFERENCE)]
    sinks = normal(9, heads)
    uploaded = (ops.weight(tensor(sinks)), sinks) if sunk else (None, None)
    for step, (first, end) in enumerate([(0, 700), (700, 701), (701, 702), (702, 990), (990, 991)]):
        q, k, v = (normal(10 * step + i, end - first, w) for i, w in enumerate((heads * n, kv * n, kv * m)))
        got, want = (
            o.attention(q, k, v, cache, batch(first, end, 1), 0.3, s)
            for o, cache, s in zip((ops, REFERENCE), caches, uploaded)
        )
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_a_window_keeps_no_more_than_itself(ops: NativeOps) -> None:
    whole, window = (ops.kv_cache(1, 1 << 16, 2, 64, None, span) for span in (Span(), Span(window=128)))
    assert window.n_bytes * 100 < whole.n_bytes


def test_chunks_of_a_prompt_do_not_change_a_bit(ops: NativeOps) -> None:
    q, k, v = normal(1, 800, 64), normal(2, 800, 32), normal(3, 800, 32)
    outs = []
    for cuts in ([0, 800], [0, 1, 300, 301, 640, 800]):
        cache = ops.kv_cache(1, 900, 1, 32, None, Span(window=50))
        parts = [
            ops.attention(q[a:b].copy(), k[a:b].copy(), v[a:b].copy(), cache, batch(a, b, 0), 0.2)
            for a, b in zip(cuts, cuts[1:])  # noqa: RUF007
        ]
        outs.append(np.concatenate(parts))
    np.testing.assert_array_equal(outs[0].view(np.uint32), outs[1].view(np.uint32))


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("groups", "used", "counted"), [(1, 1, 1), (4, 2, 1), (4, 2, 2), (8, 3, 2)])
def test_routing(ops: NativeOps, score: str, groups: int, used: int, counted: int) -> None:
    routing = Routing(4, True, score, 2.5, groups, used, counted)  # type: ignore[arg-type]
    w, x = normal(1, 32, 64), normal(2, 50, 64)
    given = [np.abs(normal(i, 32)) for i in (3, 4, 5)]
    vectors = RouterVectors(*(ops.weight(tensor(v)) for v in given))
    ids, weights = ops.router(x, ops.weight(tensor(w)), routing, vectors)
    want_ids, want = REFERENCE.router(x, w, routing, RouterVectors(*given))
    np.testing.assert_array_equal(ids, want_ids)
    np.testing.assert_allclose(weights, want, rtol=1e-5)


@pytest.mark.parametrize("heads", [1, 5])
def test_one_matrix_a_head(ops: NativeOps, heads: int) -> None:
    w, x = normal(1, heads, 48, 96), normal(2, 7, heads * 96)
    got = ops.heads_linear(x, ops.weight(tensor(w)))
    np.testing.assert_allclose(got, REFERENCE.heads_linear(x, w), atol=1e-4)


@pytest.mark.parametrize("tiled", [False, True])
def test_the_delta_rule_over_steps_and_slots(ops: NativeOps, tiled: bool) -> None:
    net = DeltaNet(2, 4, 24, 20, 4, 1e-6, tiled)
    conv, dt, rate = normal(1, net.channels, 4), normal(2, 4), -np.abs(normal(3, 4))
    states = [o.delta_state(3, net) for o in (ops, REFERENCE)]
    uploaded = DeltaWeights(*(ops.weight(tensor(v)) for v in (conv, dt, rate)))
    steps = [batch(0, 9, 2), batch(9, 10, 2), batch(10, 12, 2), batch(0, 2, 2)]  # the last one starts anew
    steps.append(Batch([0] * 5, [2, 0, 1, 2, 3], [2, 0, 0, 0, 0], []))
    for i, b in enumerate(steps):
        qkv, write, keep = normal(10 + i, len(b), net.channels), normal(20 + i, len(b), 4), normal(30 + i, len(b), 4)
        got = ops.delta_net(qkv, write, keep, uploaded, states[0], b)
        want = REFERENCE.delta_net(qkv, write, keep, DeltaWeights(conv, dt, rate), states[1], b)
        np.testing.assert_allclose(got, want, atol=2e-5)
