"""What crosses from the scheduler to the loop: everything, in order; much at once where there are many streams."""

import asyncio
from collections.abc import Callable

import pytest

from motley.serve import answer
from motley.serve.answer import Answer, Posts
from motley.serve.sequence import Piece


class Loop:
    """Keeps what it is told until `turn`."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_a_busy_loop_is_told_once_and_gets_all() -> None:
    loop, posts = Loop(), Posts()
    posts.to(loop)  # type: ignore[arg-type]
    got = Answer(posts)
    for i in range(5):
        got.deliver(0, Piece(str(i), n_tokens=1))  # a first token each, so nothing waits
        posts.flush()
    assert len(loop.calls) == 1
    loop.turn()
    ((choice, piece),) = asyncio.run(got.next())
    assert (choice, piece.text) == (0, "01234")


def test_many_streams_wait_for_each_other_first_tokens_and_ends_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, posts, now = Loop(), Posts(), [100.0]
    posts.to(loop)  # type: ignore[arg-type]
    monkeypatch.setattr(answer, "perf_counter", lambda: now[0])
    got = Answer(posts)

    def step(n: int, **piece: object) -> int:
        """-> how often the loop was told"""
        for choice in range(n):
            got.deliver(choice, Piece("x", **{"n_tokens": 2, **piece}))  # type: ignore[arg-type]
        posts.flush()
        told = len(loop.calls)
        loop.turn()
        now[0] += 0.001
        return told

    assert [step(16) for _ in range(8)] == [1, 0, 0, 0, 1, 0, 0, 0]  # 16 * 0.2 ms
    assert step(16, n_tokens=1) == 1
    assert step(16) == 0
    assert step(16, finish="stop") == 1
    assert [step(1) for _ in range(3)] == [1, 1, 1]
    pieces = dict(asyncio.run(got.next()))
    assert len(pieces[0].text) == 14
    assert len(pieces[15].text) == 11
