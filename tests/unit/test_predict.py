"""The cost model: against sums by hand, and properties that any physics has."""

from dataclasses import replace
from itertools import combinations, product
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labs import device, lab, placed, tiny_shape

from motley.errors import CapacityError, FormatError, UsageError
from motley.lab.lab import Kernel, Lab
from motley.lab.placement import LayerPlacement, Placement
from motley.predict.device_cost import DeviceCost, Matrix, WorkingSets
from motley.predict.memory import memory_needed
from motley.predict.predict import predict
from motley.predict.routes import Routes
from motley.predict.spread import traced_draws, uniform_spread
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

TG = Workload.parse("tg64")


# -- workloads


@pytest.mark.parametrize("name", ["pp512", "tg64", "tg64@d1024", "tg16x4", "pp128@d7x2"])
def test_workload_names_read_back(name: str) -> None:
    assert Workload.parse(name).name == name


@pytest.mark.parametrize("name", ["", "tg", "tg0", "xx5", "tg64@", "tg-1", "tg64x0"])
def test_odd_workloads_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Workload.parse(name)


def test_a_prompt_is_processed_in_chunks() -> None:
    assert Workload.parse("pp2048").step_tokens == 512
    assert Workload.parse("pp100").step_tokens == 100
    assert Workload.parse("tg64x4").step_tokens == 4
    assert Workload.parse("tg3@d10").mean_depth == 12  # 11, 12, 13 positions


# -- sums by hand


def test_one_device_by_hand() -> None:
    shape, one = tiny_shape(), lab(device("a"))
    found = predict(shape, one, placed(shape, "a", "a"), TG)
    attention = sum(t.n_bytes for t in shape.tensors if ".attn_" in t.name and "norm" not in t.name)
    kv = 2 * 32.5 * 2 * 2 * 32 * 2  # layers, mean positions, k and v, heads, width, bytes
    by_name = {t.name: t.ms for t in found.terms}
    calls = 2 * (3 * 4 + 6 * 1) / 1e3
    assert by_name["attention"] == pytest.approx(attention / 18e6 + kv / 20e6 + calls)
    assert by_name["experts"] == pytest.approx(2 * (2 * shape.expert_bytes(0) / 18e6 + 4e-3 + 1e-3))
    assert by_name["head"] == pytest.approx((shape.head_bytes - 1024) / 18e6 + 6e-3)
    assert by_name["python"] == pytest.approx(1e-3 + 1.3e-3 * (10 + 2 * 16))
    assert "link" not in by_name
    assert found.ms_per_step == pytest.approx(sum(by_name.values()))
    assert found.p50 == pytest.approx(1e3 / found.ms_per_step)


def test_all_experts_away_pay_one_exchange_a_layer() -> None:
    shape, two = tiny_shape(), lab(device("a"), device("b"), rtt_us=70, gb_s=2)
    near = predict(shape, two, placed(shape, "a", "a"), TG)
    far = predict(shape, two, placed(shape, "a", "b"), TG)
    exchange = 0.070 + (256 * 4 + 2 * 8 + 256 * 8) / 2e6 + 2 * 20e-3  # 20 calls' worth of Python on each side
    assert far.ms_per_step - near.ms_per_step == pytest.approx(2 * exchange)
    assert sum(t.ms for t in far.terms if t.name == "link") == pytest.approx(2 * exchange)


def test_layers_away_pay_one_round_trip_in_all() -> None:
    shape, two = tiny_shape(4), lab(device("a"), device("b"), rtt_us=70, gb_s=2)
    here, there = (LayerPlacement(d, (d,) * 4) for d in "ab")
    whole = predict(shape, two, placed(shape, "a", "a"), TG)
    split = predict(shape, two, Placement((here, here, there, there)), TG)
    hop = 0.070 + (256 * 4 + 512 * 4) / 2e6 + 2 * 20e-3  # activations there, logits back
    assert split.ms_per_step - whole.ms_per_step == pytest.approx(hop)


def test_prefill_is_compute_and_decode_is_bandwidth() -> None:
    shape, one = ModelShape.named("olmoe-1b-7b"), lab(device("a"))
    decode = predict(shape, one, placed(shape, "a", "a"), TG)
    prefill = predict(shape, one, placed(shape, "a", "a"), Workload.parse("pp512"))
    assert {t.limited_by for t in decode.terms if t.name == "experts"} == {"bandwidth"}
    assert {t.limited_by for t in prefill.terms if t.name == "experts"} == {"compute"}
    assert prefill.p50 > decode.p50


