"""run_bench end to end over fake runners: what it asks of them, and what the result says."""

from contextlib import closing
from dataclasses import replace

import pytest
from bench_fakes import EXPERTS, LAYERS, VOCAB, FakeRunner

from bench_sample import sample_lab
from motley.bench.measure import Text
from motley.bench.records import Interval
from motley.bench.result import from_json, to_json
from motley.bench.run import Settings, Subject, asked_workloads, expected, run_bench
from motley.bench.suite import Load
from motley.errors import UsageError
from motley.lab.placement import LayerPlacement, Placement
from motley.predict.workload import Workload
from motley.progress import Progress
from motley.shape.model import ModelShape

SHAPE = replace(ModelShape.named("olmoe-1b-7b", "q8_0").with_layers(LAYERS), n_experts=EXPERTS, vocab_size=VOCAB)


def subject(error: float = 0.0) -> Subject:
    return Subject(
        shape=SHAPE,
        lab=sample_lab(),
        placement=Placement((LayerPlacement("small", ("small", "big", "big", "small")),) * LAYERS),
        text=Text.random(VOCAB),
        open_placed=lambda progress: closing(FakeRunner(step_s=0.0005, error=error)),
        open_reference=lambda progress: closing(FakeRunner()),
        predict=lambda w: Interval(p10=1.0, p50=2.0, p90=3.0) if w.kind == "decode" else None,
        read_gb_s=lambda: 12.0,
        threads=3,
    )


SETTINGS = Settings(workloads=asked_workloads([16], [8], [0, 4], [1]), repeat=5, check_tokens=6, command="motley bench")


def test_the_result_is_whole_and_valid() -> None:
    seen: list[float] = []
    result = run_bench(subject(), SETTINGS, lambda _what, fraction: seen.append(fraction))
    assert from_json(to_json(result)) == result
    assert [t.label for t in result.results] == ["pp16", "pp16 @ d4", "tg8", "tg8 @ d4"]
    assert all(len(t.tokens_per_s.samples) == 5 for t in result.results)
    assert result.results[0].predicted_tokens_per_s is None
    assert result.results[2].predicted_tokens_per_s == Interval(p10=1.0, p50=2.0, p90=3.0)
    assert result.check is not None
    assert result.check.passed
    assert result.check.greedy_tokens_compared == 12
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_exchanges_are_those_of_generation() -> None:
    (exchange,) = run_bench(subject(), SETTINGS).exchanges
    assert exchange.per_token == LAYERS
    assert exchange.count == 2 * 5 * 8 * LAYERS
    assert exchange.round_us == pytest.approx(50)
    assert exchange.work_us == pytest.approx(30)
    assert exchange.us_per_exchange == pytest.approx(20)
    assert exchange.rtt_us == 16.8


def test_deeper_tests_read_more_bytes() -> None:
    results = run_bench(subject(), SETTINGS).results
    shallow, deep = (t.active_bytes_per_token for t in results[2:])
    assert deep - shallow == SHAPE.kv_bytes_per_token() * 4
    assert shallow == round(SHAPE.active_bytes_per_token() + SHAPE.kv_bytes_per_token() * 4.5)


def test_the_placed_model_is_closed_before_the_reference_opens() -> None:
    placed = FakeRunner()
    reference_saw: list[bool] = []

    def open_reference(progress: Progress) -> "closing[FakeRunner]":
        reference_saw.append(placed.closed)
        return closing(FakeRunner())

    run_bench(replace(subject(), open_placed=lambda progress: closing(placed), open_reference=open_reference), SETTINGS)
    assert reference_saw == [True]


def test_peak_memory_is_asked_of_the_open_runner() -> None:
    result = run_bench(replace(subject(), peak_memory=lambda runner: {"small": int(not runner.closed)}), SETTINGS)
    assert result.peak_memory_bytes == {"small": 1}


def test_a_wrong_answer_is_reported() -> None:
    check = run_bench(subject(error=1.0), SETTINGS).check
    assert check is not None
    assert not check.passed


def test_without_a_reference_there_is_no_check() -> None:
    assert run_bench(replace(subject(), open_reference=None), SETTINGS).check is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repeat": 0}, "--repeat"),
        ({"peer": "vllm"}, "vllm"),
        ({"peer": "llama.cpp"}, "model file"),
        ({"workloads": [Workload(tokens=9999)]}, "trained for"),
    ],
)
def test_senseless_requests_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run_bench(subject(), replace(SETTINGS, **changes))  # type: ignore[arg-type]


def test_asking_for_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        asked_workloads([0], [0])


def test_asked_workloads_takes_every_combination() -> None:
    names = [w.name for w in asked_workloads([128, 512], [64], [0, 1024], [1])]
    assert names == ["pp128", "pp512", "pp128@d1024", "pp512@d1024", "tg64", "tg64@d1024"]


def test_a_load_is_predicted_by_its_prompts_and_answers() -> None:
    """4 prompts of 100 tokens at 1000 tokens/s take 0.4 s, first tokens included; 4 x 19 more at 200 take 0.38."""
    asked: list[Workload] = []

    def predict(workload: Workload) -> Interval:
        asked.append(workload)
        p50 = 1000.0 if workload.kind == "prefill" else 200.0
        return Interval(p10=p50 / 2, p50=p50, p90=2 * p50)

    found = expected(Load(100, 20, 4), predict)
    assert [w.name for w in asked] == ["pp100x4", "tg19@d100x4"]
    assert found is not None
    assert found.p50 == pytest.approx(4 * 20 / 0.78)
    assert (found.p10, found.p90) == pytest.approx((found.p50 / 2, 2 * found.p50))
    one = expected(Load(100, 1, 4), predict)
    assert one is not None
    assert one.p50 == pytest.approx(10)
    assert expected(Load(100, 20, 4), lambda workload: None) is None


def test_a_load_keeps_its_prediction() -> None:
    settings = replace(SETTINGS, workloads=[], loads=[Load(16, 4, 1)], repeat=1)
    said = Interval(p10=50.0, p50=100.0, p90=200.0)
    [load] = run_bench(replace(subject(), predict=lambda workload: said), settings).loads
    assert load.predicted_tokens_per_s == expected(Load(16, 4, 1), lambda workload: said)
    assert load.predicted_tokens_per_s is not None


def test_steps_of_another_size_are_named_and_kept() -> None:
    """Workloads carry their own, loads and the check take the setting; a result of usual steps says nothing."""
    runners: list[FakeRunner] = []

    def opened(progress: Progress) -> closing[FakeRunner]:
        runners.append(FakeRunner(step_s=0.0005))
        return closing(runners[-1])

    plain = run_bench(subject(), SETTINGS)
    assert b"step_tokens" not in to_json(plain)
    small = [replace(w, chunk=5) for w in SETTINGS.workloads]
    settings = replace(SETTINGS, workloads=small, loads=[Load(30, 2, 1)], step_tokens=5)
    result = run_bench(replace(subject(), open_placed=opened, open_reference=opened), settings)
    assert from_json(to_json(result)).step_tokens == 5
    assert result.check is not None
    assert result.check.passed
    assert len(runners) == 2
    assert all(max(len(batch) for batch in runner.batches) == 5 for runner in runners)
    asked: list[Workload] = []
    expected(Load(100, 20, 4), lambda w: asked.append(w), 5)
    assert {w.chunk for w in asked} == {5}
