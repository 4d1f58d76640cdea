"""Speed measurement against a runner whose speed is known."""

import numpy as np
import pytest
from bench_fakes import EXPERTS, LAYERS, VOCAB, FakeRunner

from motley.bench.measure import Measurement, Test, Workload, batches, measure, steps_per_sample
from motley.bench.reading import Reading, total_exchanges, total_routes
from motley.errors import UsageError


@pytest.fixture(autouse=True)
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on how fast this machine is today."""
    monkeypatch.setattr("motley.bench.measure.perf_counter", lambda: FakeRunner.now)


WORK = Workload.random(VOCAB, chunk=32)


def run(runner: FakeRunner, test: Test, repeat: int = 3) -> Measurement:
    return measure(runner, test, WORK, repeat=repeat, read_gb_s=lambda: 2.0, active_bytes=1_000_000)


def test_tg_speed_is_the_runners() -> None:
    found = run(FakeRunner(step_s=0.002), Test("tg", 10))
    assert found.result.tokens_per_s.median == pytest.approx(500)  # 2 ms a step
    assert found.result.tokens_per_s.min <= found.result.tokens_per_s.median <= found.result.tokens_per_s.max
    assert len(found.result.tokens_per_s.samples) == 3
    assert found.result.ms_per_step == pytest.approx(1e3 / found.result.tokens_per_s.median)


def test_batch_multiplies_tokens_not_steps() -> None:
    one, four = (run(FakeRunner(step_s=0.002), Test("tg", 10, batch=b)).result for b in (1, 4))
    assert four.tokens_per_s.median == pytest.approx(4 * one.tokens_per_s.median)
    assert four.ms_per_step == pytest.approx(one.ms_per_step)
    assert four.bandwidth_fraction is None


def test_the_time_parts_add_up_to_the_step() -> None:
    result = run(FakeRunner(step_s=0.002), Test("tg", 10)).result
    assert sum(result.time.parts().values()) == pytest.approx(result.ms_per_step)
    assert result.time.experts == pytest.approx(1.0)
    assert result.time.link == pytest.approx(0.5)
    assert result.time.other == pytest.approx(0.5)


def test_bandwidth_fraction_is_bytes_over_bandwidth() -> None:
    result = run(FakeRunner(), Test("tg", 5)).result
    assert result.bandwidth_fraction == pytest.approx(1e6 * result.tokens_per_s.median / 2e9)
    assert run(FakeRunner(), Test("pp", 5)).result.bandwidth_fraction is None


def test_bandwidth_is_read_before_and_after() -> None:
    speeds = iter([10.0, 20.0])
    found = measure(FakeRunner(), Test("tg", 2), WORK, repeat=2, read_gb_s=lambda: next(speeds), active_bytes=1)
    assert found.result.read_gb_s == 15.0


def test_counters_cover_the_samples_alone() -> None:
    """Filling the cache and warming up must not be counted."""
    found = run(FakeRunner(), Test("tg", 10, depth=40), repeat=3)
    assert found.tokens == 30
    assert found.reading.exchanges[0].count == 30 * LAYERS
    assert found.reading.routes is not None
    assert found.reading.routes.sum() == 30 * LAYERS


def test_pp_is_cut_into_chunks_that_cover_the_prompt_once() -> None:
    test = Test("pp", 70, depth=5, batch=2)
    steps = list(batches(test, WORK))
    assert len(steps) == steps_per_sample(test, WORK) == 6
    for slot in (0, 1):
        mine = [b for b in steps if b.slots[0] == slot]
        assert np.concatenate([b.positions for b in mine]).tolist() == list(range(5, 75))
        assert np.concatenate([b.tokens for b in mine]).tolist() == WORK.tokens(slot, 5, 75).tolist()
        assert all(b.rows.tolist() == [len(b) - 1] for b in mine)


def test_tg_goes_on_where_the_depth_ends() -> None:
    runner = FakeRunner()
    run(runner, Test("tg", 3, depth=20, batch=2), repeat=1)
    assert runner.resets == [0, 1]
    filled = [b for b in runner.batches if len(b) > 2]
    assert [b.positions[-1] for b in filled] == [19, 19]
    assert [b.positions.tolist() for b in runner.batches[-3:]] == [[20, 20], [21, 21], [22, 22]]
    assert runner.batches[-1].rows.tolist() == [0, 1]


def test_every_sample_does_the_same_work() -> None:
    runner = FakeRunner()
    run(runner, Test("tg", 4), repeat=2)
    first, second = runner.batches[-8:-4], runner.batches[-4:]
    assert [b.tokens.tolist() for b in first] == [b.tokens.tolist() for b in second]


@pytest.mark.parametrize("test", [Test("tg", 64, depth=200), Test("pp", 257), Test("tg", 1, batch=5)])
def test_what_does_not_fit_is_refused(test: Test) -> None:
    with pytest.raises(UsageError):
        run(FakeRunner(), test)


def test_readings_add_up_by_link() -> None:
    runner = FakeRunner()
    before = Reading.of(runner)
    found = [run(runner, Test("tg", n)).reading for n in (2, 3)]
    (total,) = total_exchanges(found)
    assert total.count == (2 + 3) * 3 * LAYERS
    assert total.seconds == pytest.approx(total.count * 50e-6)
    assert total.remote_seconds == pytest.approx(total.count * 30e-6)
    routes = total_routes(found)
    assert routes is not None
    assert routes.shape == (LAYERS, EXPERTS)
    assert before.exchanges[0].count == 0