def test_a_model_that_stays_in_cache_is_read_from_there() -> None:
    shape = tiny_shape()
    cold = predict(shape, lab(device("a")), placed(shape, "a", "a"), TG)
    curve = ((2**16, 90.0), (2**20, 18.0))
    assert shape.n_bytes > 2**20
    cached = device("a", kernels=tuple(Kernel(q, 600, curve) for q in ("q4_k", "q6_k", "q8_0")))
    warm = predict(shape, lab(cached), placed(shape, "a", "a"), TG)
    assert warm.p50 == pytest.approx(cold.p50)
    wide = device("a", kernels=tuple(Kernel(q, 600, ((2**30, 90.0), (2**31, 18.0))) for q in ("q4_k", "q6_k", "q8_0")))
    assert predict(shape, lab(wide), placed(shape, "a", "a"), TG).p50 > cold.p50


def test_a_precision_that_was_not_measured_costs_like_the_nearest() -> None:
    kernels = (Kernel("q4_k", 600, ((2**14, 18.0),)), Kernel("q8_0", 300, ((2**14, 9.0),)))
    cost = DeviceCost(device("a", kernels=kernels), WorkingSets(2**14, 2**14))
    for tokens in (1, 64):
        unmeasured, nearest = (cost.matrix(Matrix(q, 18_000, 32_000), tokens) for q in ("q4_0", "q4_k"))
        assert unmeasured == nearest
        assert cost.matrix(Matrix("q8_0", 18_000, 32_000), tokens) != nearest


def test_a_precision_without_kernels_costs_what_is_kept_in_its_place() -> None:
    """On a device of Motley's own; others, of which only the bandwidth is known, read what is in the file."""
    sets = WorkingSets(2**14, 2**14)
    ours, other = DeviceCost(device("a"), sets), DeviceCost(device("a", kernels=()), sets)
    for tokens in (1, 64):
        iq3_s, q3_k = (Matrix(quant, 110_000, 256_000) for quant in ("iq3_s", "q3_k"))
        assert ours.matrix(iq3_s, tokens) == ours.matrix(Matrix("q8_0", 288_000, 256_000), tokens)
        assert ours.matrix(q3_k, tokens) == ours.matrix(Matrix("q6_k", 212_000, 256_000), tokens)
    assert other.matrix(iq3_s, 1) == other.matrix(Matrix("q8_0", 110_000, 256_000), 1)


def test_a_kernel_at_its_best_rate_is_limited_by_arithmetic() -> None:
    shape = ModelShape.named("olmoe-1b-7b")
    steady = device("a", kernels=tuple(Kernel(q, 600, ((2**20, 18.0), (2**40, 17.0))) for q in ("q4_k", "q6_k")))
    found = predict(shape, lab(steady), placed(shape, "a", "a"), TG)
    assert {t.limited_by for t in found.terms if t.name == "experts"} == {"compute"}


# -- how experts fall


def test_the_spread_of_one_token_is_exact() -> None:
    """Against every one of the C(8, 3) choices."""
    owner = [0, 0, 0, 1, 1, 2, 2, 2]
    found = uniform_spread((3, 2, 3), 3, 1)
    exact: dict[tuple[int, ...], float] = {}
    for chosen in combinations(range(8), 3):
        case = tuple(sum(owner[e] == d for e in chosen) for d in range(3))
        exact[case] = exact.get(case, 0) + 1 / comb(8, 3)
    got = {tuple(int(x) for x in case): w for case, w in zip(found.distinct, found.weight)}
    assert got == pytest.approx(exact)


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(lambda c: sum(c) >= 3),
    n_used=st.integers(1, 3),
    tokens=st.sampled_from([1, 2, 7, 63, 64, 512]),
)
@settings(deadline=None)
def test_spreads_add_up(counts: list[int], n_used: int, tokens: int) -> None:
    spread = uniform_spread(tuple(counts), n_used, tokens)
    assert spread.weight.sum() == pytest.approx(1)
    assert np.allclose(spread.pairs.sum(1), tokens * n_used)
    assert (spread.distinct <= np.array(counts) + 1e-9).all()
    assert (spread.distinct <= spread.pairs + 1e-9).all()
    assert spread.weight @ spread.pairs == pytest.approx(
        tokens * n_used * np.array(counts) / sum(counts), rel=0.25, abs=0.1 * tokens
    )


