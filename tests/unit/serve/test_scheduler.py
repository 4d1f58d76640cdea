"""The scheduler over a toy runner: who joins when, what a client gets, and every way in which a sequence can end."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from motley.engine.engine import Engine, Stream
from motley.engine.sampling import Sampling
from motley.engine.times import StepTimes
from motley.errors import CapacityError, MotleyError
from motley.ops.protocol import Batch
from motley.serve.choosing import Chooser, odds_of
from motley.serve.metrics import Meters
from motley.serve.reading import Readings
from motley.serve.scheduler import QueueFull, Scheduler, ShuttingDown
from motley.serve.sequence import Piece
from serve_toy import TOKENIZER, WAIT_S, Counting, Got, scheduler, sequence


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Callable[[Scheduler], Scheduler]:
    def start(made: Scheduler) -> Scheduler:
        request.addfinalizer(made.close)
        made.start()
        return made

    return start


def text_of(tokens: range) -> str:
    return TOKENIZER.decode(list(tokens))


def test_each_gets_its_own_text_and_end(running: Callable[[Scheduler], Scheduler]) -> None:
    made, gots = running(scheduler(Counting())), [Got() for _ in range(5)]
    made.submit([sequence(got, [100 * i + 99], max_tokens=5 + i) for i, got in enumerate(gots)])
    for i, got in enumerate(gots):
        assert got.wait().finish == "length"
        assert "".join(piece.text for piece in got.pieces) == text_of(range(100 * i + 100, 100 * i + 105 + i))
        assert got.pieces[-1].n_tokens == 5 + i


def test_a_request_joins_between_two_steps(running: Callable[[Scheduler], Scheduler]) -> None:
    gate = threading.Semaphore(0)
    runner = Counting(gate=gate)
    made, first, second = running(scheduler(runner)), Got(), Got()
    made.submit([sequence(first, [5], max_tokens=8)])
    gate.release(2)
    assert first.begun.wait(20)
    made.submit([sequence(second, [50], max_tokens=2)])
    gate.release(20)
    second.wait()
    first.wait()
    assert any(len(set(slots)) == 2 for slots in runner.batches)
    assert len(runner.batches) < 8 + 2


def test_a_long_prompt_does_not_stop_a_stream(
    running: Callable[[Scheduler], Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motley.serve.scheduler.PREFILL_S", 0.0)  # as little as may be: 64 tokens a step
    gate = threading.Semaphore(0)
    runner = Counting(gate=gate)
    made, stream, late = running(scheduler(runner, beside=64)), Got(), Got()
    made.submit([sequence(stream, [5], max_tokens=40)])
    gate.release(1)
    assert stream.begun.wait(20)
    made.submit([sequence(late, list(range(1, 201)), max_tokens=1)])
    gate.release(100)
    late.wait()
    stream.wait()
    mixed = [slots for slots in runner.batches if len(set(slots)) == 2]
    assert len(mixed) >= 200 // 64
    assert all(len(slots) <= 65 for slots in mixed)


def test_prompts_take_no_more_of_a_step_than_streams_can_wait(
    running: Callable[[Scheduler], Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the step before took: a second, on this clock, where 5 are allowed."""
    monkeypatch.setattr("motley.engine.engine.perf_counter", iter(np.arange(0.0, 1e5, 1.0)).__next__)
    monkeypatch.setattr("motley.serve.scheduler.PREFILL_S", 5.0)
    gate = threading.Semaphore(0)
    runner = Counting(gate=gate)
    made, stream, late = running(scheduler(runner, beside=30)), Got(), Got()
    made.submit([sequence(stream, [5], max_tokens=60)])
    gate.release(1)
    assert stream.begun.wait(20)
    made.submit([sequence(late, list(range(1, 250)), max_tokens=1)])
    gate.release(100)
    late.wait()
    stream.wait()
    sizes = [len(slots) for slots in runner.batches if len(set(slots)) == 2]
    assert sizes[0] == 31
    assert sizes[1] == min(1 + 5 * 31, 249 - 30 + 1)


