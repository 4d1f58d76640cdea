"""The CUDA kernels, compiled for the CPU with threads as fibers (`cuda_emulation`), against the reference: that finds
wrong indices, lost rows and barriers that some threads miss; races and speed are for a GPU (docs/gpu-todo.md). And by
nvcc for three generations of GPUs, where it is at hand."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tinygrad", reason="tinygrad is not installed (extra [tinygrad])")

from cuda_emulation.emulator import COMPILER, Emulator, together
from random_weights import random_tensor

from motley.formats.tensor import QuantTensor
from motley.ops.protocol import Activation, Batch, DeltaNet, DeltaWeights, Rope, RouterVectors, Routing, Span
from motley.ops.reference import ReferenceOps
from motley.ops.tinygrad import launches
from motley.ops.tinygrad.planes import planes_of
from motley.ops.tinygrad.source import Kernel, head
from motley.shape.quant import Quant

REFERENCE = ReferenceOps()
QUANTS = sorted(launches.KERNEL_QUANTS, key=lambda q: q.name)
EPS = 1e-5
T, A, E, D, F = 3, 2, 6, 256, 256  # tokens, active, experts, model and expert width: K-quants need whole 256s
OWNED = [4, 1, 3, 0]
NONE = np.zeros(1, np.float32)

MIXED = [(Quant.Q4_K, 37), (Quant.Q6_K, 5), (Quant.F32, 2), (Quant.Q8_0, 3)]
MATVECS: dict[str, Kernel] = {q.name: launches.matvec(1, 768, ((q, 37),)) for q in QUANTS}
MATVECS["four"] = launches.matvec(2, D, tuple(MIXED), EPS)
MATVECS["wide"] = launches.matvec(4, 4096, ((Quant.Q8_0, 9),), None, residual=True)  # more than is staged at once
MATVECS["part"] = launches.matvec(2, 44, ((Quant.BF16, 9),), EPS, residual=True, bias=True, row=97, first=50)
MATVECS["factor"] = launches.matvec(2, D, ((Quant.Q8_0, 37),), residual=True, factor=0.22)
MATVECS["post"] = launches.matvec(T, D, ((Quant.Q8_0, 301),), residual=True, bias=True, factor=0.5, post=EPS)
GATE_UPS = {q.name: launches.experts_gate_up(T, A, D, F, (q, q), Activation.SILU, EPS) for q in QUANTS}
GATE_UPS["biased"] = launches.experts_gate_up(T, A, D, F, (Quant.MXFP4, Quant.Q8_0), Activation.CLAMPED, biases=True)
BESIDE = launches.Beside(288, Quant.Q8_0, Quant.BF16, Quant.F16)  # wider than the experts
GATE_UPS["shared"] = launches.experts_gate_up(T, A, D, F, (Quant.Q4_K, Quant.Q6_K), Activation.SILU, EPS, beside=BESIDE)
GATE_UPS["dense"] = launches.experts_gate_up(
    T, 0, D, 0, (Quant.Q8_0, Quant.F32), Activation.GELU, EPS, beside=launches.Beside(37, Quant.Q8_0, Quant.F32)
)
SIDE = launches.Beside(96, Quant.Q8_0, Quant.Q4_0, own_norm=True)
GATE_UPS["own norm"] = launches.experts_gate_up(
    T, 1, D, F, (Quant.Q8_0, Quant.Q4_K), Activation.GELU, EPS, beside=SIDE, scaled=True
)
DOWNS = {q.name: launches.experts_down(T, A, D, F, q) for q in QUANTS}
DOWNS["biased"] = launches.experts_down(T, A, D, F, Quant.MXFP4, residual=True, biases=True)
DOWNS["shared"] = launches.experts_down(
    T, A, D, F, Quant.Q4_K, residual=True, shared=(Quant.Q8_0, BESIDE.width), gated=True, factor=0.22
)
DOWNS["normed"] = launches.experts_down(
    T, A, D, F, Quant.Q8_0, residual=True, shared=(Quant.Q8_0, BESIDE.width), post=(EPS, 0.75)
)
ROUTINGS = {
    "softmax": (Routing(3, True), 9, (True, False, False)),
    "groups": (Routing(4, True, "sigmoid", 2.5, 4, 2, 2), 32, (False, True, True)),
    "all": (Routing(7, False), 7, (False, False, False)),
}
ROUTERS = {n: launches.router(T, e, D, Quant.F16, r, given, EPS) for n, (r, e, given) in ROUTINGS.items()}
ROPES = {"neox": Rope(16, 1e4), "part": Rope(8, 1e4, start=12), "interleaved": Rope(20, 1e4, interleaved=True)}
NORMS: dict[str, tuple] = {"neox": (EPS,), "part": (None,), "interleaved": (EPS, True)}
HEADS = {n: launches.heads(T, 4, 2, 20, 12, False, r, *NORMS[n]) for n, r in ROPES.items()}
HEADS["biased"] = launches.heads(T, 4, 2, 20, 12, False, None, EPS, biases=True)
HEADS["after"] = launches.heads(T, 4, 2, 20, 12, False, ROPES["part"], EPS, after=True, tempered=True)
HEADS["gated"] = launches.heads(T, 4, 2, 20, 12, False, ROPES["neox"], EPS, value_eps=EPS, q_width=33)
HEADS["wide"] = launches.heads(T, 4, 2, 300, 12, False, ROPES["neox"], EPS, after=True)  # more than a block's threads
LATENTS = {  # heads, ranks, quantisations, half, first elements
    "low rank": (launches.Latent(3, 40, 64, Rope(12, 1e4, True, 64), Quant.Q8_0, EPS, (96, Quant.MXFP4, EPS)), False),
    "given": (launches.Latent(5, 70, 44, Rope(20, 1e4, False, 44), Quant.F16, EPS), True),
}
LATENT_KERNELS = {
    n: launches.latent(T, s, half, launches.Spread(999, 7, 1, 1), launches.Spread(120 + s.rank, 90, 1, 1))
    for n, (s, half) in LATENTS.items()
}
PER_HEAD = {
    q: launches.heads_matvec(T, 3, 37, n, q) for q, n in ((Quant.Q6_K, 512), (Quant.BF16, 44), (Quant.Q4_0, 96))
}
SHAPES = {"grouped": (8, 2, 24, 40), "latent": (6, 1, 40, 36), "alone": (3, 3, 8, 8)}
ATTENTIONS = {
    (n, half): launches.attention(T, *shape, half, 0.3, n == "grouped")
    for n, shape in SHAPES.items()
    for half in (0, 1)
}
GATE = launches.Spread(900, 9, 40, 57)
ATTENTIONS["gated", 0] = launches.attention(T, *SHAPES["grouped"], False, 0.3, gate=GATE)
ATTENTIONS["prompt", 0] = launches.attention(launches.MOST_TOKENS + 1, *SHAPES["grouped"], False, 0.3)
ATTENTIONS["one", 1] = launches.attention(T, *SHAPES["latent"], True, 0.3, one=True)
GROUPED = launches.group(70, A, len(OWNED))
GEMMS = {
    "dense": launches.gemm(70, 96, 130, (Quant.Q8_0,)),
    "odd": launches.gemm(70, 45, 130, (Quant.F16,)),
    "gate and up": launches.gemm(
        70, D, 70, (Quant.Q4_K, Quant.Q6_K), n_owned=4, active=A, share=A, activation=Activation.SILU, biases=True
    ),
    "down": launches.gemm(70, 64, 150, (Quant.MXFP4,), n_owned=4, active=A),
}
DELTA_NETS = {  # with the tokens' slots, and whether a sequence begins with them
    "alone": (DeltaNet(2, 4, 24, 40, 4, 1e-6), [1], [0]),
    "runs": (DeltaNet(2, 6, 9, 33, 3, 1e-6, tiled=True), [3, 0, 0, 0, 1, 5, 5, 5], [0, 1, 0, 0, 0, 0, 0, 0]),
    "begins": (DeltaNet(3, 3, 130, 7, 4, 1e-6), [2, 2], [1, 0]),
}
DELTA_SLOTS = 5  # the sixth is for padding


def delta_places(net: DeltaNet, gated: bool) -> launches.DeltaPlaces:
    """Inside of rows of 500 more: of each key head its values' two small numbers, one kind behind the other; then z."""
    each, row = net.v_heads // net.k_heads, net.channels + 500
    small = [launches.Spread(row, 11 + net.channels + i * each, each, 2 * each) for i in (0, 1)]
    qkv, z = (launches.Spread(row, first, 1, 1) for first in (5, 40 + net.channels))
    return launches.DeltaPlaces(qkv, *small, (z, EPS) if gated else None)


