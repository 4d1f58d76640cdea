"""Speed measurement against a runner whose speed is known."""

import numpy as np
import pytest
from bench_fakes import LAYERS, VOCAB, FakeRunner

from motley.bench.measure import Measurement, Text, batches, measure, prompt_batches, steps_of
from motley.bench.reading import Reading
from motley.engine.runner import by_pair
from motley.errors import UsageError
from motley.predict.workload import Workload

TEXT = Text.random(VOCAB)


def tg(n: int, depth: int = 0, batch: int = 1) -> Workload:
    return Workload("decode", n, depth, batch, chunk=32)


def pp(n: int, depth: int = 0, batch: int = 1) -> Workload:
    return Workload("prefill", n, depth, batch, chunk=32)


def run(runner: FakeRunner, workload: Workload, repeat: int = 3) -> Measurement:
    return measure(runner, workload, TEXT, repeat=repeat, read_gb_s=lambda: 2.0, active_bytes=1_000_000)


def test_tg_speed_is_the_runners() -> None:
    found = run(FakeRunner(step_s=0.002), tg(10))
    assert found.result.tokens_per_s.samples == pytest.approx((500, 500, 500))
    assert found.result.ms_per_step == pytest.approx(2)


def test_pp_speed_counts_prompt_tokens() -> None:
    result = run(FakeRunner(step_s=0.1), pp(64, batch=2)).result  # four chunks of 32
    assert result.tokens_per_s.median == pytest.approx(128 / 0.4)
    assert result.ms_per_step == pytest.approx(100)


def test_batch_multiplies_tokens_not_steps() -> None:
    one, four = (run(FakeRunner(step_s=0.002), tg(10, batch=b)).result for b in (1, 4))
    assert four.tokens_per_s.median == pytest.approx(4 * one.tokens_per_s.median)
    assert four.ms_per_step == pytest.approx(one.ms_per_step)
    assert four.bandwidth_fraction is None


def test_the_time_parts_add_up_to_the_step() -> None:
    result = run(FakeRunner(step_s=0.002), tg(10)).result
    assert sum(result.time.parts().values()) == pytest.approx(result.ms_per_step)
    assert result.time.experts == pytest.approx(1.0)
    assert result.time.link == pytest.approx(0.5)
    assert result.time.other == pytest.approx(0.5)


def test_bandwidth_fraction_is_bytes_over_bandwidth() -> None:
    result = run(FakeRunner(), tg(5)).result
    assert result.bandwidth_fraction == pytest.approx(1e6 * result.tokens_per_s.median / 2e9)
    assert run(FakeRunner(), pp(5)).result.bandwidth_fraction is None


def test_bandwidth_is_read_before_and_after() -> None:
    speeds = iter([10.0, 20.0])
    found = measure(FakeRunner(), tg(2), TEXT, repeat=2, read_gb_s=lambda: next(speeds), active_bytes=1)
    assert found.result.read_gb_s == 15.0


def test_counters_cover_the_samples_alone() -> None:
    """Filling the cache and warming up must not be counted."""
    found = run(FakeRunner(), tg(10, depth=40), repeat=3)
    assert found.tokens == 30
    assert found.reading.exchanges[0].count == 30 * LAYERS
    assert found.reading.routes.sum() == 30 * LAYERS


def test_prompts_are_cut_into_chunks_that_cover_them_once() -> None:
    workload = pp(70, depth=5, batch=2)
    steps = list(batches(workload, TEXT))
    assert [len(b) for b in steps] == [32, 32, 32, 32, 12]
    assert len(steps) == steps_of(workload)
    tokens, positions, slots = (
        np.concatenate([getattr(b, name) for b in steps]) for name in ("tokens", "positions", "slots")
    )
    for slot in (0, 1):
        assert positions[slots == slot].tolist() == list(range(5, 75))
        assert tokens[slots == slot].tolist() == TEXT.tokens(slot, 5, 75).tolist()


def test_only_a_prompts_last_token_wants_logits() -> None:
    steps = list(prompt_batches(pp(70, batch=2), TEXT, 0, 70))
    wanted = [(int(b.slots[row]), int(b.positions[row])) for b in steps for row in b.rows]
    assert wanted == [(0, 69), (1, 69)]
    assert list(prompt_batches(tg(4), TEXT, 0, 0)) == []


def test_tg_goes_on_where_the_depth_ends() -> None:
    runner = FakeRunner()
    run(runner, tg(3, depth=20, batch=2), repeat=1)
    filled = [b for b in runner.batches if len(b) > 2]
    assert np.concatenate([b.positions for b in filled]).tolist() == [*range(20), *range(20)]
    assert [b.positions.tolist() for b in runner.batches[-3:]] == [[20, 20], [21, 21], [22, 22]]
    assert runner.batches[-1].rows.tolist() == [0, 1]


def test_every_sample_does_the_same_work() -> None:
    runner = FakeRunner()
    run(runner, tg(4), repeat=2)
    first, second = runner.batches[-8:-4], runner.batches[-4:]
    assert [b.tokens.tolist() for b in first] == [b.tokens.tolist() for b in second]


@pytest.mark.parametrize("workload", [tg(64, depth=200), pp(257), tg(1, batch=5)])
def test_what_does_not_fit_is_refused(workload: Workload) -> None:
    with pytest.raises(UsageError):
        run(FakeRunner(), workload)


def test_readings_add_up_by_link() -> None:
    runner = FakeRunner()
    assert Reading.of(runner).exchanges == ()
    found = [run(runner, tg(n)).reading for n in (2, 3)]
    (total,) = by_pair(x for reading in found for x in reading.exchanges)
    assert total.count == (2 + 3) * 3 * LAYERS
    assert total.seconds == pytest.approx(total.count * 50e-6)
    assert total.work_seconds == pytest.approx(total.count * 30e-6)
