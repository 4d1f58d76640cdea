"""One sequence that is being answered: what it is, how its next token is chosen, and what its client gets of it.

A `Sequence` lives on the scheduler's thread from `submit` on; a client sees only its `Piece`s.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import msgspec

from motley.engine.engine import Stream
from motley.errors import MotleyError
from motley.formats.tokenizer import Tokenizer
from motley.serve.choosing import Chooser, TokenOdds
from motley.serve.text import Stops


@dataclass
class Timings:
    """By `perf_counter`; 0: not yet."""

    asked: float = 0.0
    started: float = 0.0  # it had a slot
    first: float = 0.0  # its first token was there
    ended: float = 0.0


class Piece(msgspec.Struct, frozen=True):  # cheaper to make than a dataclass; there is one a token
    """What a step brought. `finish`: "" while it goes on; "stop", "length", "error"."""

    text: str = ""
    odds: tuple[TokenOdds, ...] = ()
    n_tokens: int = 0  # so far
    finish: str = ""
    stop: str = ""  # the stop string that was found
    error: MotleyError | None = None


def joined(pieces: list[Piece]) -> Piece:
    """A sequence's pieces as one, its end's the last one's."""
    if len(pieces) == 1:
        return pieces[0]
    odds = tuple(odds for piece in pieces for odds in piece.odds)
    return msgspec.structs.replace(pieces[-1], text="".join(piece.text for piece in pieces), odds=odds)


Deliver = Callable[[Piece], None]


@dataclass(eq=False)
class Sequence:
    """`deliver` is called on the scheduler's thread."""

    prompt: list[int]
    max_tokens: int
    chooser: Chooser
    tokenizer: Tokenizer
    deliver: Deliver
    stops: Stops
    ends: frozenset[int]  # tokens that end it
    shown: Mapping[int, str] = field(default_factory=dict)  # control tokens that are part of the text
    continues: bool = False  # its text goes on from another one
    stream: Stream | None = None
    timings: Timings = field(default_factory=lambda: Timings(asked=perf_counter()))
    ended: bool = False

    def __post_init__(self) -> None:
        self._decoder = self.tokenizer.stream(continues=self.continues)
        self._taken = 0

    @property
    def cached(self) -> int:
        """Tokens of the prompt that its slot knew already."""
        return self.stream.reused if self.stream else 0

    def take(self) -> Piece:
        """What has come since the last time."""
        assert self.stream is not None
        answer, text, odds = self.stream.answer, "", list[TokenOdds]()
        self.timings.first = self.timings.first or perf_counter()
        for token in answer[self._taken :]:
            if token not in self.ends:
                text += self.stops.push(self._text_of(token))
                odds += self.chooser.take()
        self._taken = len(answer)
        finish = self._finish()
        if finish and not self.stops.found:
            text += self.stops.push(self._decoder.end()) + self.stops.end()
        return Piece(text, tuple(odds), len(answer), finish, self.stops.found, self.chooser.error)

    def _text_of(self, token: int) -> str:
        if token in self.shown:
            return self.shown[token]
        # Logits may be wider than the vocabulary: what lies beyond it is no text.
        return self._decoder.push(token) if token < self.tokenizer.vocab_size else ""

    def _finish(self) -> str:
        assert self.stream is not None
        if self.chooser.error:
            return "error"
        if self.stops.found or self.stream.answer[-1] in self.ends or self.chooser.complete:
            return "stop"
        return "length" if self.stream.done else ""