DELTAS = {
    n: launches.delta(len(slots), net, DELTA_SLOTS, delta_places(net, n != "begins"))
    for n, (net, slots, _) in DELTA_NETS.items()
}
EVERYTHING = [GROUPED]
for some in (MATVECS, GATE_UPS, DOWNS, ROUTERS, HEADS, LATENT_KERNELS, PER_HEAD, ATTENTIONS, DELTAS, GEMMS):
    EVERYTHING += some.values()


def test_a_launch_says_what_its_kernel_writes() -> None:
    """All arguments that are not const, but a counter and memory of its own only where the numbers make it use them."""
    for kernel in EVERYTHING:
        arguments = kernel.body.split("NAME(", 1)[1].split(") {", 1)[0].split(",")
        changed = ["const " not in argument for argument in arguments]
        numbers = dict(kernel.defines)
        uses = all(numbers.get(name, 1) for name in ("POST", "RANK"))
        assert changed == [True] * sum(changed) + [False] * (len(arguments) - sum(changed))
        assert kernel.written == (sum(changed) if uses else kernel.outs), kernel.name


def normal(*dims: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *dims]).standard_normal(dims).astype(np.float32)


def planes(*tensors: QuantTensor) -> list[np.ndarray]:
    """Four a tensor, as the kernels take them; copies, so that they are aligned."""
    arrays: list[np.ndarray] = []
    for tensor in tensors:
        kept = [a.copy() for a in planes_of(tensor)[1].values()]
        arrays += [*kept, *[kept[0]] * (4 - len(kept))]
    return arrays


