"""Prompts for servers whose vocabulary nobody gave us: random common words, as many as make so many tokens.

The words (`words.txt`) are short and common, as those are one token each in most large vocabularies. How many tokens a
text really is, the server says (`Counting`); where it doesn't, the number of words stands in, and results say so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from random import Random

WORDS = (files("motley.bench") / "words.txt").read_text("utf-8").split()


@dataclass(frozen=True)
class Counting:
    """tokens = overhead + per_word * words, of one server."""

    overhead: float = 0.0  # a chat template, a token that begins every text
    per_word: float = 1.0

    @classmethod
    def of(cls, points: Sequence[tuple[int, int]]) -> "Counting":
        """From (words, tokens) of a short and a long text; as if they were equal, where the points make no sense."""
        (few, small), (many, large) = points
        if many <= few or large <= small:
            return cls()
        per_word = (large - small) / (many - few)
        return cls(small - per_word * few, per_word)

    def words(self, tokens: int) -> int:
        return max(1, round((tokens - self.overhead) / self.per_word))

    def tokens(self, words: int) -> int:
        return max(1, round(self.overhead + self.per_word * words))


def texts(words: int, seed: int = 0) -> Iterator[str]:
    """Without end; no two begin alike, so that no server answers one from another's cache."""
    random = Random(seed)
    while True:
        yield " ".join(random.choices(WORDS, k=words))
