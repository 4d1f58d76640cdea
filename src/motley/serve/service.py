"""The service behind the routes: a loaded model's names, its tokenizer and template, and its scheduler.

Requests become tokens on a few threads of their own (`apart`), so that a long prompt does not stop the streams.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from time import time
from typing import Any, TypeVar

from motley.engine.engine import Engine
from motley.errors import FormatError, MotleyError, UsageError
from motley.formats.chat import ChatTemplate
from motley.formats.tokenizer import Tokenizer
from motley.serve.answer import Answer, Posts
from motley.serve.grammar import Grammars
from motley.serve.journal import Journal
from motley.serve.limits import Limits
from motley.serve.metrics import Meters
from motley.serve.problems import Problem
from motley.serve.scheduler import QueueFull, Scheduler, ShuttingDown
from motley.serve.sequence import Sequence
from motley.serve.state import Placed, State
from motley.serve.tools.format import Format
from motley.shape.model import ModelShape

Result = TypeVar("Result")


@dataclass(frozen=True)
class Served:
    """The model as its clients know it."""

    name: str
    tokenizer: Tokenizer
    chat: ChatTemplate
    vocab_size: int  # of the logits; the tokenizer's may be smaller

    @cached_property
    def format(self) -> Format:
        return Format.of(self.chat.sources, self.tokenizer)

    @cached_property
    def grammars(self) -> Grammars:
        return Grammars(self.tokenizer, self.vocab_size)


class Service:
    """`start` on the event loop that serves; `close` from anywhere."""

    def __init__(
        self,
        served: Served,
        engine: Engine,
        limits: Limits | None = None,
        shape: ModelShape | None = None,
        placed: Callable[[], Placed | None] = lambda: None,
        journal: Journal | None = None,
    ) -> None:
        self.served, self.limits = served, limits or Limits()
        self.meters, self.journal = Meters(), journal or Journal()
        self.started = time()
        self.leaving = False  # who only watches should go
        self.posts = Posts()
        self.scheduler = Scheduler(engine, self.meters, self.limits.queue, self.posts.flush, self._waits)
        self.state = State(self, shape, placed)
        self._threads = ThreadPoolExecutor(self.limits.prompt_threads, "prompts")

    def start(self) -> None:
        self.posts.to(asyncio.get_running_loop())
        self.scheduler.start()

    def leave(self) -> None:
        self.leaving = True

    def _waits(self, why: str) -> None:
        self.state.note("node", why)

    def close(self) -> None:
        self.scheduler.close()
        self._threads.shutdown(cancel_futures=True)

    async def apart(self, work: Callable[..., Result], *args: Any) -> Result:
        """On a thread for prompts. What is wrong with them is the client's to know."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        except (UsageError, FormatError) as error:
            raise Problem(400, str(error)) from None

    def submit(self, sequences: list[Sequence]) -> None:
        try:
            self.scheduler.submit(sequences)
        except QueueFull as error:
            raise Problem(429, str(error), code="queue_full", retry_s=self._retry_s()) from None
        except MotleyError as error:
            raise problem_of(error) from None

    def answer(self) -> Answer:
        return Answer(self.posts)

    def _retry_s(self) -> int:
        """About as long as a sequence takes now, whose slot would then be free."""
        whole = self.meters.whole
        n = sum(whole.counts)
        return min(60, max(1, round(whole.sum / n))) if n else 1


def problem_of(error: MotleyError) -> Problem:
    """What ended a sequence under way."""
    if isinstance(error, ShuttingDown):
        return Problem(503, str(error), code="shutting_down", retry_s=5)
    if isinstance(error, UsageError):
        return Problem(400, str(error))
    return Problem(500, str(error), code="engine_error")