def owned_only(tensor: QuantTensor) -> QuantTensor:
    data = np.concatenate([tensor.part(e).data for e in OWNED])
    return QuantTensor(tensor.name, (len(OWNED), *tensor.dims[1:]), tensor.quant, data)


LOCAL = np.full(E, -1, np.int32)
LOCAL[OWNED] = np.arange(len(OWNED))


def close(got: np.ndarray, want: np.ndarray, tolerance: float = 2e-6) -> None:
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= tolerance * np.abs(want).max(initial=1e-30)


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    return Emulator(EVERYTHING, tmp_path_factory.mktemp("cuda"))


@pytest.mark.parametrize("quant", QUANTS, ids=lambda q: q.name)
def test_one_row_a_group_of_every_format(gpu: Emulator, quant: Quant) -> None:
    w, x, y = random_tensor(quant, (37, 768)), normal(1, 768), np.full((1, 37), np.nan, np.float32)
    gpu.run(MATVECS[quant.name], y, NONE, x, NONE, NONE, NONE, NONE, *planes(w, w, w, w))
    close(y, x @ w.decode().T)


def test_four_matrices_behind_one_norm(gpu: Emulator) -> None:
    tensors = [random_tensor(q, (rows, D), seed=rows) for q, rows in MIXED]
    x, norm, y = normal(2, D), normal(D), np.full((2, 47), np.nan, np.float32)
    gpu.run(MATVECS["four"], y, NONE, x, norm, NONE, NONE, NONE, *planes(*tensors))
    normed = REFERENCE.rms_norm(x, norm, EPS)
    close(y, np.concatenate([normed @ t.decode().T for t in tensors], axis=1))


def test_more_columns_than_are_staged_and_a_residual(gpu: Emulator) -> None:
    w, x, residual = random_tensor(Quant.Q8_0, (9, 4096)), normal(4, 4096), normal(4, 9)
    y = np.full((4, 9), np.nan, np.float32)
    gpu.run(MATVECS["wide"], y, NONE, x, NONE, residual, NONE, NONE, *planes(w, w, w, w))
    close(y, residual + x @ w.decode().T)


def test_columns_of_a_wider_row_that_fill_no_block_of_32_and_a_bias(gpu: Emulator) -> None:
    w, x, norm, residual, bias = random_tensor(Quant.BF16, (9, 44)), normal(2, 97), normal(44), normal(2, 9), normal(9)
    y = np.full((2, 9), np.nan, np.float32)
    gpu.run(MATVECS["part"], y, NONE, x, norm, residual, bias, NONE, *planes(w, w, w, w))
    normed = REFERENCE.rms_norm(np.ascontiguousarray(x[:, 50:94]), norm, EPS)
    close(y, residual + (normed @ w.decode().T + bias))


@pytest.mark.parametrize("name", ["factor", "post"])
def test_what_a_product_is_multiplied_with_and_normed_by(gpu: Emulator, name: str) -> None:
    defines, post = dict(MATVECS[name].defines), name == "post"
    n, rows, counter = defines["T"], defines["R0"], np.zeros(1, np.uint32)
    w, x, residual = random_tensor(Quant.Q8_0, (rows, D)), normal(n, D), normal(n, rows)
    bias, norm, y = normal(rows, seed=1), normal(rows, seed=2), np.full((n, rows), np.nan, np.float32)
    gpu.run(MATVECS[name], y, counter, x, NONE, residual, bias, norm, *planes(w, w, w, w))
    product = x @ w.decode().T
    want = REFERENCE.rms_norm(product + bias, norm, EPS) if post else product
    close(y, residual + defines["FACTOR"] * want)
    assert not counter.any()


@pytest.mark.parametrize("quant", PER_HEAD, ids=lambda q: q.name)
def test_one_matrix_a_head(gpu: Emulator, quant: Quant) -> None:
    cols = dict(PER_HEAD[quant].defines)["COLS"]
    w, x, y = random_tensor(quant, (3, 37, cols)), normal(T, 3 * cols), np.full((T, 3 * 37), np.nan, np.float32)
    gpu.run(PER_HEAD[quant], y, x, *planes(w))
    close(y, REFERENCE.heads_linear(x, w.decode()))


