"""A runner whose next token is the last one plus one, and sequences over it that remember what they were given."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from motley.bundled import model_path
from motley.engine.engine import Engine
from motley.engine.reuse import Reuse
from motley.engine.runner import ExchangeCount
from motley.engine.sampling import Sampling
from motley.engine.times import StepTimes
from motley.formats.checkpoint import open_checkpoint
from motley.formats.tokenizer import Tokenizer
from motley.ops.protocol import Batch
from motley.serve.choosing import Chooser
from motley.serve.metrics import Meters
from motley.serve.scheduler import Scheduler
from motley.serve.sequence import Piece, Sequence
from motley.serve.text import Stops

TOKENIZER = Tokenizer.from_metadata(open_checkpoint(model_path()).metadata)
VOCAB = TOKENIZER.vocab_size
WAIT_S = 20.0


class Counting:
    """`gate`: each step waits for it, where there is one."""

    def __init__(self, n_slots: int = 2, context: int = 256, gate: threading.Semaphore | None = None) -> None:
        self.n_slots, self.context, self.gate = n_slots, context, gate
        self.reuse = Reuse()
        self.batches: list[list[int]] = []  # the slots of each step's tokens
        self.fail: Callable[[], None] = lambda: None

    def step(self, batch: Batch) -> np.ndarray:
        if self.gate:
            assert self.gate.acquire(timeout=WAIT_S)
        self.fail()
        self.batches.append(batch.slots.tolist())
        logits = np.zeros((len(batch.rows), VOCAB), np.float32)
        logits[np.arange(len(batch.rows)), (batch.tokens[batch.rows] + 1) % VOCAB] = 9.0
        return logits

    def times(self) -> StepTimes:
        return StepTimes(attention=float(len(self.batches)))

    def routes(self) -> np.ndarray:
        return np.full((2, 4), len(self.batches))

    def exchanges(self) -> list[ExchangeCount]:
        return []


@dataclass
class Got:
    """What one sequence was given."""

    pieces: list[Piece] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)

    def __call__(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.begun.set()
        if piece.finish:
            self.ended.set()

    def wait(self) -> Piece:
        assert self.ended.wait(WAIT_S)
        return self.pieces[-1]


def sequence(
    got: Got, prompt: list[int], max_tokens: int = 10, stops: list[str] | None = None, chooser: Chooser | None = None
) -> Sequence:
    return Sequence(
        prompt=prompt,
        max_tokens=max_tokens,
        chooser=chooser or Chooser(Sampling()),
        tokenizer=TOKENIZER,
        deliver=got,
        stops=Stops(stops or []),
        ends=frozenset({0}),
    )


def scheduler(runner: Counting, queue: int = 8, beside: int = 64, chunk: int = 512) -> Scheduler:
    return Scheduler(Engine(runner, chunk, beside), Meters(), queue, lambda: None)
