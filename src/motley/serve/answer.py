"""From the scheduler's thread to the event loop: all that a step brought crosses at once, or that several did.

Writing an event costs the loop about as much as a small model's token costs the engine. So the more streams there are,
the more tokens of one ride in an event: with 16 streams, those of 3 ms. First tokens and ends never wait.
"""

import asyncio
from collections import deque
from threading import Lock
from time import perf_counter

from motley.serve.sequence import Piece, joined

EACH_S = 0.0002  # of a step's streams: so long after the last ones, the next pieces are handed over
MOST_S = 0.02

Post = tuple["Answer", int, Piece]


class Posts:
    """Filled and flushed on the scheduler's thread. While the loop is busy with an earlier step, what comes meanwhile
    is added to what it has not looked at yet."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._posts: list[Post] = []
        self._n_kept, self._urgent, self._last = 0, False, 0.0
        self._lock = Lock()
        self._waiting: list[Post] = []  # for the loop, which is told already if there is any

    def to(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def add(self, answer: "Answer", choice: int, piece: Piece) -> None:
        self._posts.append((answer, choice, piece))
        self._urgent = self._urgent or bool(piece.finish) or piece.n_tokens == 1

    def flush(self) -> None:
        """At the end of a step."""
        n, now = len(self._posts) - self._n_kept, perf_counter()
        if not self._urgent and now - self._last < min(EACH_S * n, MOST_S):
            self._n_kept = len(self._posts)
            return
        posts, self._posts = self._posts, []
        self._n_kept, self._urgent, self._last = 0, False, now
        if posts:
            self._hand_over(posts)

    def _hand_over(self, posts: list[Post]) -> None:
        with self._lock:
            told = bool(self._waiting)
            self._waiting += posts
        if told:
            return
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._hand_out)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _hand_out(self) -> None:
        with self._lock:
            posts, self._waiting = self._waiting, []
        for answer, choice, piece in posts:
            answer.put(choice, piece)


class Answer:
    """What comes of one request's choices. On the event loop, but for `deliver`."""

    def __init__(self, posts: Posts) -> None:
        self._posts = posts
        self._pieces: deque[tuple[int, Piece]] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def deliver(self, choice: int, piece: Piece) -> None:
        """On the scheduler's thread."""
        self._posts.add(self, choice, piece)

    def put(self, choice: int, piece: Piece) -> None:
        self._pieces.append((choice, piece))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> list[tuple[int, Piece]]:
        """All that is there, as soon as there is something; each choice's pieces as one."""
        if not self._pieces:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        by_choice: dict[int, list[Piece]] = {}
        for choice, piece in self._pieces:
            by_choice.setdefault(choice, []).append(piece)
        self._pieces.clear()
        return [(choice, joined(pieces)) for choice, pieces in by_choice.items()]