def test_a_layer_waits_for_the_slowest_case_not_for_the_mean() -> None:
    """Top-2 of 4 split two and two: 1 + 1 in 4 of 6 cases, 2 + 0 in the others."""
    quiet = [device(name, op_overhead_us=0, call_us=0) for name in "ab"]
    shape, two = tiny_shape(1), lab(*quiet, rtt_us=0, gb_s=1e6)
    found = predict(shape, two, placed(shape, "a", "a", "b"), TG)
    experts = sum(t.ms for t in found.terms if t.name == "experts")
    one = shape.expert_bytes(0) / 18e6
    assert experts == pytest.approx(one * (1 * 4 / 6 + 2 * 2 / 6), rel=1e-4)


def test_a_trace_decides_where_it_is_given() -> None:
    shape, two = tiny_shape(), lab(device("a"), device("b"), rtt_us=500)
    always = Routes(np.tile(np.array([0, 2], np.int32), (50, 2, 1)), 4)
    placement = placed(shape, "a", "a", "b")  # a holds 0 and 2
    blind, seeing = predict(shape, two, placement, TG), predict(shape, two, placement, TG, always)
    assert seeing.share("link") == 0
    assert blind.share("link") > 0
    assert seeing.p50 > blind.p50


@pytest.mark.parametrize("tokens", [1, 5, 200])
@pytest.mark.parametrize("run", [True, False])
def test_traced_spreads_count_what_is_there(tokens: int, run: bool) -> None:
    rng = np.random.default_rng(1)
    chosen = np.array([rng.permutation(6)[:2] for _ in range(30)], np.int32)
    owner = np.array([0, 0, 1, 1, 2, 2])
    spread = traced_draws(chosen, 6, tokens, run).on(owner, 3)
    assert np.allclose(spread.pairs.sum(1), tokens * 2)
    assert (spread.distinct <= 2).all()
    if tokens == 1:
        mean = np.array([(owner[chosen] == d).sum() for d in range(3)]) / 30
        assert spread.weight @ spread.pairs == pytest.approx(mean)


# -- traces as files


def test_traces_read_back(tmp_path: Path) -> None:
    routes = Routes(np.arange(24, dtype=np.int32).reshape(4, 3, 2) % 8, 8)
    routes.save(tmp_path / "t.npz")
    again = Routes.load(tmp_path / "t.npz")
    assert again.n_experts == 8
    assert (again.chosen == routes.chosen).all()
    assert again.popularity(0).sum() == pytest.approx(2)


