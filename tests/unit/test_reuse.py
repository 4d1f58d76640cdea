"""Slots that keep what was computed: from where they are taken up, and that the answers stay the same."""

from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.engine.engine import Engine, Stream
from motley.engine.reuse import Reuse, Slots
from motley.engine.runner import ExchangeCount
from motley.engine.times import StepTimes
from motley.errors import ClusterError
from motley.ops.protocol import Batch
from motley.shape.mixer import Mixer

VOCAB = 40
WINDOW = Reuse(window=4, rewind=3)
STATE = Reuse(recurrent=True)
KINDS = (Reuse(), WINDOW, STATE, Reuse(4, 3, True))


@pytest.mark.parametrize(
    ("reuse", "shared", "held", "written", "start"),
    [
        (Reuse(), 5, 9, 9, 5),
        (Reuse(), 0, 9, 30, 0),
        (WINDOW, 2, 7, 7, 2),  # nothing left behind yet
        (WINDOW, 2, 5, 8, 0),
        (WINDOW, 5, 8, 8, 5),  # the last three may be computed anew
        (WINDOW, 4, 8, 8, 0),
        (WINDOW, 6, 6, 9, 6),
        (STATE, 9, 9, 9, 9),
        (STATE, 8, 9, 9, 0),
        (Reuse(4, 3, True), 20, 20, 20, 20),
        (Reuse(4, 3, True), 19, 20, 20, 0),
    ],
)
def test_where_a_slot_is_taken_up(reuse: Reuse, shared: int, held: int, written: int, start: int) -> None:
    assert reuse.start(shared, held, written) == start


def test_what_layers_say_together() -> None:
    full = Mixer.full(4, 2, 8)
    assert Reuse.of([full, full], 7) == Reuse(0, 7, False)
    assert Reuse.of([full, full.windowed(9), full.windowed(5)], 7) == Reuse(5, 7, False)
    assert Reuse.of([full, Mixer.linear(100, 100)], 7) == Reuse(0, 7, True)
    assert Reuse(0, 0, False).beside(Reuse(9, 7, True)) == Reuse(9, 7, True)
    assert Reuse(5, 256).beside(Reuse(9, 0)) == Reuse(5, 0)


def test_the_slot_with_the_longest_beginning_else_the_one_left_longest_ago() -> None:
    slots = Slots(3)
    taken = [slots.take([1], Reuse())[0] for _ in range(3)]
    for slot, tokens in zip(taken, ([1, 2, 3], [1, 2, 9, 9], [7, 8])):
        slots.leave(slot, tokens)
    assert slots.take([1, 2, 9, 5], Reuse()) == (1, 3)
    assert slots.take([1, 2, 3], Reuse()) == (0, 2)  # the last token is computed in any case
    slots.leave(0, [4])
    assert slots.take([6, 6], Reuse()) == (2, 0)


def test_conversations_with_a_word_in_common_keep_a_slot_each() -> None:
    """Two in turn, each as long as before and some more; both begin with the same 3 tokens, as templates make them."""
    slots, said = Slots(8), {10: [1, 2, 3, *[10] * 500], 20: [1, 2, 3, *[20] * 500]}
    taken: dict[int, list[tuple[int, int]]] = {10: [], 20: []}
    for _ in range(3):
        for who in said:
            slot, start = slots.take(said[who], Reuse())
            taken[who].append((slot, start))
            slots.leave(slot, said[who])
            said[who] = [*said[who], *[who] * 40]
    assert [start for _, start in taken[10]] == [start for _, start in taken[20]] == [0, 503, 543]
    assert len({slot for slot, _ in taken[10]}) == len({slot for slot, _ in taken[20]}) == 1


