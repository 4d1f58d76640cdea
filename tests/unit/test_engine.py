"""The engine's scheduling, over a runner whose next token depends only on the sequence's own tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.engine.engine import Engine
from motley.engine.reuse import Reuse
from motley.engine.runner import ExchangeCount
from motley.engine.sampling import Sampling
from motley.engine.times import StepTimes
from motley.errors import CapacityError, ClusterError, UsageError
from motley.ops.protocol import Batch

VOCAB = 50


class Chain:
    """Logits from a hash of the slot's whole history: wrong positions, slots or rows show at once."""

    def __init__(self, n_slots: int = 2, context: int = 64) -> None:
        self.n_slots, self.context = n_slots, context
        self.cache = np.zeros((n_slots, context), np.int64)
        self.sizes: list[int] = []
        self.reuse = Reuse()

    def step(self, batch: Batch) -> np.ndarray:
        self.sizes.append(len(batch))
        for token, slot, position in zip(batch.tokens, batch.slots, batch.positions):
            self.cache[slot, position] = token
        rows = [self._logits(batch.slots[row], batch.positions[row]) for row in batch.rows]
        return np.array(rows, np.float32).reshape(len(batch.rows), VOCAB)

    def _logits(self, slot: int, position: int) -> np.ndarray:
        history = self.cache[slot, : position + 1].tolist()
        return np.random.default_rng(history).standard_normal(VOCAB)

    def times(self) -> StepTimes:
        return StepTimes()

    def routes(self) -> np.ndarray:
        return np.zeros((1, 1), np.int64)

    def exchanges(self) -> list[ExchangeCount]:
        return []


def alone(prompt: list[int], n: int, sampling: Sampling) -> list[int]:
    return list(Engine(Chain()).generate(prompt, n, sampling))


@given(
    st.lists(st.tuples(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30), st.integers(1, 20)), max_size=6),
    st.integers(1, 16),
    st.integers(1, 3),
)
@settings(deadline=None)
def test_a_stream_gives_the_same_tokens_whatever_rides_along(
    asks: list[tuple[list[int], int]], chunk: int, slots: int
) -> None:
    engine = Engine(Chain(slots), chunk=chunk)
    settings = [Sampling(temperature=1.0, seed=i) for i in range(len(asks))]
    streams = [engine.submit(prompt, n, s) for (prompt, n), s in zip(asks, settings)]
    while engine.busy:
        engine.step()
    assert [s.answer for s in streams] == [alone(prompt, n, s) for (prompt, n), s in zip(asks, settings)]


def test_a_step_carries_at_most_a_chunk() -> None:
    runner = Chain()
    engine = Engine(runner, chunk=8)
    engine.submit(list(range(20)), 3)
    engine.submit(list(range(9)), 3)
    while engine.busy:
        engine.step()
    assert max(runner.sizes) == 8


def test_stop_tokens_end_a_stream_after_them() -> None:
    whole = alone([1, 2], 20, Sampling(temperature=1.0))
    stopped = list(Engine(Chain()).generate([1, 2], 20, Sampling(temperature=1.0), frozenset({whole[4]})))
    assert stopped == whole[: whole.index(whole[4]) + 1]


def test_a_cancelled_stream_frees_its_slot() -> None:
    engine = Engine(Chain(n_slots=1))
    first, second = engine.submit([1], 50), engine.submit([2], 2)
    engine.step()
    engine.cancel(first)
    while engine.busy:
        engine.step()
    assert second.done
    assert not first.done


def test_abandoned_generators_free_their_slot() -> None:
    engine = Engine(Chain(n_slots=1))
    generator = engine.generate([1], 50)
    next(generator)
    generator.close()
    assert not engine.busy
    assert len(list(engine.generate([2], 3))) == 3


def test_impossible_requests_are_refused() -> None:
    engine = Engine(Chain(context=16))
    with pytest.raises(UsageError, match="empty"):
        engine.submit([], 1)
    with pytest.raises(UsageError, match="max_tokens"):
        engine.submit([1], 0)
    with pytest.raises(CapacityError, match="context of 16"):
        engine.submit([1] * 10, 7)


def test_two_generators_in_turn_lose_no_token() -> None:
    """Each one's steps carry the other along: what came meanwhile is still handed out, in order."""
    engine = Engine(Chain(n_slots=2), chunk=4)
    a, b = engine.generate([1, 2, 3], 9), engine.generate([4], 5)
    got_a = [next(a)]
    got_b = [next(b)]
    got_a += list(a)
    got_b += list(b)
    assert got_a == alone([1, 2, 3], 9, Sampling())
    assert got_b == alone([4], 5, Sampling())


def test_a_generator_that_is_abandoned_frees_its_slot() -> None:
    engine = Engine(Chain(n_slots=1), chunk=4)
    first = engine.generate([1, 2], 9)
    next(first)
    second = engine.submit([3], 2)
    first.close()
    while engine.busy:
        engine.step()
    assert second.answer == alone([3], 2, Sampling())


class Failing(Chain):
    """Fails every third step, after having written half of it into its cache."""

    def __init__(self) -> None:
        super().__init__(3)
        self.calls = 0

    def step(self, batch: Batch) -> np.ndarray:
        self.calls += 1
        if self.calls > 0 and self.calls % 3 == 0:
            half = len(batch) // 2
            super().step(Batch(batch.tokens[:half], batch.positions[:half], batch.slots[:half], []))
            raise ClusterError("a node is gone")
        return super().step(batch)


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("chunk", [3, 7, 512])
def test_a_failed_step_loses_and_doubles_nothing(chunk: int, anew: bool) -> None:
    """Tried again on the same runner, and on others with an empty cache."""
    asks = [(list(range(1, 25)), 9), ([4, 4, 2], 20), (list(range(40, 5, -1)), 5), ([7], 12)]
    engine = Engine(Failing(), chunk=chunk)
    hot = Sampling(temperature=1.0, seed=3)
    streams = [engine.submit(prompt, n, hot) for prompt, n in asks]
    while engine.busy:
        try:
            engine.step()
        except ClusterError:
            if anew:  # enough steps between two failures to get through the rebuilding
                runner = Failing()
                runner.calls = -60
                engine.rebuild(runner)
    assert [s.answer for s in streams] == [alone(prompt, n, hot) for prompt, n in asks]


def test_a_runner_of_another_size_cannot_take_over() -> None:
    engine = Engine(Chain(2))
    with pytest.raises(UsageError, match="3 slots"):
        engine.rebuild(Chain(3))
    with pytest.raises(UsageError, match="context of 32"):
        engine.rebuild(Chain(2, context=32))