def chosen() -> tuple[np.ndarray, np.ndarray]:
    return np.array([[4, 2], [1, -1], [0, 4]], np.int32), normal(T, A, seed=9)


@pytest.mark.parametrize("name", [*(q.name for q in QUANTS), "biased"])
def test_experts_gate_and_up(gpu: Emulator, name: str) -> None:
    biased = name == "biased"
    gate, up = (random_tensor(Quant.MXFP4 if biased else Quant[name], (E, F, D), seed=s) for s in (1, 2))
    up = random_tensor(Quant.Q8_0, (E, F, D)) if biased else up
    (ids, _), x, norm, (bg, bu) = chosen(), normal(T, D), normal(D, seed=3), normal(2, E, F)
    hidden = np.full((T, A, F), np.nan, np.float32)
    weights = planes(owned_only(gate), owned_only(up))
    gpu.run(GATE_UPS[name], hidden, x, norm, NONE, NONE, ids, LOCAL, *weights, bg, bu, *planes(gate, gate, gate))
    h = x if biased else REFERENCE.rms_norm(x, norm, EPS)
    for t, k in np.ndindex(T, A):
        e = ids[t, k]
        if e not in OWNED:
            assert np.isnan(hidden[t, k]).all()
            continue
        g, u = gate.part(e).decode() @ h[t], up.part(e).decode() @ h[t]
        if biased:
            g, u = g + bg[e], u + bu[e]
        close(hidden[t, k], REFERENCE.activate(g, u, Activation.CLAMPED if biased else Activation.SILU), 5e-6)


def test_what_all_tokens_use_beside_the_experts(gpu: Emulator) -> None:
    """Shared experts of other formats and another width, with their gate's product behind them."""
    gate, up = random_tensor(Quant.Q4_K, (E, F, D), seed=1), random_tensor(Quant.Q6_K, (E, F, D), seed=2)
    others = [
        random_tensor(Quant.Q8_0, (288, D)),
        random_tensor(Quant.BF16, (288, D)),
        random_tensor(Quant.F16, (1, D)),
    ]
    (ids, _), x, norm = chosen(), normal(T, D), normal(D, seed=3)
    hidden = np.full(T * (A * F + 289), np.nan, np.float32)
    weights = planes(owned_only(gate), owned_only(up))
    gpu.run(GATE_UPS["shared"], hidden, x, norm, NONE, NONE, ids, LOCAL, *weights, NONE, NONE, *planes(*others))
    h = REFERENCE.rms_norm(x, norm, EPS)
    routed, shared, by = np.split(hidden, [T * A * F, T * (A * F + 288)])
    g, u, gated_by = (h @ w.decode().T for w in others)
    close(shared.reshape(T, 288), REFERENCE.activate(g, u, Activation.SILU), 5e-6)
    close(by.reshape(T, 1), gated_by, 5e-6)
    for t, k in np.ndindex(T, A):
        if (e := ids[t, k]) in OWNED:
            g, u = gate.part(e).decode() @ h[t], up.part(e).decode() @ h[t]
            close(routed.reshape(T, A, F)[t, k], REFERENCE.activate(g, u, Activation.SILU), 5e-6)


def test_a_dense_block_by_the_experts_kernel(gpu: Emulator) -> None:
    gate, up = random_tensor(Quant.Q8_0, (37, D)), random_tensor(Quant.F32, (37, D))
    x, norm, hidden = normal(T, D), normal(D, seed=3), np.full((T, 37), np.nan, np.float32)
    some = planes(gate, up)
    gpu.run(GATE_UPS["dense"], hidden, x, norm, NONE, NONE, NONE, NONE, *some, NONE, NONE, *some, *planes(gate))
    h = REFERENCE.rms_norm(x, norm, EPS)
    close(hidden, REFERENCE.activate(h @ gate.decode().T, h @ up.decode().T, Activation.GELU), 5e-6)


