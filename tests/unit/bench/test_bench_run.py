"""run_bench end to end over fake runners: what it asks of them, and what the result says."""

from contextlib import closing
from dataclasses import replace

import pytest
from bench_fakes import EXPERTS, LAYERS, VOCAB, FakeRunner
from bench_sample import sample_lab

from motley.bench.measure import Text
from motley.bench.result import Interval, from_json, to_json
from motley.bench.run import Settings, Subject, asked_workloads, run_bench
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
