"""tinygrad's CPU device (clang) against the golden logits: one family each of what differs most. Few tokens, as it
takes a fifth of a second to compile a kernel; all families, whole prompts: tools/tinygrad_families.py."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tinygrad", reason="tinygrad is not installed (extra [tinygrad])")
if shutil.which("clang") is None:
    pytest.skip("tinygrad's CPU device needs clang", allow_module_level=True)

from cuda_emulation.emulated_ops import EmulatedOps
from cuda_emulation.emulator import COMPILER
from random_weights import random_tensor
from tinygrad.helpers import Context

from motley.engine.local import LocalRunner
from motley.errors import UnsupportedError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.tensor import QuantTensor
from motley.ops.checks import EXACT, ROUNDED, checks
from motley.ops.protocol import Batch, DeltaNet, DeltaWeights, Upload
from motley.ops.reference import ReferenceOps
from motley.ops.tinygrad import TinygradOps
from motley.shape.quant import Quant

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
TOLERANCE = 1e-4  # of the largest logit: float32 sums in another order


@pytest.fixture(autouse=True)
def fast_to_compile() -> Iterator[None]:
    with Context(NOOPT=1, PARALLEL=0):
        yield


def normal(*dims: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, *dims]).standard_normal(dims).astype(np.float32)


def step(runner: LocalRunner, golden: dict[str, np.ndarray], position: int, rows: int = 1) -> None:
    """One token, whose logits, if it wants them, are the golden ones."""
    batch = Batch(golden["prompt"][position : position + 1], [position], [1], range(rows))
    logits = runner.step(batch)
    worst = np.abs(logits - golden["logits"][position : position + rows]).max(initial=0)
    assert worst < TOLERANCE * np.abs(golden["logits"]).max()


def loaded(family: str, ops: TinygradOps) -> tuple[LocalRunner, dict[str, np.ndarray]]:
    runner = LocalRunner(open_checkpoint(GOLDEN / f"{family}.gguf"), ops, n_slots=2, context=64)
    return runner, dict(np.load(GOLDEN / f"{family}.npz"))


@pytest.mark.parametrize(("family", "chunks"), [("gpt-oss", 3), ("deepseek2-v3", 0)])
def test_tokens_one_by_one(family: str, chunks: int) -> None:
    """The first as chunks of a prompt, which want no logits: done, remembered, from memory. Then decoding the same."""
    runner, golden = loaded(family, TinygradOps("CPU", kv="f32"))
    for position in range(chunks + 3):
        step(runner, golden, position, rows=int(position >= chunks))
    assert runner.model.stage is not None
    assert list(runner.model.stage._prompts) == [(1, 0)][:chunks]
    shape = shape_of(open_checkpoint(GOLDEN / f"{family}.gguf"))
    chosen = [(chunks + 3) * shape.n_experts_used * bool(shape.experts_in(i)) for i in range(shape.n_layers)]
    assert runner.routes().sum(1).tolist() == chosen
    runner.close()


@pytest.mark.parametrize("emulated", [False, True], ids=["expressions", "kernel"])
def test_the_gated_delta_rule_over_steps_and_slots(tmp_path: Path, emulated: bool) -> None:
    """Also from expressions, which many tokens take everywhere, to the kernel and back."""
    if emulated and COMPILER is None:
        pytest.skip("no C++ compiler")
    ops: TinygradOps = EmulatedOps(tmp_path) if emulated else TinygradOps("CPU")
    truth, net = ReferenceOps(), DeltaNet(2, 4, 8, 6, 3, 1e-6)
    given = [normal(net.channels, 3, seed=1), normal(4, seed=2), -np.abs(normal(4, seed=3))]
    tensors = [QuantTensor("w", a.shape, Quant.F32, a.reshape(-1).view(np.uint8)) for a in given]
    weights = DeltaWeights(*map(ops.weight, tensors)), DeltaWeights(*given)
    states = ops.delta_state(3, net), truth.delta_state(3, net)
    steps = [([2, 2], [0, 1]), ([2, 2], [2, 3]), ([2, 0], [4, 0]), ([0, 2], [1, 0]), ([0, 2], [2, 1])]
    steps += [([1] * 11, [*range(11)]), ([1, 0, 0], [11, 3, 4])] if emulated else []
    for i, (slots, positions) in enumerate(steps):
        n, batch = len(slots), Batch([0] * len(slots), positions, slots, [])
        qkv, write, keep = normal(n, net.channels, seed=i), normal(n, 4, seed=10 + i), normal(n, 4, seed=20 + i)
        got = ops.to_host(ops.delta_net(*map(ops.from_host, (qkv, write, keep)), weights[0], states[0], batch))
        want = truth.delta_net(qkv, write, keep, weights[1], states[1], batch)
        np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_a_delta_rules_state_takes_a_step_once(tmp_path: Path) -> None:
    """Its launch goes behind the norm and the gate: what comes before them is not to be had any more."""
    ops, net = EmulatedOps(tmp_path), DeltaNet(2, 4, 8, 6, 3, 1e-6)
    given = [normal(net.channels, 3, seed=1), normal(4, seed=2), -np.abs(normal(4, seed=3)), normal(6, seed=4)]
    *three, norm = (ops.weight(QuantTensor("w", a.shape, Quant.F32, a.reshape(-1).view(np.uint8))) for a in given)
    state, batch = ops.delta_state(1, net), Batch([0], [0], [0], [])
    qkv, write, keep, z = (ops.from_host(normal(1, n, seed=n)) for n in (net.channels, 4, 4, 24))
    out = ops.delta_net(qkv, write, keep, DeltaWeights(*three), state, batch)
    normed = ops.rms_norm(out, norm, 1e-6)
    gated = ops.gate(normed, z, "silu")
    for before in (out, normed):
        with pytest.raises(RuntimeError, match="its state would take these tokens twice"):
            ops.to_host(before)
    assert np.isfinite(ops.to_host(gated)).all()


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_what_tensor_cores_round_is_allowed_and_no_more(tmp_path: Path) -> None:
    """`motley selftest` holds CUDA to it: products of many tokens by bfloat16, all else as exact as anywhere."""
    ops = EmulatedOps(tmp_path)
    wanted = {
        ("linear", "F32"),
        ("linear", "F32, many tokens"),
        ("experts", "F32"),
        ("heads_linear", "F32"),
        ("experts", "silu, biases, some owned"),
        ("rms_norm", "one group and three"),
    }
    errors = {c: c.error(ops) for c in checks([Quant.F32]) if (c.operation, c.what) in wanted}
    assert len(errors) == len(wanted)
    for check, error in errors.items():
        assert (error > EXACT) == (check.limit(ops) == ROUNDED["bfloat16"]), check
        assert error <= check.limit(ops), check


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_experts_beside_a_residual_of_nothing(tmp_path: Path) -> None:
    """Gemma 4's: tinygrad makes a constant of what is multiplied by zero, and no kernel can read that."""
    ops, truth = EmulatedOps(tmp_path), ReferenceOps()
    each = [
        QuantTensor("w", a.shape, Quant.F32, a.reshape(-1).view(np.uint8))
        for a in (normal(2, 32, 64, seed=1), normal(2, 32, 64, seed=2), normal(2, 64, 32, seed=3))
    ]
    x, ids, weights = normal(1, 64, seed=4), np.array([[1, 0]], np.int32), normal(1, 2, seed=5)

    def sum_of(ops: Any) -> np.ndarray:
        given = ops.from_host(x)
        experts = ops.experts(given, ops.from_host(ids), ops.from_host(weights), ops.experts_weight(*each, [0, 1]))
        return ops.to_host(ops.combine(ops.scale(ops.columns(given, 64, 0, 64), 0.0), [experts]))

    want = sum_of(truth)
    np.testing.assert_allclose(sum_of(ops), want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_experts_in_the_place_of_others_go_through_the_same_products(tmp_path: Path) -> None:
    """A step of many tokens, whose experts come a group at a time: their sums are those of all at once."""
    ops, T, E, A = EmulatedOps(tmp_path), 17, 6, 2
    each = [random_tensor(Quant.Q8_0, dims, seed=i) for i, dims in enumerate([(E, 32, 64), (E, 32, 64), (E, 64, 32)])]
    rng = np.random.default_rng(6)
    chosen = np.argsort(rng.random((T, E)))[:, :A].astype(np.int32)
    given = [ops.from_host(a) for a in (normal(T, 64, seed=4), chosen, normal(T, A, seed=5))]
    want = ops.to_host(ops.experts(*given, ops.experts_weight(*each, range(E))))
    kept, got = ops.experts_weight(*each, [0, 1, 2]), np.zeros_like(want)
    for group in ([0, 2, 5], [1, 3], [4], []):
        kept = ops.experts_weight(*each, group, Upload(into=kept))
        got += ops.to_host(ops.experts(*given, kept))
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(want).max())