def test_a_block_behind_a_norm_of_its_own_beside_experts_whose_input_is_scaled(gpu: Emulator) -> None:
    gate, up = random_tensor(Quant.Q8_0, (E, F, D), seed=1), random_tensor(Quant.Q4_K, (E, F, D), seed=2)
    others = random_tensor(Quant.Q8_0, (96, D)), random_tensor(Quant.Q4_0, (96, D))
    ids, x, norm, own, factor = chosen()[0][:, :1].copy(), normal(T, D), normal(D, seed=3), normal(D, seed=4), normal(T)
    hidden, weights = np.full(T * (F + 96), np.nan, np.float32), planes(owned_only(gate), owned_only(up))
    rest = planes(*others, others[0])
    gpu.run(GATE_UPS["own norm"], hidden, x, norm, own, factor, ids, LOCAL, *weights, NONE, NONE, *rest)
    routed, beside = np.split(hidden, [T * F])
    h = REFERENCE.rms_norm(x, own, EPS)
    g, u = (h @ w.decode().T for w in others)
    close(beside.reshape(T, 96), REFERENCE.activate(g, u, Activation.GELU), 5e-6)
    h = REFERENCE.rms_norm(x, norm, EPS) * factor[:, None]
    for t in range(T):
        g, u = gate.part(ids[t, 0]).decode() @ h[t], up.part(ids[t, 0]).decode() @ h[t]
        close(routed.reshape(T, F)[t], REFERENCE.activate(g, u, Activation.GELU), 5e-6)


@pytest.mark.parametrize("name", list(DOWNS))
def test_experts_down_and_their_sum(gpu: Emulator, name: str) -> None:
    formats = {"biased": Quant.MXFP4, "shared": Quant.Q4_K, "normed": Quant.Q8_0}
    added = name in formats
    down, other = random_tensor(formats[name] if added else Quant[name], (E, D, F)), random_tensor(Quant.Q8_0, (D, 288))
    (ids, weights), hidden, residual, bias = chosen(), normal(T, A, F), normal(T, D), normal(E, D)
    beside, by, outer = normal(T, 288), normal(T), normal(T, D, seed=1)
    norms = [normal(D, seed=s) for s in (2, 3, 4)]
    out = np.full((T, D), np.nan, np.float32 if added else np.float64)
    raw, counter = np.full((T, 2, D), np.nan, np.float32), np.zeros(T, np.uint32)
    every = np.concatenate([hidden.reshape(-1), beside.reshape(-1), by])
    some = [*planes(owned_only(down)), bias, *planes(other), *norms, outer]
    gpu.run(DOWNS[name], out, raw, counter, every, ids, weights, LOCAL, residual, *some)
    want = np.zeros((T, D))
    for t, k in np.ndindex(T, A):
        if (e := ids[t, k]) in OWNED:
            product = down.part(e).decode() @ hidden[t, k]
            want[t] += np.float64(weights[t, k]) * (product + bias[e] if name == "biased" else product)
    if not added:
        close(out, want)
        return
    want, block = residual + want.astype(np.float32), beside @ other.decode().T
    if name == "shared":
        want = want + np.float32(0.22) * REFERENCE.gate(block, by[:, None])
    if name == "normed":
        both = REFERENCE.rms_norm(want, norms[0], EPS) + REFERENCE.rms_norm(block, norms[1], EPS)
        want = (outer + REFERENCE.rms_norm(both, norms[2], EPS)) * np.float32(0.75)
    close(out, want)
    assert not counter.any()


@pytest.mark.parametrize("name", list(ROUTERS))
def test_router(gpu: Emulator, name: str) -> None:
    routing, n, given = ROUTINGS[name]
    w, norm, x = random_tensor(Quant.F16, (n, D)), normal(D), normal(T, D)
    x[1] = np.nan  # ids stay in their range
    vectors = [np.abs(normal(n, seed=i)) for i in range(3)]
    ids, weights = np.full((T, routing.n_used), -9, np.int32), np.full((T, routing.n_used), np.nan, np.float32)
    counter, logits = np.zeros(T, np.uint32), np.zeros((T, n), np.float32)
    gpu.run(ROUTERS[name], ids, weights, logits, counter, x, norm, *planes(w), *vectors)
    h = REFERENCE.rms_norm(x, norm, EPS)
    used = RouterVectors(*(v if there else None for v, there in zip(vectors, given)))
    want_ids, want = REFERENCE.router(h, w.decode(), routing, used)
    for t in (0, 2):
        np.testing.assert_array_equal(ids[t], want_ids[t])
        close(weights[t], want[t], 1e-5)
    assert len(set(ids[1])) == len(ids[1])
    assert set(ids[1]) <= set(range(n))
    assert not counter.any()


def angles(rope: Rope, positions: np.ndarray) -> np.ndarray:
    angle = positions[:, None] * rope.frequencies
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


