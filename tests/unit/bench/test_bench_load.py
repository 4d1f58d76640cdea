"""Loads: the formulas against numbers worked out by hand, and the engine's closed loop on a clock of the test's own."""

import json
from collections import Counter

import msgspec
import pytest
from bench_fakes import LAYERS, VOCAB, FakeRunner

from bench_sample import sample_load, sample_result
from motley.bench.load import LoadResult, Objectives, Percentiles, Run, Seen
from motley.bench.load_engine import measure_load
from motley.bench.measure import Text
from motley.bench.records import Interval
from motley.bench.result import from_json, to_json
from motley.bench.suite import Load
from motley.errors import FormatError, UsageError

TEXT = Text.random(VOCAB)


def seen(sent: float, *arrivals: float, output: int | None = None) -> Seen:
    return Seen(sent, list(arrivals), 100, len(arrivals) if output is None else output)


def of(runs: list[Run], **more: object) -> LoadResult:
    return LoadResult.of(runs, prompt_tokens=100, output_tokens=3, concurrency=2, counted_by="engine", **more)  # type: ignore[arg-type]


def test_the_formulas() -> None:
    first = Run(2.0, [seen(0.0, 0.5, 0.7, 1.1), seen(1.0, 1.2, 1.5, 2.0)], {})
    second = Run(1.0, [seen(9.0, 9.4, 9.5, 9.9)], {"HTTP 429": 1})
    load = of([first, second], objectives=Objectives(ttft_ms=450, tpot_ms=300))
    assert load.output_tokens_per_s.samples == pytest.approx((3.0, 3.0))
    assert load.requests_per_s == pytest.approx(1.0)
    assert [r.ttft_ms for r in load.requests] == pytest.approx([500, 200, 400])
    assert [r.e2e_ms for r in load.requests] == pytest.approx([1100, 1000, 900])
    assert [r.tpot_ms for r in load.requests] == pytest.approx([300, 400, 250])
    assert load.ttft_ms.p50 == pytest.approx(400)
    assert load.itl_ms is not None
    assert (load.itl_ms.n, load.itl_ms.mean) == (6, pytest.approx(1900 / 6))
    assert load.goodput is not None
    assert load.goodput.requests_per_s == pytest.approx(1 / 3)  # the third alone
    assert load.goodput.share == pytest.approx(1 / 3)
    assert (load.failed, load.errors) == (1, {"HTTP 429": 1})
    assert load.tokens_per_piece == 1.0


def test_pieces_that_hold_several_tokens_are_told() -> None:
    load = of([Run(1.0, [seen(0.0, 0.1, 0.2, output=8)], {})])
    assert load.tokens_per_piece == 4.0
    assert load.requests[0].tpot_ms == pytest.approx(100 / 7)


def test_an_answer_of_one_token_has_no_time_between_tokens() -> None:
    load = of([Run(1.0, [seen(0.0, 0.1)], {})], objectives=Objectives(tpot_ms=1))
    assert (load.itl_ms, load.tpot_ms) == (None, None)
    assert load.goodput is not None
    assert load.goodput.share == 1.0


def test_percentiles_are_linear_between_neighbours() -> None:
    found = Percentiles.of([float(i) for i in range(11)])
    assert (found.p50, found.p90, found.p99, found.mean, found.n) == (5.0, 9.0, pytest.approx(9.9), 5.0, 11)


def test_the_engine_keeps_so_many_under_way() -> None:
    """A step of the fake takes 10 ms whatever it carries: two streams of 4 tokens give a token each a step."""
    runner = FakeRunner(step_s=0.01)
    load = measure_load(runner, Load(16, 4, 2), TEXT, repeat=5)
    assert load.runs == len(load.output_tokens_per_s.samples) == 5
    assert load.output_tokens_per_s.median == pytest.approx(200)  # 2 slots x 2 requests x 4 tokens in 80 ms
    assert load.ttft_ms.p99 == pytest.approx(10)
    assert load.itl_ms is not None
    assert load.itl_ms.p50 == pytest.approx(10)
    assert load.tpot_ms is not None
    assert load.tpot_ms.p90 == pytest.approx(10)
    assert load.counted_by == "engine"
    assert len(load.requests) == 5 * 4


def test_one_more_request_than_the_engine_takes_waits_its_turn() -> None:
    with pytest.raises(UsageError, match="8 slots"):
        measure_load(FakeRunner(), Load(16, 4, 8), TEXT, repeat=1)


def test_larger_steps_are_as_large_beside_a_stream() -> None:
    """24 tokens of the second prompt come with the first one, and all others at once with its next token."""
    runner = FakeRunner()
    runner.context = 1100
    measure_load(runner, Load(1000, 40, 2), TEXT, repeat=1, chunk=1024)
    shares = [sorted(Counter(batch.slots.tolist()).values()) for batch in runner.batches]
    assert [24, 1000] in shares
    assert [1, 976] in shares


def test_a_soak_goes_on_for_its_time() -> None:
    load = measure_load(FakeRunner(step_s=0.01), Load(16, 4, 1, seconds=1.0), TEXT, repeat=2)
    assert load.runs == 13  # 80 ms each


def test_requests_have_prompts_of_their_own() -> None:
    runner = FakeRunner()
    measure_load(runner, Load(8, 1, 1, per_slot=1), TEXT, repeat=3)
    prompts = [tuple(batch.tokens.tolist()) for batch in runner.batches if len(batch) == 8]
    assert len(set(prompts)) == len(prompts) == 4  # one warms up
    assert runner.routes().sum() == LAYERS * sum(len(batch) for batch in runner.batches)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("ttft_ms", "p90"), 1.0, "loads[0].ttft_ms.p90"),
        (("tpot_ms", "p50"), 1e-3, "loads[0].tpot_ms.p50"),
        (("goodput", "share"), 0.5, "loads[0].goodput.share"),
        (("e2e_ms", "n"), 3, "loads[0].e2e_ms.n"),
        (("output_tokens_per_s", "median"), 9e9, "loads[0].output_tokens_per_s.median"),
    ],
)
def test_a_summary_must_fit_its_requests(path: tuple[str, str], value: float, named: str) -> None:
    document = json.loads(to_json(msgspec.structs.replace(sample_result(), schema=2, loads=(sample_load(),))))
    document["loads"][0][path[0]][path[1]] = value
    with pytest.raises(FormatError) as caught:
        from_json(json.dumps(document).encode(), "theirs.json")
    assert named in str(caught.value)


def test_a_prediction_out_of_order_is_refused() -> None:
    load = msgspec.structs.replace(sample_load(), predicted_tokens_per_s=Interval(p10=2.0, p50=1.0, p90=3.0))
    document = to_json(msgspec.structs.replace(sample_result(), schema=2, loads=(load,)))
    with pytest.raises(FormatError, match=r"loads\[0\].predicted_tokens_per_s: must keep p10 <= p50 <= p90"):
        from_json(document, "theirs.json")