def test_odd_traces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        Routes.load(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("not a zip")
    with pytest.raises(FormatError):
        Routes.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(FormatError, match="n_experts"):
        Routes.load(tmp_path / "other.npz")
    np.savez(tmp_path / "flat.npz", experts=np.zeros((3, 4)), n_experts=8)
    with pytest.raises(FormatError, match="layers, tokens"):
        Routes.load(tmp_path / "flat.npz")
    with pytest.raises(FormatError, match="names experts"):
        Routes(np.full((2, 2, 2), 8), 8)
    with pytest.raises(FormatError, match="tokens, layers"):
        Routes(np.zeros((2, 2), np.int32), 8)


def test_another_models_trace_is_refused() -> None:
    shape = tiny_shape()
    with pytest.raises(UsageError, match="route trace"):
        predict(shape, lab(device("a")), placed(shape, "a", "a"), TG, Routes(np.zeros((5, 2, 3), np.int32), 4))


# -- refusals


def test_what_does_not_fit_is_said_not_predicted() -> None:
    shape = ModelShape.named("olmoe-1b-7b")
    with pytest.raises(CapacityError, match=r"a needs .* has 1 GB: .* missing"):
        predict(shape, lab(device("a", memory=1e9)), placed(shape, "a", "a"), TG)


def test_a_placement_must_match_shape_and_lab() -> None:
    shape, two = tiny_shape(), lab(device("a"), device("b"))
    with pytest.raises(UsageError, match="layers"):
        predict(shape, two, Placement(placed(shape, "a", "a").layers[:1]), TG)
    with pytest.raises(UsageError, match="experts of"):
        predict(shape, two, Placement((LayerPlacement("a", ("a",) * 3),) * 2), TG)
    with pytest.raises(UsageError, match="zebra"):
        predict(shape, two, placed(shape, "zebra", "a"), TG)


def test_memory_by_hand() -> None:
    shape = tiny_shape(2)
    needs = memory_needed(shape, placed(shape, "a", "a", "b"), context=100, slots=3, step_tokens=1)
    experts = 2 * 2 * shape.expert_bytes(0)
    assert needs["b"].weights == experts
    assert needs["b"].kv == 0
    assert needs["a"].weights + needs["b"].weights == shape.n_bytes
    assert needs["a"].kv == 100 * 3 * shape.kv_bytes_per_token()


# -- properties

speeds = st.floats(0.1, 10)
workloads = st.sampled_from([Workload.parse(n) for n in ("tg64", "tg8@d500", "tg16x5", "pp128", "pp600x2")])


def drawn(shape: ModelShape, homes: list[str], owners: list[list[str]]) -> Placement:
    return Placement(tuple(LayerPlacement(h, tuple(o)) for h, o in zip(homes, owners)))


placements = st.tuples(
    st.lists(st.sampled_from("ab"), min_size=2, max_size=2),
    st.lists(st.lists(st.sampled_from("ab"), min_size=4, max_size=4), min_size=2, max_size=2),
)


@given(placements, workloads, speeds, speeds, st.floats(1, 5), st.sampled_from(["a", "b", "link", "rtt", "kernel"]))
@settings(deadline=None)
def test_better_hardware_never_predicts_slower(
    drawn_placement: tuple[list[str], list[list[str]]],
    workload: Workload,
    speed_a: float,
    speed_b: float,
    gain: float,
    what: str,
) -> None:
    shape = tiny_shape()
    placement = drawn(shape, *drawn_placement)
    a, b, link = device("a", speed=speed_a), device("b", speed=speed_b), 1.0
    rtt = 50.0
    before = predict(shape, lab(a, b, rtt_us=rtt, gb_s=link), placement, workload)
    if what == "a":
        a = replace(a, read_gb_s=a.read_gb_s * gain, f32_gflops=a.f32_gflops * gain)
    elif what == "b":
        b = replace(b, kernels=())  # then its read bandwidth counts
        before = predict(shape, lab(a, b, rtt_us=rtt, gb_s=link), placement, workload)
        b = replace(b, read_gb_s=b.read_gb_s * gain)
    elif what == "kernel":
        a = replace(a, kernels=tuple(replace(k, matvec=tuple((n, r * gain) for n, r in k.matvec)) for k in a.kernels))
    elif what == "link":
        link *= gain
    else:
        rtt /= gain
    after = predict(shape, lab(a, b, rtt_us=rtt, gb_s=link), placement, workload)
    assert after.p50 >= before.p50 * (1 - 1e-9)


@given(placements, workloads, speeds)
@settings(deadline=None)
def test_predictions_are_ordered_and_terms_add_up(
    drawn_placement: tuple[list[str], list[list[str]]], workload: Workload, speed: float
) -> None:
    shape = tiny_shape()
    found = predict(shape, lab(device("a"), device("b", speed=speed)), drawn(shape, *drawn_placement), workload)
    assert 0 < found.p10 <= found.p50 <= found.p90
    assert sum(t.ms for t in found.terms) == pytest.approx(found.ms_per_step)
    assert found.p50 == pytest.approx(workload.step_tokens / found.ms_per_step * 1e3)
    assert all(t.ms >= 0 for t in found.terms)
    assert {t.name for t in found.terms} <= {"attention", "router", "experts", "link", "head", "python"}


@given(placements, workloads)
@settings(deadline=None)
def test_equal_devices_may_change_names(drawn_placement: tuple[list[str], list[list[str]]], workload: Workload) -> None:
    shape, two = tiny_shape(), lab(device("a"), device("b"))
    homes, owners = drawn_placement
    other = {"a": "b", "b": "a"}
    swapped = [other[h] for h in homes], [[other[d] for d in row] for row in owners]
    first = predict(shape, two, drawn(shape, homes, owners), workload)
    second = predict(shape, two, drawn(shape, *swapped), workload)
    assert first.p50 == pytest.approx(second.p50, rel=1e-6)


@pytest.mark.parametrize(("name", "at_depth"), list(product(["tg64", "pp64"], [100, 4000])))
def test_depth_costs(name: str, at_depth: int) -> None:
    shape, one = tiny_shape(), lab(device("a"))
    shallow = predict(shape, one, placed(shape, "a", "a"), Workload.parse(name))
    deep = predict(shape, one, placed(shape, "a", "a"), Workload.parse(name, depth=at_depth))
    assert deep.p50 < shallow.p50


def test_catalogue_figures_widen_the_interval() -> None:
    shape = tiny_shape()
    placement = placed(shape, "a", "a")
    measured = predict(shape, lab(device("a")), placement, TG)
    vendor = predict(shape, Lab((device("a", source="https://vendor.example/sheet"),)), placement, TG)
    assert vendor.p90 / vendor.p10 > measured.p90 / measured.p10
