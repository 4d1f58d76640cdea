"""How a cache is stored changes nothing but what its type rounds: a cache of fewer bits, and one that keeps values with
the keys, give the bits of a float32 cache of the rounded values; and their memory is what predictions say."""

from itertools import pairwise

import numpy as np
import pytest

from motley.errors import UsageError
from motley.ops.native import NativeOps, _native, isas
from motley.ops.protocol import Batch, Span
from motley.ops.reference import ReferenceOps, as_stored
from motley.shape.mixer import BESIDE, ELEMENT_BYTES, CacheType, Mixer

TYPES: tuple[CacheType, ...] = ("f32", "f16", "q8_0")
WHOLE = [0, 150]


def normal(*dims: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dims).astype(np.float32)


CUTS = [0, 1, 2, 40, 56, 57, 149, 150]


def attended(
    ops: NativeOps | ReferenceOps,
    arrays: tuple[np.ndarray, ...],
    kv: int,
    cuts: list[int],
    stored: CacheType,
    **how: object,
) -> np.ndarray:
    """q, k, v [T, ...] through a cache in steps: [T, H*M]."""
    _, k, v = arrays
    width, value = k.shape[1] // kv, v.shape[1] // kv
    cache = ops.kv_cache(2, 160, kv, width, value, stored=stored, **how)  # type: ignore[arg-type]
    return np.concatenate(
        [
            ops.attention(
                *(np.ascontiguousarray(x[a:b]) for x in arrays),
                cache,
                Batch([0] * (b - a), range(a, b), [1] * (b - a), []),
                width**-0.5,
            )
            for a, b in pairwise(cuts)
        ]
    )


def rounded(x: np.ndarray, kv: int, stored: CacheType) -> np.ndarray:
    return as_stored(x.reshape(len(x), kv, -1), stored).reshape(x.shape)


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize(("heads", "kv", "n", "m"), [(4, 4, 40, 40), (6, 2, 64, 24), (8, 1, 128, 200), (3, 1, 17, 48)])
@pytest.mark.parametrize("span", [Span(), Span(window=21)])
def test_bits_of_a_float_cache_of_rounded_values(
    stored: CacheType, heads: int, kv: int, n: int, m: int, span: Span
) -> None:
    q, k, v = normal(150, heads * n, seed=1), normal(150, kv * n, seed=2), normal(150, kv * m, seed=3)
    round_kv = q, rounded(k, kv, stored), rounded(v, kv, stored)
    want = attended(ReferenceOps(), (q, k, v), kv, WHOLE, stored, span=span)
    first = None
    for isa in isas():
        ops = NativeOps(threads=2, isa=isa)
        got = attended(ops, (q, k, v), kv, CUTS, stored, span=span)
        np.testing.assert_array_equal(got, attended(ops, round_kv, kv, WHOLE, "f32", span=span))
        first = got if first is None else first
        np.testing.assert_array_equal(got, first)
        ops.close()
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize(("heads", "n", "m"), [(4, 40, 24), (16, 80, 64), (70, 36, 32)])
@pytest.mark.parametrize("span", [Span(), Span(window=21)])
def test_values_kept_with_the_keys_have_the_bits_of_values_kept_apart(
    stored: CacheType, heads: int, n: int, m: int, span: Span
) -> None:
    q, k = normal(150, heads * n, seed=1), normal(150, n, seed=2)
    kept = rounded(k, 1, stored)  # blocks of Q8_0 go over the keys
    v = np.ascontiguousarray(kept[:, :m])
    apart = NativeOps(threads=1)
    want = attended(apart, (q, kept, v), 1, WHOLE, "f32", span=span)
    apart.close()
    for threads, isa in [(1, name) for name in isas()] + [(3, "")]:
        ops = NativeOps(threads=threads, isa=isa)
        for cuts in (WHOLE, CUTS):
            np.testing.assert_array_equal(attended(ops, (q, k, v), 1, cuts, stored, span=span, one=True), want)
        ops.close()