@pytest.mark.parametrize("name", list(LATENTS))
def test_latent_queries_and_the_caches_row(gpu: Emulator, name: str) -> None:
    """Of 3 and 5 heads; q's low rank or q itself, and kv, begin inside of longer rows."""
    shape, half = LATENTS[name]
    h, rank, nope, dim = shape.n_heads, shape.rank, shape.nope, shape.rope.dim
    x, kv, norm, kv_norm = normal(T, 999), normal(T, 120 + rank), normal(96, seed=1), normal(rank, seed=2)
    k_b, q_b = random_tensor(shape.k_b, (h, rank, nope)), random_tensor(Quant.MXFP4, (h * (nope + dim), 96))
    positions, place = np.array([0, 5, 77], np.int32), np.array([7, 0, 3], np.int32)
    q, keys = (
        np.full((T, h * (rank + dim)), np.nan, np.float32),
        np.zeros((9, rank + dim), np.float16 if half else np.float32),
    )
    raw, counter = np.full((T, h * (nope + dim)), np.nan, np.float32), np.zeros((T, h), np.uint32)
    some = planes(q_b, k_b) if shape.q else planes(k_b, k_b)
    turn = angles(shape.rope, positions)
    gpu.run(LATENT_KERNELS[name], q, keys, raw, counter, x, norm, *some, kv, kv_norm, turn, place)

    given = np.ascontiguousarray(x[:, 7 : 7 + (96 if shape.q else h * (nope + dim))])
    query = REFERENCE.rms_norm(given, norm, EPS) @ q_b.decode().T if shape.q else given
    query = REFERENCE.rope(query, nope + dim, positions, shape.rope)
    absorbed = REFERENCE.heads_linear(REFERENCE.columns(query, nope + dim, 0, nope), k_b.decode())
    close(q, REFERENCE.join(absorbed, rank, REFERENCE.columns(query, nope + dim, nope, nope + dim), dim), 5e-6)
    latent = REFERENCE.rms_norm(np.ascontiguousarray(kv[:, 90 : 90 + rank]), kv_norm, EPS)
    rest = np.ascontiguousarray(kv[:, 90 + rank : 90 + rank + dim])
    rest = REFERENCE.rope(rest, dim, positions, replace(shape.rope, start=0))
    close(keys[place].astype(np.float32), np.concatenate([latent, rest], 1), 1e-3 if half else 2e-6)
    assert not keys[[1, 2, 4, 5, 6, 8]].any()
    assert not counter.any()


@pytest.mark.parametrize("name", list(HEADS))
def test_heads(gpu: Emulator, name: str) -> None:
    alike = {"after": "part", "gated": "neox", "wide": "neox"}
    rope, (h, k, m) = ROPES.get(alike.get(name, name)), (4, 2, 12)
    n, width = 300 if name == "wide" else 20, {"gated": 33, "wide": 300}.get(name, 20)
    biases = [normal(w, seed=2) for w in (h * n, k * n, k * m)]
    whole, after = name == "interleaved", name in ("after", "wide")  # whole: a norm over all heads
    qkv, q_norm = normal(T, h * width + k * n + k * m), normal(h * n if whole else n)
    k_norm, v_norm, temper = normal(k * n if whole else n, seed=1), normal(m, seed=3), normal(T, seed=4)
    positions, place = np.array([0, 5, 77], np.int32), np.array([7, 0, 3], np.int32)
    turn = angles(rope, positions) if rope else NONE
    q, keys, values = (np.zeros(dims, np.float32) for dims in ((T, h * n), (9, k * n), (9, k * m)))
    gpu.run(HEADS[name], q, keys, values, qkv, q_norm, k_norm, v_norm, turn, temper, place, *biases)
    want_q, want_k, want_v = np.split(qkv, [h * width, h * width + k * n], axis=1)
    want_q = REFERENCE.columns(want_q, width, 0, n)
    if name == "biased":
        want_q, want_k, want_v = (y + bias for y, bias in zip((want_q, want_k, want_v), biases))
    for step in ("turn", "norm") if after else ("norm", "turn"):
        if step == "turn" and rope:
            want_q, want_k = (REFERENCE.rope(y, n, positions, rope) for y in (want_q, want_k))
        elif step == "norm" and name != "part":
            want_q, want_k = REFERENCE.rms_norm(want_q, q_norm, EPS), REFERENCE.rms_norm(want_k, k_norm, EPS)
    close(q, want_q * temper[:, None] if name == "after" else want_q)
    close(keys[place], want_k)
    close(values[place], REFERENCE.rms_norm(want_v, v_norm, EPS) if name == "gated" else want_v)
    assert not keys[[1, 2, 4, 5, 6, 8]].any()


