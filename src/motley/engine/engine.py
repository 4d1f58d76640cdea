"""Engine: several sequences at once over one Runner. Owns the KV slots, chunked prefill, sampling and stopping.

Each step carries one token of every decoding sequence and, while room is left, a chunk of the prefills in the order
they came. It never sees a tensor but the logits. A slot keeps what was computed when its sequence ended; a prompt
that begins like it starts behind what they share (`engine.reuse`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from motley.engine.reuse import Slots
from motley.engine.runner import Runner
from motley.engine.sampling import Sampling, sample
from motley.errors import CapacityError, UsageError
from motley.ops.protocol import Batch
from motley.predict.workload import STEP_TOKENS

GREEDY = Sampling()

# From logits [V] and the sequence so far: its next token.
Choose = Callable[[NDArray[np.float32], "Stream"], int]


@dataclass(eq=False)
class Stream:
    """One sequence: a prompt on its way to its answer. `choose`: in the place of `sample` with `sampling`."""

    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    stop: frozenset[int]
    choose: Choose | None = None
    answer: list[int] = field(default_factory=list)
    computed: int = 0  # tokens whose keys and values are in the cache
    slot: int = -1
    reused: int = 0  # tokens of the prompt that its slot had already

    @property
    def done(self) -> bool:
        return len(self.answer) >= self.max_tokens or bool(self.answer and self.answer[-1] in self.stop)

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)

    @property
    def tokens(self) -> list[int]:
        """Prompt and answer."""
        return self.prompt + self.answer

    def pending(self, most: int) -> list[int]:
        """The next tokens to compute, `most` at the most."""
        if self.computed >= len(self.prompt):
            return self.answer[self.computed - len(self.prompt) :][:most]
        return self.prompt[self.computed : self.computed + most]


class Engine:
    """`chunk`: how many tokens a step may carry; a longer prompt is prefilled over several steps. `beside`: how many
    of a prompt's, where others decode and wait for the step (default: as many as there is room for)."""

    def __init__(self, runner: Runner, chunk: int = STEP_TOKENS, beside: int | None = None) -> None:
        self.runner = runner
        self.chunk = max(chunk, runner.n_slots)
        self.beside = self.chunk if beside is None else beside
        self.runner_s = 0.0  # seconds spent in the runner's steps so far
        self.runner_tokens = 0  # that these carried
        self._memory = Slots(runner.n_slots)
        self._waiting: deque[Stream] = deque()
        self._running: list[Stream] = []

    @property
    def busy(self) -> bool:
        """Whether a sequence waits or runs."""
        return bool(self._waiting or self._running)

    @property
    def running(self) -> Sequence[Stream]:
        """Those that have a slot."""
        return self._running

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def submit(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling = GREEDY,
        stop: frozenset[int] = frozenset(),
        choose: Choose | None = None,
    ) -> Stream:
        """Queue a sequence. Raises UsageError on an empty prompt, CapacityError if it can't fit the context."""
        if not prompt:
            raise UsageError("the prompt is empty: give at least one token")
        if max_tokens < 1:
            raise UsageError(f"max_tokens = {max_tokens} must be at least 1")
        if len(prompt) + max_tokens > self.runner.context:
            raise CapacityError(
                f"{len(prompt)} prompt tokens and {max_tokens} new ones exceed the context of {self.runner.context}: "
                "shorten the prompt, ask for fewer, or load with a longer context"
            )
        stream = Stream(list(prompt), max_tokens, sampling, stop, choose)
        self._waiting.append(stream)
        return stream

    def cancel(self, stream: Stream) -> None:
        """Forget a sequence and free its slot; harmless when it is done already."""
        if stream in self._waiting:
            self._waiting.remove(stream)
        if stream in self._running:
            self._release(stream)

    def step(self) -> list[Stream]:
        """One forward pass, if `busy`. Returns the streams that got a token (the last of their answer)."""
        while self._waiting and self._memory.any_free:
            stream = self._waiting.popleft()
            stream.slot, stream.reused = self._memory.take(stream.prompt, self.runner.reuse)
            stream.computed = stream.reused
            self._running.append(stream)
        shares = self._shares()
        if not shares:
            return []
        batch, samplers = _batch(shares)
        logits = self._computed(batch, shares)
        for stream, tokens in shares:
            stream.computed += len(tokens)
        for row, stream in zip(logits, samplers):
            stream.answer.append(_next(row, stream))
            if stream.done:
                self._release(stream)
        return samplers

    def watched(self) -> AbstractContextManager[None]:
        """Around whatever else asks the runner, which may be over nodes that stop answering."""
        return nullcontext()

    def rebuild(self, runner: Runner) -> None:
        """Go on with another runner, whose cache is empty: every running sequence's prompt and answer are computed
        anew, and nothing that was sampled is sampled again."""
        if runner.n_slots != self.runner.n_slots or runner.context < self.runner.context:
            raise UsageError(
                f"a runner of {runner.n_slots} slots and a context of {runner.context} can't take over from one of "
                f"{self.runner.n_slots} and {self.runner.context}: load it with the same"
            )
        self.runner = runner
        self._memory.forget()
        for stream in self._running:
            stream.computed = 0

    def generate(
        self, prompt: Sequence[int], max_tokens: int, sampling: Sampling = GREEDY, stop: frozenset[int] = frozenset()
    ) -> Iterator[int]:
        """Tokens of one sequence as they come; other submitted sequences go on beside it."""
        stream = self.submit(prompt, max_tokens, sampling, stop)
        given = 0
        try:
            while given < len(stream.answer) or not stream.done:
                while given == len(stream.answer):
                    self.step()
                while given < len(stream.answer):  # several, where another sequence's steps brought them
                    given += 1
                    yield stream.answer[given - 1]
        finally:
            self.cancel(stream)

    def _shares(self) -> list[tuple[Stream, list[int]]]:
        """Which tokens of which streams this step carries: decoding streams first, then prefills while room is left."""
        decode = [stream for stream in self._running if stream.length - stream.computed == 1]
        shares = [(stream, stream.pending(1)) for stream in decode]
        room = min(self.chunk - len(shares), self.beside) if shares else self.chunk
        for stream in self._running:
            if stream not in decode and (tokens := stream.pending(room)):
                shares.append((stream, tokens))
                room -= len(tokens)
        return shares

    def _computed(self, batch: Batch, shares: list[tuple[Stream, list[int]]]) -> NDArray[np.float32]:
        """The step's logits. If it fails, no stream has moved, and the same step may be tried again; but where layers
        keep a state, which may have moved, its streams begin anew."""
        for stream, tokens in shares:
            self._memory.will_write(stream.slot, stream.computed + len(tokens))
        started = perf_counter()
        try:
            logits = self.runner.step(batch)
        except BaseException:
            if self.runner.reuse.recurrent:
                for stream, _ in shares:
                    stream.computed = 0
            raise
        self.runner_s += perf_counter() - started
        self.runner_tokens += len(batch)
        return logits

    def _release(self, stream: Stream) -> None:
        self._running.remove(stream)
        self._memory.leave(stream.slot, (stream.prompt + stream.answer)[: stream.computed])
        stream.slot = -1


def _next(row: NDArray[np.float32], stream: Stream) -> int:
    if stream.choose:
        return stream.choose(row, stream)
    history = stream.tokens if stream.sampling.looks_back else ()
    return sample(row, history, stream.sampling, len(stream.answer))


def _batch(shares: list[tuple[Stream, list[int]]]) -> tuple[Batch, list[Stream]]:
    """The step's batch, and the streams whose next token its logits rows give, in order."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    rows: list[int] = []
    samplers = []
    for stream, share in shares:
        tokens += share
        positions += range(stream.computed, stream.computed + len(share))
        slots += [stream.slot] * len(share)
        if stream.computed + len(share) == stream.length:
            rows.append(len(tokens) - 1)
            samplers.append(stream)
    return Batch(tokens, positions, slots, rows), samplers