def test_keys_and_values_are_stored_as_the_cache_says() -> None:
    ops = TinygradOps("CPU")
    cache = [ops.kv_cache(1, 4, 1, 8, stored=kind) for kind in (None, "f16", "f32")]
    assert [c.is_half for c in cache] == [True, True, False]
    assert [ops.kv_cache(1, 4, 1, 8, width).value_dim for width in (None, 6, 0)] == [8, 6, 0]
    latents = ops.kv_cache(1, 4, 1, 8, 6, one=True)
    assert latents.values is None
    assert latents.read_values is latents.keys
    with pytest.raises(UnsupportedError, match="is f16 or f32: give --cache-type"):
        ops.kv_cache(1, 4, 1, 8, stored="q8_0")


@pytest.mark.parametrize(
    ("family", "launches", "others"),
    [
        ("qwen3moe", [7, 7, 7], 1),
        ("gpt-oss", [7, 7, 7, 7], 1),
        ("deepseek2-v3", [7, 8, 8], 1),
        ("qwen3next", [6, 7, 6, 7], 1),
        ("qwen35moe", [6, 7, 6, 7], 1),
        ("gemma4", [7, 7, 7, 7], 3),  # the embedding's scale, the logits' cap
        ("llama4", [6, 7, 6, 7], 1),
        ("granitemoe-shared", [7, 7, 7], 2),
        ("hunyuan-moe", [7, 7, 7], 1),
    ],
)
def test_the_cuda_kernels_in_tinygrads_graphs(tmp_path: Path, family: str, launches: list[int], others: int) -> None:
    """They run on the CPU, called by tinygrad as it would call CUDA's: so many a layer, and others before and behind
    them. One token, then two sequences' at once, one of them with several, which take a launch more to choose rows."""
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    runner, golden = loaded(family, EmulatedOps(tmp_path))
    for position in range(2):
        step(runner, golden, position)
    positions = [2, 3, 0]
    logits = runner.step(Batch(golden["prompt"][positions], positions, [1, 1, 0], range(3)))
    want = golden["logits"][positions]
    assert np.abs(logits - want).max() < TOLERANCE * np.abs(golden["logits"]).max()
    assert runner.model.stage is not None
    steps = runner.model.stage._remembered.values()
    counts = [each._program.n_kernels for each in steps]  # type: ignore[union-attr]
    assert counts == [sum(launches) + others, sum(launches) + others + 1]
    runner.close()
