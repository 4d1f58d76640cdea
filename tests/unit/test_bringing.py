"""Bringing experts to a home for large steps: what it costs, what memory it takes, and when the planner does it."""

from dataclasses import replace

import numpy as np
import pytest
from labs import device, placed

from motley.cluster import assignment
from motley.errors import CapacityError, UsageError
from motley.lab.lab import Lab, Link
from motley.lab.placement import LayerPlacement, Placement, Streaming
from motley.lab.toml import parse_lab
from motley.plan.plan import Plan
from motley.plan.search import find_placement
from motley.plan.show import placement_json
from motley.plan.streaming import _sizes, reserved
from motley.predict.cost import CostModel
from motley.predict.device_cost import Cost
from motley.predict.explain import explain
from motley.predict.memory import at_once, kept_as_stored, memory_needed, streaming_bytes
from motley.predict.predict import predict
from motley.predict.routes import Routes
from motley.predict.streaming import MOST_REMEMBERED_TOKENS, nearby, waited_for
from motley.predict.workload import STEP_TOKENS, Workload
from motley.shape.model import ModelShape

OLMOE = ModelShape.named("olmoe-1b-7b", "q4_k")
OLMOE_4 = OLMOE.with_layers(4)  # whose searches among three devices end by themselves
PP, TG = Workload.parse("pp512"), Workload.parse("tg64")


def card(upload_gb_s: float, memory: float = 24e9, **changes: object) -> Lab:
    """A graphics card and a slow processor in one machine."""
    gpu = device("box", memory, speed=40, kind="cuda", step_us=50.0, kernels=(), upload_gb_s=upload_gb_s, **changes)
    cpu = device("box.cpu", node="box")
    return Lab((gpu, cpu), (Link("box", "box.cpu", "memory", 20.0, 10.0),))


def brought(shape: ModelShape, tokens: int = 64, holder: str = "box.cpu") -> Placement:
    layers = placed(shape, "box", holder).layers
    n = at_once(shape, 0)
    return Placement(tuple(replace(layer, streaming=Streaming((holder,), tokens, n)) for layer in layers))


def test_a_sum_by_hand() -> None:
    """Every expert of a layer is brought at the card's rate, which takes longer than multiplying by it."""
    lab, shape = card(10.0), OLMOE
    asked, found = (predict(shape, lab, p, PP) for p in (placed(shape, "box", "box.cpu"), brought(shape)))
    (upload,) = [t for t in found.terms if t.name == "upload"]
    size = sum(shape.expert_bytes(i) * shape.n_experts for i in range(shape.n_layers))
    assert upload.ms == pytest.approx(size / 10e9 * 1e3, rel=1e-3)
    assert (upload.device, upload.limited_by) == ("box", "bandwidth")
    assert not [t for t in found.terms if t.device == "box.cpu"]
    (experts,) = [t.ms for t in found.terms if t.name == "experts"]
    assert experts < upload.ms
    assert found.p50 > asked.p50


def test_only_steps_with_the_tokens_bring_anything() -> None:
    lab = card(10.0)
    for name, uploads in (("tg64", False), ("tg64x63", False), ("tg64x64", True), ("pp63", False), ("pp64", True)):
        workload = Workload.parse(name)
        found = predict(OLMOE, lab, brought(OLMOE), workload)
        assert any(t.name == "upload" for t in found.terms) == uploads
        if not uploads:
            assert found.terms == predict(OLMOE, lab, placed(OLMOE, "box", "box.cpu"), workload).terms


@pytest.mark.parametrize("behind", [True, False])
def test_work_hides_behind_bringing_and_the_other_way_round(behind: bool) -> None:
    for work, upload in ((2.0, 8.0), (8.0, 2.0), (0.0, 3.0)):
        found = sum(c.ms for c in waited_for(Cost(compute=work), Cost(bandwidth=upload), 4, behind))
        assert found == (max(work, upload) + min(work, upload) / 4 if behind else work + upload)


@pytest.mark.parametrize("upload_gb_s", [10.0, 1000.0])
@pytest.mark.parametrize("name", ["pp512", "pp2000", "tg64x100"])
def test_the_lines_add_up(upload_gb_s: float, name: str) -> None:
    lab, workload = card(upload_gb_s), Workload.parse(name)
    found, want = (f(OLMOE, lab, brought(OLMOE), workload) for f in (explain, predict))
    assert sum(line.ms for line in found.lines) == pytest.approx(want.ms_per_step, rel=1e-9)
    assert not [line for line in found.lines if line.what == "other"]
    (line,) = [line for line in found.lines if line.term == "upload"]
    assert line.figure == "upload_gb_s"
    assert line.n_bytes / line.ms / 1e6 == pytest.approx(upload_gb_s)