class Forgetful:
    """Logits from a hash of what the slot's layers see by `reuse`: a ring of the window and what is kept beside it, a
    state that only moves on, or everything."""

    def __init__(self, reuse: Reuse, n_slots: int = 2, context: int = 64) -> None:
        self.reuse, self.n_slots, self.context = reuse, n_slots, context
        capacity = reuse.window + reuse.rewind if reuse.window else context
        self._ring = np.full((n_slots, capacity, 2), -1)
        self._states = [0] * n_slots
        self.fails_after = -1
        self.computed = 0

    def step(self, batch: Batch) -> np.ndarray:
        rows, wanted = [], set(batch.rows.tolist())
        for i, (token, slot, position) in enumerate(zip(batch.tokens, batch.slots, batch.positions)):
            self.fails_after -= 1
            if self.fails_after == 0:
                raise ClusterError("a node is gone")
            self.computed += 1
            ring, capacity = self._ring[slot], self._ring.shape[1]
            ring[position % capacity] = position, token
            first = max(0, position + 1 - self.reuse.window) if self.reuse.window else 0
            seen = [ring[p % capacity].tolist() for p in range(first, position + 1)]
            self._states[slot] = hash((self._states[slot] if position else 0, int(token)))
            if i in wanted:
                history = repr((seen, self._states[slot] if self.reuse.recurrent else 0))
                rows.append(np.random.default_rng(crc32(history.encode())).standard_normal(VOCAB))
        return np.array(rows, np.float32).reshape(len(rows), VOCAB)

    def times(self) -> StepTimes:
        return StepTimes()

    def routes(self) -> np.ndarray:
        return np.zeros((1, 1), np.int64)

    def exchanges(self) -> list[ExchangeCount]:
        return []


def alone(reuse: Reuse, stream: Stream) -> list[int]:
    return list(Engine(Forgetful(reuse)).generate(stream.prompt, stream.max_tokens))


# A prompt: so many tokens of an earlier sequence (by number), then others.
ASKS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 40), st.lists(st.integers(0, 3), min_size=1, max_size=9)),
    min_size=1,
    max_size=12,
)


@given(st.sampled_from(KINDS), ASKS, st.integers(1, 9), st.integers(1, 3), st.integers(-1, 60))
@settings(max_examples=60, deadline=None)
def test_answers_are_those_without_reuse(
    reuse: Reuse, asks: list[tuple[int, int, list[int]]], chunk: int, n_slots: int, fails_after: int
) -> None:
    runner = Forgetful(reuse, n_slots)
    runner.fails_after = fails_after
    engine = Engine(runner, chunk=chunk)
    streams: list[Stream] = []
    for i, (of, n, more) in enumerate(asks):
        earlier = streams[of % len(streams)] if streams else None
        begin = (earlier.prompt + earlier.answer)[:n] if earlier else []
        streams.append(engine.submit([*begin, *more], 6))
        for _ in range(i % 4):  # some end, some go on, some are given up
            try:
                engine.step()
            except ClusterError:
                continue
        if i % 5 == 4:
            engine.cancel(streams[i - 1])
    while engine.busy:
        try:
            engine.step()
        except ClusterError:
            continue
    assert all(s.answer == alone(reuse, s)[: len(s.answer)] for s in streams)
    assert all(s.done for i, s in enumerate(streams) if i % 5 != 3 or i + 1 == len(streams))


def test_a_conversation_computes_only_what_is_new() -> None:
    runner = Forgetful(STATE)
    engine = Engine(runner)
    first = engine.submit(list(range(20)), 5)
    while engine.busy:
        engine.step()
    second = engine.submit([*first.prompt, *first.answer, 3, 4], 1)
    before = runner.computed
    engine.step()
    assert (second.reused, runner.computed - before) == (24, 3)  # the last token of an answer was never computed
    assert second.answer == alone(STATE, second)


def test_after_a_rebuild_nothing_is_reused() -> None:
    engine = Engine(Forgetful(Reuse()))
    first = engine.submit(list(range(20)), 5)
    while engine.busy:
        engine.step()
    engine.rebuild(Forgetful(Reuse()))
    again = engine.submit(first.prompt, 5)
    while engine.busy:
        engine.step()
    assert (again.reused, again.answer) == (0, first.answer)