def test_a_large_step_does_not_make_streams_wait_for_more(
    running: Callable[[Scheduler], Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt alone fills the step; beside a stream, no more rides than of a usual one, however fast that step was."""
    monkeypatch.setattr("motley.engine.engine.perf_counter", iter(np.arange(0.0, 1e5, 1.0)).__next__)
    monkeypatch.setattr("motley.serve.scheduler.PREFILL_S", 0.25)  # of 512 tokens' second: 128
    gate = threading.Semaphore(0)
    runner = Counting(context=4096, gate=gate)
    made, stream, late = running(scheduler(runner, chunk=2048)), Got(), Got()
    made.submit([sequence(stream, [5] * 2000, max_tokens=60)])
    gate.release(1)
    assert stream.begun.wait(20)
    made.submit([sequence(late, list(range(1, 1001)), max_tokens=1)])
    gate.release(100)
    late.wait()
    stream.wait()
    assert len(runner.batches[0]) == 2000
    mixed = [len(slots) for slots in runner.batches if len(set(slots)) == 2]
    assert mixed[0] == 1 + 128
    assert max(mixed) <= 1 + 128


def test_a_cancelled_one_frees_its_slot_for_the_next_step(running: Callable[[Scheduler], Scheduler]) -> None:
    gate = threading.Semaphore(0)
    runner = Counting(n_slots=1, gate=gate)
    made, first, second = running(scheduler(runner)), Got(), Got()
    going = sequence(first, [5], max_tokens=200)
    made.submit([going])
    gate.release(1)
    assert first.begun.wait(20)
    made.submit([sequence(second, [50], max_tokens=1)])
    made.cancel(going)
    gate.release(3)  # the one that may be under way, and the second's
    assert second.wait().finish == "length"
    assert not first.ended.is_set()
    assert len(runner.batches) <= 3


def test_a_stop_string_ends_the_stream_with_its_token(running: Callable[[Scheduler], Scheduler]) -> None:
    runner = Counting()
    made, got = running(scheduler(runner)), Got()
    whole = text_of(range(300, 400))
    stop = whole[20:23]
    made.submit([sequence(got, [299], max_tokens=100, stops=[stop])])
    assert got.wait().finish == "stop"
    assert got.wait().stop == stop
    assert "".join(piece.text for piece in got.pieces) == whole[: whole.index(stop)]
    assert len(runner.batches) < 30


def test_an_end_token_is_no_text(running: Callable[[Scheduler], Scheduler]) -> None:
    made, got = running(scheduler(Counting())), Got()
    made.submit([sequence(got, [TOKENIZER.vocab_size - 3], max_tokens=100)])
    assert got.wait().finish == "stop"
    assert got.wait().n_tokens == 3
    assert "".join(piece.text for piece in got.pieces) == text_of(range(TOKENIZER.vocab_size - 2, TOKENIZER.vocab_size))


def test_a_full_queue_refuses_all_of_a_request(running: Callable[[Scheduler], Scheduler]) -> None:
    gate = threading.Semaphore(0)
    made = running(scheduler(Counting(n_slots=1, gate=gate), queue=2))
    gots = [Got() for _ in range(3)]
    made.submit([sequence(got, [5], max_tokens=2) for got in gots])
    with pytest.raises(QueueFull):
        made.submit([sequence(Got(), [5]), sequence(Got(), [5])])
    gate.release(100)
    assert [got.wait().finish for got in gots] == ["length"] * 3


def test_one_that_can_not_choose_ends_alone(running: Callable[[Scheduler], Scheduler]) -> None:
    class Never:
        complete = False

        def allowed(self) -> np.ndarray:
            raise MotleyError("the grammar is too large")

        def accept(self, token: int) -> None: ...

    made, bad, good = running(scheduler(Counting())), Got(), Got()
    made.submit(
        [sequence(bad, [5], chooser=Chooser(Sampling(), constraint=Never())), sequence(good, [7], max_tokens=3)]
    )
    assert str(bad.wait().error) == "the grammar is too large"
    assert good.wait().finish == "length"


class Wide(Counting):
    """Its logits have rows for more tokens than the tokenizer knows, as padded checkpoints do."""

    def step(self, batch: Batch) -> np.ndarray:
        return np.pad(super().step(batch), ((0, 0), (0, 8)))


def test_a_token_that_the_tokenizer_does_not_know_is_no_text(running: Callable[[Scheduler], Scheduler]) -> None:
    made, beyond, good = running(scheduler(Wide())), Got(), Got()
    forced = Chooser(Sampling(), bias={TOKENIZER.vocab_size + 3: 100.0})
    made.submit([sequence(beyond, [5], max_tokens=3, chooser=forced), sequence(good, [7], max_tokens=3)])
    assert (beyond.wait().finish, "".join(piece.text for piece in beyond.pieces)) == ("length", "")
    assert good.wait().finish == "length"


def test_one_whose_text_can_not_be_made_ends_alone(running: Callable[[Scheduler], Scheduler]) -> None:
    def take() -> Piece:
        raise MotleyError("no such token")

    made, bad, good = running(scheduler(Counting())), Got(), Got()
    broken = sequence(bad, [5])
    broken.take = take  # type: ignore[method-assign]
    made.submit([broken, sequence(good, [7], max_tokens=3)])
    assert str(bad.wait().error) == "no such token"
    assert good.wait().finish == "length"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_of_the_server_s_own_is_no_shutdown(running: Callable[[Scheduler], Scheduler]) -> None:
    runner = Counting()

    def fail() -> None:
        raise KeyError("a mistake")

    runner.fail = fail
    made, got = running(scheduler(runner)), Got()
    made.submit([sequence(got, [5])])
    assert str(got.wait().error) == "the server failed: its log says why"
    with pytest.raises(MotleyError, match="the server failed: its log says why"):
        made.submit([sequence(Got(), [5])])


def test_a_step_that_only_loaded_is_not_measured(running: Callable[[Scheduler], Scheduler]) -> None:
    class Loads(Engine):
        loads = 2

        def step(self) -> list[Stream]:
            self.loads -= 1
            return super().step() if self.loads < 0 else []

    runner = Counting()
    made, got = running(Scheduler(Loads(runner), Meters(), 8, lambda: None)), Got()
    made.submit([sequence(got, [5], max_tokens=4)])
    got.wait()
    made.close()
    assert made._meters.steps.total == len(runner.batches) == 4


def test_a_runner_s_failure_ends_what_runs_and_no_more(running: Callable[[Scheduler], Scheduler]) -> None:
    runner = Counting()
    made, failed, later = running(scheduler(runner)), Got(), Got()

    def fail() -> None:
        runner.fail = lambda: None
        raise MotleyError("numbers overflowed")

    runner.fail = fail
    made.submit([sequence(failed, [5])])
    assert str(failed.wait().error) == "numbers overflowed"
    made.submit([sequence(later, [5], max_tokens=2)])
    assert later.wait().finish == "length"


def test_streams_wait_while_the_nodes_that_are_left_are_too_small(
    running: Callable[[Scheduler], Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motley.serve.scheduler.RETRY_S", 0.01)
    runner, tries = Counting(), [0]

    def fail() -> None:
        tries[0] += 1
        if 3 <= tries[0] < 8:
            raise CapacityError("1 GB missing")

    runner.fail = fail
    made, got = running(scheduler(runner)), Got()
    made.submit([sequence(got, [5], max_tokens=10)])
    assert got.wait().finish == "length"
    assert "".join(piece.text for piece in got.pieces) == text_of(range(6, 16))


def test_they_do_not_wait_for_ever(running: Callable[[Scheduler], Scheduler], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motley.serve.scheduler.RETRY_S", 0.01)
    monkeypatch.setattr("motley.serve.scheduler.GIVE_UP_S", 0.05)
    runner = Counting()

    def fail() -> None:
        raise CapacityError("1 GB missing")

    runner.fail = fail
    made, got = running(scheduler(runner)), Got()
    made.submit([sequence(got, [5])])
    assert str(got.wait().error) == "1 GB missing"


def test_closing_ends_what_runs_and_what_waits() -> None:
    gate = threading.Semaphore(0)
    made = scheduler(Counting(n_slots=1, gate=gate))
    made.start()
    gots = [Got(), Got()]
    made.submit([sequence(got, [5], max_tokens=100) for got in gots])
    gate.release(1)
    assert gots[0].begun.wait(20)
    gate.release(1000)
    made.close()
    assert [type(got.wait().error) for got in gots if got.wait().finish == "error"] == [ShuttingDown] * 2
    with pytest.raises(ShuttingDown):
        made.submit([sequence(Got(), [5])])


def test_counters_are_read_between_steps_while_somebody_looks(running: Callable[[Scheduler], Scheduler]) -> None:
    runner = Counting()
    made, got = running(scheduler(runner)), Got()
    made.reading()
    made.submit([sequence(got, [5], max_tokens=10)])
    got.wait()
    for _ in range(200):
        if made.reading().times.attention == 10:
            break
        threading.Event().wait(0.02)
    assert made.reading().routes.tolist() == [[10] * 4] * 2


def test_nobody_waits_while_the_counters_are_read() -> None:
    """Over nodes a reading may last until a stopped one is given up."""
    asked, answered = threading.Event(), threading.Event()

    class Slow(Counting):
        def times(self) -> StepTimes:
            asked.set()
            assert answered.wait(WAIT_S)
            return super().times()

    made = scheduler(Slow())
    made.reading()
    waiting = threading.Thread(target=made._wait)  # what the scheduler's thread does between two steps
    others = threading.Thread(target=made.submit, args=([sequence(Got(), [5])],), daemon=True)
    waiting.start()
    try:
        assert asked.wait(WAIT_S)
        others.start()
        others.join(WAIT_S / 2)
        assert not others.is_alive()
    finally:
        answered.set()
        waiting.join()


def test_counters_are_read_under_watch() -> None:
    class Watched(Engine):
        within = False

        @contextmanager
        def watched(self) -> Iterator[None]:
            self.within = True
            yield
            self.within = False

    class Asked(Counting):
        def times(self) -> StepTimes:
            assert engine.within
            return super().times()

    engine = Watched(Asked())
    readings = Readings(engine)
    readings.read()
    assert readings.last.routes.shape == (2, 4)
    assert not engine.within


def test_odds_are_the_model_s_own() -> None:
    logits = np.random.default_rng(1).standard_normal(100).astype(np.float32) * 3
    logits[7] = logits[9] = logits.max() + 1
    chooser = Chooser(Sampling(temperature=2.0, top_k=1), n_odds=3)
    stream = Stream([1, 2], 5, Sampling(), frozenset())
    assert chooser(logits, stream) == 7
    (odds,) = chooser.take()
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    assert odds.logprob == pytest.approx(exact[7], abs=1e-9)
    assert [token for token, _ in odds.top] == [7, 9, int(np.argsort(-logits, kind="stable")[2])]
    assert odds_of(logits, 50, 0).top == ()


def test_a_bias_counts() -> None:
    logits = np.zeros(50, np.float32)
    stream = Stream([1], 5, Sampling(), frozenset())
    assert Chooser(Sampling(), bias={33: 1.0})(logits, stream) == 33
    assert Chooser(Sampling(), bias={0: -100.0})(logits, stream) == 1
    assert not logits.any()