def test_the_plan_flips_where_arithmetic_says() -> None:
    """A layer of 64 experts takes the processor some time for 512 tokens: an upload that is a little faster pays."""
    shape, asked = OLMOE, predict(OLMOE, card(0.0), placed(OLMOE, "box", "box.cpu"), PP)
    a_layer = sum(t.ms for t in asked.terms if t.device == "box.cpu") / shape.n_layers
    equal = shape.expert_bytes(0) * shape.n_experts / a_layer / 1e6  # GB/s
    for factor, streams in ((0.8, False), (1.3, True), (0.0, False)):
        plan = planned(shape, card(equal * factor, memory=1.2e9), PP)
        spread = [layer for layer in plan.placement.layers if "box.cpu" in layer.experts]
        assert spread
        assert all(bool(layer.streaming) == streams for layer in spread)
        assert any("bring the experts of box.cpu to box" in reason for reason in plan.reason) == streams


def test_a_card_with_room_for_attention_only_is_used_all_the_same() -> None:
    plan = planned(OLMOE.with_layers(4), card(20.0, memory=5e8), TG)
    assert not any(layer.streaming for layer in plan.placement.layers)
    assert any("box lacks" in reason for reason in plan.reason)


def planned(shape: ModelShape, lab: Lab, workload: Workload, **more: object) -> Plan:
    return find_placement(shape, lab, workload, context=1024, head="box", homes=["box"], **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("workload", [PP, TG], ids=["pp", "tg"])
def test_a_plan_for_either_keeps_room_and_streams(workload: Workload) -> None:
    """What fills the card with experts leaves room for the buffers; the threshold is where bringing begins to pay."""
    lab = card(20.0, memory=2e9)
    plan = planned(OLMOE, lab, workload)
    streamed = [layer.streaming for layer in plan.placement.layers if layer.streaming]
    assert streamed
    assert memory_needed(OLMOE, plan.placement, 1024)["box"].total <= 2e9
    least = streamed[0].tokens
    for tokens in (32, 64, 128, 256, 512):
        of_size = Workload("prefill", tokens, chunk=tokens)
        with_, without = (predict(OLMOE, lab, p, of_size).p50 for p in (plan.placement, unstreamed(plan.placement)))
        assert with_ > without if tokens >= least else with_ == without
    assert placement_json(plan.placement)["layers"][-1].get("streaming") or not plan.placement.layers[-1].streaming


def unstreamed(placement: Placement) -> Placement:
    return replace(placement, layers=tuple(replace(layer, streaming=None) for layer in placement.layers))


def test_a_card_that_holds_all_keeps_nothing_free() -> None:
    """Its memory is taken to the last expert, as without."""
    need = memory_needed(OLMOE, placed(OLMOE, "box", "box"), 1024)["box"].total
    plan = planned(OLMOE, card(20.0, memory=need * 1.06), TG)
    assert {*plan.placement.layers[0].experts} == {"box"}


def test_no_room_on_either_side_is_said() -> None:
    lab = card(20.0, memory=2e9)
    full = planned(OLMOE, lab, TG)
    held = memory_needed(OLMOE, full.placement, 1024)["box.cpu"].total
    small = Lab((lab.devices[0], replace(lab.devices[1], memory_bytes=int(held * 1.3))), lab.links)
    plan = planned(OLMOE, small, TG)
    assert not any(layer.streaming for layer in plan.placement.layers)
    assert any("--no-repack" in reason and "not brought to box" in reason for reason in plan.reason)
    assert any(layer.streaming for layer in planned(OLMOE, small, TG, repack=False).placement.layers)


@pytest.mark.parametrize(
    ("gpu_gb", "cpu_gb", "upload_gb_s", "workload", "brings"),
    [
        (0.8, 1.4, 20.0, "pp512", False),  # the processor has no room for the file's bytes
        (0.475, 1.2, 20.0, "pp512", False),  # the card has none for the buffers
        (0.8, 64, 20.0, "pp512", True),
        (0.8, 64, 4.0, "pp512", False),  # the room holds more experts than is gained by bringing others
        (0.8, 64, 10.0, "tg64", False),  # nothing is brought, as another machine's processor has a part
    ],
)
def test_a_plan_is_no_worse_for_what_it_could_bring(
    gpu_gb: float, cpu_gb: float, upload_gb_s: float, workload: str, brings: bool
) -> None:
    found, without = (
        planned(OLMOE_4, with_far(gpu_gb, cpu_gb, rate, kernels=()), Workload.parse(workload), seconds=60)
        for rate in (upload_gb_s, 0.0)
    )
    assert found.prediction.p50 >= without.prediction.p50 * 0.9999
    assert bool(streamed_in(found)) == brings
    assert any("not brought" in reason for reason in found.reason) == (cpu_gb == 1.4)  # and why


def test_copies_do_not_stand_in_the_way_of_bringing() -> None:
    """A layer whose experts have copies brings none: only where that is faster than bringing them."""
    lab = with_far(0.8, 64, 12.0, kernels=())
    found, without = (planned(OLMOE_4, lab, PP, seconds=60, copies=copies) for copies in (True, False))
    assert found.prediction.p50 >= without.prediction.p50


def streamed_in(plan: Plan) -> list[Streaming]:
    return [layer.streaming for layer in plan.placement.layers if layer.streaming]


def test_buffers_are_a_bounded_part() -> None:
    for shape in (OLMOE, ModelShape.named("qwen3-30b-a3b", "q8_0"), ModelShape.named("deepseek-v3", "q4_k")):
        layer = shape.n_layers - 1
        n = at_once(shape, layer)
        assert -(-shape.n_experts // n) <= 8
        buffers = streaming_bytes(shape, {layer: (n, shape.n_experts)}, STEP_TOKENS)
        assert n * shape.expert_bytes(layer) * 2 < buffers < shape.expert_bytes(layer) * shape.n_experts + 3 * 2**26
    need, plain = (memory_needed(OLMOE, p, 512)["box"] for p in (brought(OLMOE), unstreamed(brought(OLMOE))))
    assert need.work > plain.work
    with pytest.raises(CapacityError):
        predict(OLMOE, card(10.0, memory=need.total - 1), brought(OLMOE), Workload("prefill", 512, chunk=512))


def test_only_neighbours_in_the_machines_memory() -> None:
    gpu, cpu = card(10.0).devices
    far = replace(cpu, name="far", node="far")
    lab = Lab((gpu, cpu, far, replace(gpu, name="box.cuda2")), (Link("*", "*", "tcp", 50.0, 1.0),))
    assert nearby(OLMOE, lab) == [{1}, set(), set(), {1}]
    assert reserved(CostModel(OLMOE, lab, TG)).keys() == {0, 3}
    assert reserved(CostModel(OLMOE, card(0.0), TG)) == {}


def with_far(gpu_gb: float, cpu_gb: float, upload_gb_s: float, **gpu: object) -> Lab:
    """A graphics card and its processor, and another machine of such a processor."""
    card = device("box", gpu_gb * 1e9, speed=40, kind="cuda", step_us=50.0, upload_gb_s=upload_gb_s, **gpu)
    devices = card, device("box.cpu", cpu_gb * 1e9, node="box"), device("far")
    return Lab(devices, (Link("box", "box.cpu", "memory", 20.0, 10.0), Link("far", "*", "tcp", 50.0, 1.0)))


def test_tinygrad_brings_what_it_keeps_as_the_file_has_it() -> None:
    """A plan does not count on bringing what it decodes: it is the one of a card that brings nothing."""
    iq = ModelShape.named("olmoe-1b-7b", "iq4_xs").with_layers(4)
    assert kept_as_stored(OLMOE, "tinygrad")
    assert kept_as_stored(iq, "mlx")
    known, unknown = (with_far(2.8, 64, rate) for rate in (20.0, 0.0))
    found, want = (planned(iq, lab, PP, seconds=60) for lab in (known, unknown))
    assert {*found.placement.layers[-1].experts} == {"box", "box.cpu", "far"}
    assert found.placement == want.placement
    assert found.prediction.p50 == pytest.approx(want.prediction.p50)
    assert nearby(OLMOE, known) == [{1}, set(), set()]
    assert nearby(iq, known) == [set()] * 3


GEMMA_4 = ModelShape.named("gemma-4-26b-a4b").with_layers(4)


@pytest.mark.parametrize(
    ("shape", "gpu_gb"),
    [(replace(OLMOE_4, assembled=True), 0.8), (GEMMA_4, 2.2)],
    ids=["a folder's", "gate and up in one"],
)
def test_what_a_file_does_not_have_as_it_is_used_is_not_brought(shape: ModelShape, gpu_gb: float) -> None:
    """Experts that have to be put together, and gate and up in one."""
    known, unknown = (with_far(gpu_gb, 64, rate, kernels=()) for rate in (20.0, 0.0))
    assert not shape.experts_at_hand
    assert nearby(shape, known) == [set()] * 3
    found, want = (planned(shape, lab, PP, seconds=60) for lab in (known, unknown))
    assert found.placement == want.placement
    assert {*found.placement.layers[-1].experts} >= {"box.cpu", "far"}


def test_a_trace_is_priced_too() -> None:
    rng = np.random.default_rng(0)
    chosen = np.argsort(rng.random((600, OLMOE.n_layers, OLMOE.n_experts)), axis=2)[:, :, : OLMOE.n_experts_used]
    routes = Routes(chosen.astype(np.int32), OLMOE.n_experts)
    with_, without = (
        predict(OLMOE, card(20.0), p, PP, routes).p50 for p in (brought(OLMOE), placed(OLMOE, "box", "box.cpu"))
    )
    assert with_ > without


@pytest.mark.parametrize(
    ("streaming", "upload_gb_s", "why"),
    [
        (Streaming(("box",), 64, 8), 10.0, "other holders"),
        (Streaming(("elsewhere",), 64, 8), 10.0, "other holders"),
        (Streaming(("box.cpu",), 64, 0), 10.0, "other holders"),
        (Streaming(("far",), 64, 8), 10.0, "far to box: it may bring those of its node's processors"),
        (Streaming(("box.cpu",), 64, 8), 0.0, "its upload_gb_s is known"),
        (Streaming(("box.cpu",), 16, 8), 10.0, "more than 16"),
    ],
)
def test_what_cannot_be_brought_is_refused(streaming: Streaming, upload_gb_s: float, why: str) -> None:
    layers, there = placed(OLMOE, "box", "box.cpu", "far").layers, with_far(24, 64, upload_gb_s)
    placement = Placement(tuple(replace(layer, streaming=streaming) for layer in layers))
    for workload in (PP, TG):  # whether the workload would bring any or not
        with pytest.raises(UsageError, match=why):
            predict(OLMOE, there, placement, workload)


def test_steps_that_may_run_from_memory_are_as_small_for_nodes() -> None:
    assert MOST_REMEMBERED_TOKENS == assignment.MOST_REMEMBERED_TOKENS


def test_the_figure_is_in_the_file() -> None:
    text = card(12.5).dumps()
    assert parse_lab(text)[0] == card(12.5).devices
    assert "upload_gb_s" not in card(0.0).dumps()  # not known


def test_a_placement_without_says_so() -> None:
    assert LayerPlacement("a", ("a",)).streaming is None
    assert "streaming" not in placement_json(placed(OLMOE, "box", "box.cpu"))["layers"][0]


def test_larger_steps_stream_where_smaller_ones_do_not() -> None:
    """A prompt's bytes are brought once a step. What is brought pays from a size on that the step reaches."""
    asked = predict(OLMOE, card(0.0), placed(OLMOE, "box", "box.cpu"), PP)
    a_layer = sum(t.ms for t in asked.terms if t.device == "box.cpu") / OLMOE.n_layers
    slow = card(0.6 * OLMOE.expert_bytes(0) * OLMOE.n_experts / a_layer / 1e6, memory=2e9)
    for chunk, streams in ((16, False), (100, False), (512, False), (2048, True), (3000, True)):
        plan = planned(OLMOE, slow, Workload("prefill", 3000, chunk=chunk))
        found = [layer.streaming.tokens for layer in plan.placement.layers if layer.streaming]
        assert bool(found) == streams
        assert all(512 < tokens <= chunk for tokens in found)
        assert any(f"of {chunk:,} tokens such a layer takes" in reason for reason in plan.reason) == streams
        assert memory_needed(OLMOE, plan.placement, 1024, step_tokens=chunk)["box"].total <= 2e9


def test_the_largest_step_is_looked_at_though_no_power_of_two() -> None:
    plan = planned(OLMOE, card(20.0, memory=2e9), Workload("prefill", 512, chunk=45))
    assert {found.tokens for found in streamed_in(plan)} == {32}
    assert [_sizes(chunk) for chunk in (31, 32, 45, 64, 100)] == [[], [32], [32, 45], [32, 64], [32, 64, 100]]
    assert reserved(CostModel(OLMOE, card(1000.0), Workload(chunk=31))) == {}
    assert reserved(CostModel(OLMOE, card(1000.0), Workload(chunk=32))).keys() == {0}


def test_larger_steps_take_more_memory() -> None:
    needs = [memory_needed(OLMOE, brought(OLMOE), 512, step_tokens=n) for n in (1, 512, 2048, 8192)]
    for name in ("box", "box.cpu"):
        work = [need[name].work for need in needs]
        assert work == sorted(set(work))
    small, large = (needs[i]["box"].total for i in (1, 2))
    lab = card(10.0, memory=(small + large) / 2)
    predict(OLMOE, lab, brought(OLMOE), Workload("prefill", 512))
    with pytest.raises(CapacityError, match="box needs"):
        predict(OLMOE, lab, brought(OLMOE), Workload("prefill", 512, chunk=2048))
