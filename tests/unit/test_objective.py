"""Objectives: which steps they count, and that they change what is planned."""

import pytest
from labs import device, lab

from motley.errors import UsageError
from motley.plan.objective import Objective
from motley.plan.search import find_placement
from motley.plan.whatif import Question
from motley.predict.predict import predict
from motley.predict.workload import Workload
from motley.shape.model import ModelShape


def parts(objective: Objective) -> list[tuple[str, float]]:
    return [(w.name, steps) for w, steps in objective.parts]


def test_a_workload_says_what_it_is_about() -> None:
    assert Objective.parse("tg64").name == "decode"
    assert Objective.parse("tg64x4").name == "throughput"
    assert Objective.parse("pp512").name == "ttft"
    assert parts(Objective.parse("tg64", batch=4)) == [("tg64x4", 1)]


def test_time_to_first_token_is_the_prompt_and_a_step() -> None:
    assert parts(Objective.parse("pp1200", "ttft")) == [("pp1200", 1200 / 512), ("tg1@d1200", 1)]
    assert parts(Objective.parse("tg64", "ttft", prompt=100)) == [("pp100", 1), ("tg1@d100", 1)]
    assert parts(Objective.parse("tg64@d100", "ttft")) == [("pp100", 1), ("tg1@d100", 1)]


def test_throughput_has_a_batch_and_decode_a_depth() -> None:
    assert parts(Objective.parse("tg64", "throughput")) == [("tg64x8", 1)]
    assert parts(Objective.parse("tg64x3", "throughput")) == [("tg64x3", 1)]
    assert parts(Objective.parse("pp512", "decode")) == [("tg64@d512", 1)]


def test_a_sum_is_one_request() -> None:
    assert parts(Objective.parse("pp600x2+tg64")) == [("pp600x2", 1200 / 512), ("tg64", 64)]
    with pytest.raises(UsageError, match="by itself"):
        Objective.parse("pp512+tg64", "ttft")
    with pytest.raises(UsageError, match="choose decode, throughput, ttft"):
        Objective.of(Workload(), "speed")


def test_the_objective_decides() -> None:
    """A device that reads fast but computes slowly is for tokens one by one; its opposite for prompts."""
    reader = device("reader", int8_gops=200, f32_gflops=20, read_gb_s=200, kernels=())
    computer = device("computer", int8_gops=40_000, f32_gflops=4000, read_gb_s=20, kernels=())
    shape, where = ModelShape.named("olmoe-1b-7b"), lab(reader, computer, rtt_us=20_000)
    tokens = find_placement(shape, where, Workload.parse("tg64"), objective="decode")
    first = find_placement(shape, where, Workload.parse("pp512"), objective="ttft")
    assert {layer.home for layer in tokens.placement.layers} == {"reader"}
    assert {layer.home for layer in first.placement.layers} == {"computer"}
    mostly_tokens = find_placement(shape, where, objective=Objective.parse("pp8+tg512"))
    assert {layer.home for layer in mostly_tokens.placement.layers} == {"reader"}


def test_a_plan_says_how_long_its_objective_takes() -> None:
    shape, where = ModelShape.named("olmoe-1b-7b"), lab(device("a"))
    plan = find_placement(shape, where, Workload.parse("pp1024"), objective="ttft")
    prompt, token = (predict(shape, where, plan.placement, w) for w, _ in plan.objective.parts)
    low, middle, high = plan.seconds
    assert middle == pytest.approx(2 * prompt.ms_per_step / 1e3 + token.ms_per_step / 1e3)
    assert low < middle < high
    assert plan.prediction.workload.name == "pp1024"


@pytest.mark.parametrize("name", [None, "decode", "throughput", "ttft"])
@pytest.mark.parametrize("workload", ["pp3000", "tg64", "pp3000+tg64"])
def test_every_part_keeps_the_steps_size(workload: str, name: str | None) -> None:
    if "+" in workload and name:
        return
    objective = Objective.parse(workload, name, chunk=2048)
    assert {w.chunk for w, _ in objective.parts} == {objective.chunk} == {2048}
    question = Question(ModelShape.named("olmoe-1b-7b", "q4_k"), objective.workload, 3000, objective=objective)
    assert {w.chunk for w, _ in question.first.parts} == {2048}
    assert parts(Objective.parse("pp3000", "ttft", chunk=2048))[0] == ("pp3000", 3000 / 2048)
