"""Each operation on MLX's CPU build against the reference, from several threads, and compiled."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'motley-moe[mlx]'")

from random_weights import random_tensor

from motley.errors import UnsupportedError, UsageError
from motley.ops.checks import HALF, Check, checks
from motley.ops.mlx import MlxOps
from motley.ops.mlx.layouts import LAYOUTS
from motley.ops.protocol import Batch, Span
from motley.ops.reference import ReferenceOps
from motley.shape.quant import Quant

CHECKS = list(checks([*LAYOUTS, Quant.F32, Quant.BF16, Quant.IQ2_XXS]))  # the other kinds become float32 as that one
OPS = MlxOps("cpu", kv="f32")


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: f"{c.operation}: {c.what}")
def test_as_the_reference(check: Check) -> None:
    assert check.error(OPS) < 5e-6


def test_keys_and_values_in_half_precision() -> None:
    half = MlxOps("cpu")
    (check,) = (c for c in CHECKS if (c.operation, c.what) == ("attention", "one latent head"))
    assert 1e-5 < check.error(half) < HALF


@pytest.mark.skipif(not shutil.which("g++"), reason="on a CPU, MLX compiles by g++, which is not here")
def test_compiled_as_on_a_gpu() -> None:
    compiled = MlxOps("cpu", kv="f32", compiled=True)
    (check,) = (c for c in CHECKS if (c.operation, c.what) == ("activate", "clamped"))
    assert check.error(compiled) < 5e-6


def test_threads_share_a_device() -> None:
    """As a node's do: one at its layers, others asked for experts."""
    mine = [c for c in CHECKS if c.operation in ("experts", "attention") and c.what in ("Q4_K", "F32", "everything")]
    together = Barrier(len(mine))

    def run(check: Check) -> float:
        together.wait()
        return max(check.error(OPS) for _ in range(3))

    with ThreadPoolExecutor(len(mine)) as pool:
        assert max(pool.map(run, mine)) < 5e-6


def test_a_window_keeps_little_more_than_itself() -> None:
    caches = [o.kv_cache(1, 1 << 16, 1, 8, None, Span(window=100)) for o in (OPS, ReferenceOps())]
    for first in range(0, 3000, 150):
        q, k, v = np.random.default_rng(first).standard_normal((3, 150, 8)).astype(np.float32)
        batch = Batch([0] * 150, range(first, first + 150), [0] * 150, [])
        arrays = [OPS.from_host(a) for a in (q, k, v)]
        got = OPS.to_host(OPS.attention(*arrays, caches[0], batch, 0.3))
        np.testing.assert_allclose(got, ReferenceOps().attention(q, k, v, caches[1], batch, 0.3), atol=1e-5)
    assert caches[0].slots[0].room < 1200
    with pytest.raises(ValueError, match="position 7 was left behind"):
        caches[0].store(0, 7, *(OPS.from_host(np.zeros((1, 8), np.float32)) for _ in "kv"))


def test_hostile_activations_stay_with_their_token() -> None:
    x = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    weight = OPS.weight(random_tensor(Quant.Q4_0, (40, 64)))
    (clean,) = OPS.linear(OPS.from_host(x), weight)
    x[3, 10] = np.nan
    (got,) = OPS.linear(OPS.from_host(x), weight)
    np.testing.assert_array_equal(np.delete(OPS.to_host(got), 3, 0), np.delete(OPS.to_host(clean), 3, 0))


def test_an_untested_version_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx.core.__version__", "0.40.1")
    with pytest.raises(UnsupportedError, match=r"MLX 0\.40\.1 is installed, .* run `pip install 'motley-moe\[mlx\]'`"):
        MlxOps("cpu")


def test_no_gpu_here_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="MLX has no device 'tpu' here: it has"):
        MlxOps("tpu")