@pytest.mark.parametrize("name", list(DELTAS))
def test_a_gated_delta_rule(gpu: Emulator, name: str) -> None:
    """One token; sequences of several, one new, one that is padding; and one that begins, with no gate behind it."""
    net, slots, fresh = DELTA_NETS[name]
    n, gated, rng = len(slots), name != "begins", np.random.default_rng(7)
    x = normal(n, net.channels + 500)
    conv, dt, rate = normal(net.channels, net.taps), normal(net.v_heads), -np.abs(normal(net.v_heads, seed=1))
    norm, width = normal(net.v_dim, seed=2), net.v_heads * net.v_dim
    truth = REFERENCE.delta_state(DELTA_SLOTS + 1, net)
    truth.states[:], truth.inputs[:] = (rng.standard_normal(a.shape) for a in (truth.states, truth.inputs))
    states, inputs = truth.states.copy(), truth.inputs.copy()
    out, raw = np.full((2, n, width), np.nan, np.float32)
    counter = np.zeros((n, net.k_heads), np.uint32)
    given = np.array(slots, np.int32), np.array(fresh, np.int32)
    gpu.run(DELTAS[name], out, states, inputs, raw, counter, x, conv, x, x, dt, rate, norm, x, *given)
    real = [t for t in range(n) if slots[t] != DELTA_SLOTS]
    batch = Batch([0] * len(real), [0 if fresh[t] else 9 + t for t in real], [slots[t] for t in real], [])
    c, each = net.channels, net.v_heads // net.k_heads
    small = x[real, 11 + c : 11 + c + 2 * net.v_heads]
    write, keep = (REFERENCE.columns(small, 2 * each, i * each, (i + 1) * each) for i in (0, 1))
    want = REFERENCE.delta_net(x[real, 5 : 5 + c], write, keep, DeltaWeights(conv, dt, rate), truth, batch)
    if gated:
        want = REFERENCE.gate(REFERENCE.rms_norm(want, norm, EPS), x[real, 40 + c : 40 + c + width], "silu")
    close(out[real], want, 2e-5)
    close(states, truth.states, 5e-6)
    np.testing.assert_array_equal(inputs, truth.inputs)
    assert not counter.any()


@pytest.mark.parametrize(("name", "half"), [n for n in ATTENTIONS if n != ("one", 1)])
def test_attention_over_the_cache(gpu: Emulator, name: str, half: int) -> None:
    """One position, a window, and more than all parts' 32 positions each; many tokens read it in one part."""
    gated, kernel = name == "gated", ATTENTIONS[name, half]
    h, k, n, m = SHAPES.get(name, SHAPES["grouped"])
    _, tokens, splits = kernel.grid
    assert splits == dict(kernel.defines)["SPLITS"] == (1 if name == "prompt" else 16)
    context, kept = 700, np.float16 if half else np.float32
    keys, values = normal(2 * context, k * n).astype(kept), normal(2 * context, k * m, seed=1).astype(kept)
    slots, windows = np.resize([1, 0, 1], tokens), np.resize([0, 20, 0], tokens)
    positions = np.resize(np.array([0, 50, 699], np.int32), tokens)
    first = np.array([Span(w).first(int(p)) for p, w in zip(positions, windows)], np.int32)
    q, sinks, gate = normal(tokens, h * n), normal(h), normal(tokens, GATE.row)
    out, parts = (np.full(dims, np.nan, np.float32) for dims in ((tokens, h * m), (tokens, h, splits, m + 2)))
    counter = np.zeros((tokens, h), np.uint32)
    base = (slots * context).astype(np.int32)
    gpu.run(kernel, out, parts, counter, q, keys, values, base, first, positions, sinks, gate)
    for t in range(tokens):
        cache = REFERENCE.kv_cache(2, context, k, n, m, Span(windows[t]))
        cache.keys[:] = keys.reshape(cache.keys.shape)
        cache.values[:] = values.reshape(cache.values.shape)
        row = base[t] + positions[t]
        batch = Batch([0], positions[t : t + 1], slots[t : t + 1], [])
        given = q[t : t + 1], keys[row][None].astype(np.float32), values[row][None].astype(np.float32)
        want = REFERENCE.attention(*given, cache, batch, 0.3, sinks if name == "grouped" else None)
        if gated:
            by = REFERENCE.columns(gate[t : t + 1, GATE.first : GATE.first + h * GATE.width], GATE.width, 0, GATE.group)
            want = REFERENCE.gate(want, by)
        close(out[t], want[0], 5e-6)
    assert not counter.any()


def test_attention_whose_values_are_the_keys_first_elements(gpu: Emulator) -> None:
    h, _, n, m = SHAPES["latent"]
    keys, q = normal(300, n).astype(np.float16), normal(T, h * n)
    base, first, position = (np.array(a, np.int32) for a in ([100, 0, 100], [0, 3, 0], [0, 50, 199]))
    out, parts = (np.full(dims, np.nan, np.float32) for dims in ((T, h * m), (T, h, launches.splits_of(T), m + 2)))
    counter = np.zeros((T, h), np.uint32)
    gpu.run(ATTENTIONS["one", 1], out, parts, counter, q, keys, keys, base, first, position, NONE, NONE)
    for t in range(T):
        seen = keys[base[t] + first[t] : base[t] + position[t] + 1].astype(np.float32)
        odds = np.exp(q[t].reshape(h, n) @ seen.T * 0.3)
        close(out[t], (odds / odds.sum(1, keepdims=True) @ seen[:, :m]).reshape(-1), 1e-5)


