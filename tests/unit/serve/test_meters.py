"""What is counted: the pace of the moment, whoever looks; counters of replaced runners; a request's own timings."""

import pytest

from motley.engine.engine import Engine, Stream
from motley.engine.runner import ExchangeCount
from motley.engine.sampling import Sampling
from motley.serve.asking import Asked
from motley.serve.metrics import Meters, Pace
from motley.serve.reading import Readings
from motley.serve.sequence import Timings
from serve_toy import Counting, Got, sequence


def test_the_pace_is_of_the_last_seconds_whoever_looked_before() -> None:
    now = 1000.0
    pace = Pace(lambda: now)
    assert pace.per_s() == 0
    for _ in range(60 * 8):  # 16 tokens/s for a minute, in which nobody looks
        now += 0.125
        pace.add(2)
    assert pace.per_s() == pytest.approx(16)
    assert pace.per_s() == pytest.approx(16)
    now += 1.5
    assert pace.per_s() == pytest.approx(26 / 3)  # six whole slices of four, and two of the next one
    now += 1.75
    assert pace.per_s() == 0
    now += 1e6
    pace.add(3)
    assert pace.per_s() == 0
    now += 0.25
    assert pace.per_s() == 1


def test_the_pace_is_no_meter_of_prometheus() -> None:
    meters = Meters()
    meters.step(0.1, 0.1, 3)
    assert "motley_generated_tokens_total 3" in meters.text({})


class Exchanging(Counting):
    def exchanges(self) -> list[ExchangeCount]:
        there = ExchangeCount("a", "b", "tcp", 3, 0.5, 0.25)
        return [there, ExchangeCount("b", "a", "tcp", 1, 0.25, 0.0), there]


def test_exchanges_are_added_up_by_pair_and_over_runners() -> None:
    engine = Engine(Exchanging())
    readings = Readings(engine)
    readings.read()
    once = (ExchangeCount("a", "b", "tcp", 6, 1.0, 0.5), ExchangeCount("b", "a", "tcp", 1, 0.25, 0.0))
    assert readings.last.exchanges == once
    engine.runner = Exchanging()
    readings.read()
    assert [x.count for x in readings.last.exchanges] == [12, 2]


def test_timings_are_of_all_choices() -> None:
    sequences = [sequence(Got(), [5] * n) for n in (10, 20, 30)]
    for i, of in enumerate(sequences):
        of.stream = Stream(of.prompt, 4, Sampling(), frozenset())
        of.stream.reused = i
        of.timings = Timings(asked=100.0, started=100.5 + i, first=101.0 + i, ended=104.0)
    asked = Asked(None, "id", "model", False, None, sequences, n_tokens={0: 4, 1: 4, 2: 4})  # type: ignore[arg-type]
    found = asked.timings()
    assert found["prompt_n"] == 10 + 19 + 28
    assert found["prompt_ms"] == pytest.approx(2500)
    assert found["prompt_per_second"] == pytest.approx(57 / 2.5)
    assert found["queue_ms"] == pytest.approx(500)
    assert found["predicted_n"] == 12
    assert found["predicted_per_second"] == pytest.approx(9 / 3)