def test_many_heads_of_few_keys_are_shared_among_threads() -> None:
    """A step of one token over a long past: the same bits for any number of threads, which then share the heads."""
    q, k, v = normal(1200, 24 * 32, seed=1), normal(1200, 32, seed=2), normal(1200, 32, seed=3)
    outs = []
    for threads in (1, 2, 7):
        ops = NativeOps(threads=threads)
        for one in (False, True):
            cache = ops.kv_cache(1, 1300, 1, 32, one=one)
            values = k if one else v
            ops.attention(q[:1199], k[:1199], values[:1199], cache, Batch([0] * 1199, range(1199), [0] * 1199, []), 0.2)
            out = ops.attention(q[1199:], k[1199:], values[1199:], cache, Batch([0], [1199], [0], []), 0.2)
            outs.append((one, out))
        ops.close()
    for one, out in outs:
        np.testing.assert_array_equal(out, outs[int(one)][1])


def test_rounding_of_hostile_values() -> None:
    """Each block alone in a cache's values, on every instruction set: zeros, subnormals, NaN, infinities, overflow."""
    rows = normal(40, 96, seed=4)
    for i, value in enumerate([np.nan, np.inf, -np.inf, 3.4e38, -8.4e6, 1e-38, 0.0, 7e-6]):
        rows[i::8, 5 * i] = value
    sizes = 10.0 ** np.linspace(-12, 9, 40, dtype=np.float32)
    rows = np.concatenate([rows, normal(40, 96, seed=5) * sizes[:, None], np.zeros((1, 96), np.float32)])
    want = as_stored(rows[:, None], "q8_0")[:, 0]
    sound = np.isfinite(want).all(axis=1)
    assert 40 < sound.sum() < 81
    error = np.abs(want - rows).reshape(-1, 3, 32).max(-1)[sound]
    most = np.abs(rows).reshape(-1, 3, 32).max(-1)[sound]
    assert (error <= np.maximum(most / 253, 4e-6)).all()
    for isa in isas():
        ops = NativeOps(isa=isa)
        zero = np.zeros((1, 96), np.float32)
        for row, expected in zip(rows, want):
            cache = ops.kv_cache(1, 1, 1, 96, stored="q8_0")
            got = ops.attention(zero, zero, row[None].copy(), cache, Batch([0], [0], [0], []), 1.0)[0]
            np.testing.assert_array_equal(got, expected)
        ops.close()


@pytest.mark.parametrize("stored", TYPES)
def test_memory_is_what_is_predicted(stored: CacheType) -> None:
    ops, each = NativeOps(), ELEMENT_BYTES[stored]
    assert ops.rewind == BESIDE == _native.Cache.BESIDE
    full = Mixer.full(8, 2, 64, 96)
    for context, span, mixer in [
        (4096, Span(), full),
        (4096, Span(window=128), full.windowed(128)),
        (4096, Span(chunk=512), full.windowed(512)),
        (256, Span(window=128), full.windowed(128)),
    ]:
        cache = ops.kv_cache(3, context, 2, 64, 96, span, stored=stored)
        assert 0 <= cache.n_bytes - 3 * mixer.bytes_kept(context, each, BESIDE) <= 4096  # whole pages
    latent = ops.kv_cache(2, 4096, 1, 576, 512, stored=stored, one=True)
    assert 0 <= latent.n_bytes - 2 * Mixer.latent(16, 512, 64, 128, 128).bytes_kept(4096, each) <= 4096
    ops.close()


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(UsageError, match="f32, f16, q8_0"):
        NativeOps(kv="q4_0")  # type: ignore[arg-type]
    ops = NativeOps()
    with pytest.raises(ValueError, match="first elements"):
        ops.kv_cache(1, 8, 1, 16, 32, one=True)
    ops.close()