def grouped_ids() -> np.ndarray:
    rng = np.random.default_rng(5)
    ids = np.array([rng.permutation(E)[:A] for _ in range(70)], np.int32)
    ids[7] = -1
    ids[20:, 0] = 4  # more than one tile of one expert
    return ids


def test_tiles_hold_every_pair_once_and_one_expert_each(gpu: Emulator) -> None:
    ids = grouped_ids()
    n = launches.n_tiles(70, A, len(OWNED))
    order, tile = np.zeros((n, launches.TILE), np.int32), np.zeros(n, np.int32)
    gpu.run(GROUPED, order, tile, ids, LOCAL)
    found = order[order >= 0]
    assert sorted(found) == [p for p, e in enumerate(ids.reshape(-1)) if e in OWNED]
    for rows, local in zip(order, tile):
        assert {LOCAL[ids.reshape(-1)[p]] for p in rows if p >= 0} <= {local}


def bf16(a: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("name", list(GEMMS))
def test_grouped_product_on_tensor_cores(gpu: Emulator, name: str) -> None:
    kernel, ids = GEMMS[name], grouped_ids()
    n = launches.n_tiles(70, A, len(OWNED))
    order, tile = np.zeros((n, launches.TILE), np.int32), np.zeros(n, np.int32)
    gpu.run(GROUPED, order, tile, ids, LOCAL)
    owned, flat = np.array(OWNED, np.int32), ids.reshape(-1)
    if name in ("dense", "odd"):
        w = random_tensor(*((Quant.Q8_0, (130, 96)) if name == "dense" else (Quant.F16, (130, 45))))
        x = normal(70, w.dims[1])
        y = np.full((70, 130), np.nan, np.float32)
        gpu.run(kernel, y, x, order, tile, *planes(w, w), NONE, NONE, owned)
        close(y, bf16(x) @ bf16(w.decode()).T, 1e-5)
        return
    if name == "down":
        w, x, y = random_tensor(Quant.MXFP4, (E, 150, 64)), normal(140, 64), np.full((140, 150), np.nan, np.float32)
        gpu.run(kernel, y, x, order, tile, *planes(owned_only(w), owned_only(w)), NONE, NONE, owned)
        for p, e in enumerate(flat):
            if e in OWNED:
                close(y[p], bf16(w.part(e).decode()) @ bf16(x[p]), 1e-5)
        return
    gate, up = random_tensor(Quant.Q4_K, (E, 70, D)), random_tensor(Quant.Q6_K, (E, 70, D))
    x, (bg, bu), y = normal(70, D), normal(2, E, 70), np.full((140, 70), np.nan, np.float32)
    gpu.run(kernel, y, x, order, tile, *planes(owned_only(gate), owned_only(up)), bg, bu, owned)
    for p, e in enumerate(flat):
        if e not in OWNED:
            assert np.isnan(y[p]).all()
            continue
        g, u = (bf16(w.part(e).decode()) @ bf16(x[p // A]) + b[e] for w, b in ((gate, bg), (up, bu)))
        close(y[p], REFERENCE.activate(g, u, Activation.SILU), 1e-5)


ARCHITECTURES = ["sm_80", "sm_90", "sm_120"]  # A100, H200, RTX 50


def test_nvcc_compiles_every_kernel(tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not at hand")
    source = tmp_path / "all.cu"
    kinds = (GATE_UPS, DOWNS, ROUTERS, HEADS, ATTENTIONS, LATENT_KERNELS, PER_HEAD)
    one_of_each = [next(iter(some.values())) for some in kinds]
    one_of_each += [GATE_UPS["shared"], DOWNS["shared"], HEADS["biased"], MATVECS["part"], ATTENTIONS["one", 1]]
    one_of_each += [GATE_UPS["own norm"], DOWNS["normed"], HEADS["after"], HEADS["gated"], MATVECS["post"]]
    one_of_each += [DELTAS["alone"], DELTAS["runs"], ATTENTIONS["gated", 0], ATTENTIONS["prompt", 0]]
    formats = [MATVECS[name] for name in ("four", "Q8_0", "Q4_0", "MXFP4", "BF16")]
    source.write_text(head() + together([*formats, *one_of_each, GROUPED, *GEMMS.values()]))
    jobs = {
        arch: subprocess.Popen(
            ["nvcc", "-cubin", f"-arch={arch}", "-Xcicc", "-O1", "-o", tmp_path / f"{arch}.cubin", source],
            stderr=subprocess.PIPE,
            text=True,
        )
        for arch in ARCHITECTURES
    }
    for arch, job in jobs.items():
        _, errors = job.communicate()
        assert job.returncode == 0, f"{arch}: {errors}"
