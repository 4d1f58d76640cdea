"""SentencePiece-style BPE (`tokenizer.ggml.model` llama): no merge list. Of all neighbours that form a token, the pair
whose token scores highest is merged, the leftmost of equals first; what stays outside the vocabulary becomes bytes.

`tokenizers` merges by ranked pairs. Ranking pairs by the score of what they form gives the same ids as long as no two
such tokens tie: a span that becomes a token is merged in the same inner order whatever stands around it, so of the
pairs that could form it one only ever occurs. Real vocabularies tie at the bottom (Llama's runs of spaces all score
-1e9): the engine makes the merges above the highest tie, and `merge` goes on from there, in plain Python.
"""

import heapq
from collections.abc import Mapping
from itertools import pairwise
from math import inf

from tokenizers import Tokenizer as Engine
from tokenizers import models

from motley.errors import FormatError
from motley.formats.vocabulary import PREFIX, Vocabulary

SPACE = "▁"


def merge(symbols: list[str], scores: Mapping[str, float]) -> list[str]:
    """The definition: neighbours join while they form a token of `scores`. Characters (or tokens) in, symbols out."""
    symbols = symbols.copy()
    after = [*range(1, len(symbols)), -1]
    before = list(range(-1, len(symbols) - 1))
    queue: list[tuple[float, int, int, str]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right >= 0 and (score := scores.get(joined := symbols[left] + symbols[right])) is not None:
            heapq.heappush(queue, (-score, left, right, joined))

    for right in range(1, len(symbols)):
        offer(right - 1, right)
    while queue:
        _, left, right, joined = heapq.heappop(queue)
        # a pair is stale once either side was merged away or grew
        if not symbols[left] or not symbols[right] or symbols[left] + symbols[right] != joined:
            continue
        symbols[left], symbols[right] = joined, ""
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        offer(before[left], left)
        offer(left, after[left])
    return [symbol for symbol in symbols if symbol]


class SentencePiece:
    def __init__(self, vocabulary: Vocabulary) -> None:
        if vocabulary.scores is None:
            raise FormatError(f"{PREFIX}scores is missing: a 'llama' vocabulary cannot be used without it")
        words = vocabulary.merge_vocabulary
        self._texts = vocabulary.tokens
        self._scores = {text: vocabulary.scores[id] for text, id in words.items()}
        self._unknown = [] if vocabulary.unknown is None else [vocabulary.unknown]
        byte_texts = [f"<0x{byte:02X}>" for byte in range(256)]
        self._bytes = {byte: vocabulary.ids[t] for byte, t in enumerate(byte_texts) if t in vocabulary.ids}
        self._ids = words | {self._texts[id]: id for id in [*self._bytes.values(), *self._unknown]}
        pairs = self._pairs()
        tie = _highest_tie(pairs)
        self._settled = tie == -inf  # the engine's ids are final
        self._engine = self._build_engine([pair for pair in pairs if pair[0] > tie])

    def encode(self, text: str) -> list[int]:
        """`text`, with its prefix space if it gets one -> ids."""
        text = text.replace(" ", SPACE)
        symbols = list(text)
        if self._engine is not None:
            ids: list[int] = self._engine.encode(text, add_special_tokens=False).ids
            if self._settled:
                return ids
            symbols = [self._texts[id] for id in ids]
        return [id for symbol in merge(symbols, self._scores) for id in self._symbol_ids(symbol)]

    def _symbol_ids(self, symbol: str) -> list[int]:
        if symbol in self._ids:
            return [self._ids[symbol]]
        data = symbol.encode()
        return [self._bytes[byte] for byte in data] if all(b in self._bytes for b in data) else self._unknown

    def _pairs(self) -> list[tuple[float, str, int]]:
        """Every way to form a token from two: (score, token, length of the left part), best first."""
        pairs = [
            (score, text, k)
            for text, score in self._scores.items()
            for k in range(1, len(text))
            if text[:k] in self._scores and text[k:] in self._scores
        ]
        return sorted(pairs, key=lambda pair: -pair[0])

    def _build_engine(self, pairs: list[tuple[float, str, int]]) -> Engine | None:
        """None where there is nothing for it to do, or where characters outside the vocabulary take part in merges,
        which it would turn to bytes first."""
        alphabet = {text for text in self._scores if len(text) == 1}
        if not pairs or not alphabet.issuperset("".join(self._scores)):
            return None
        merges = [(text[:k], text[k:]) for _, text, k in pairs]
        unknown = self._texts[self._unknown[0]] if self._unknown else None
        return Engine(models.BPE(vocab=self._ids, merges=merges, unk_token=unknown, byte_fallback=True))

    @staticmethod
    def bytes_of(text: str) -> bytes:
        return text.replace(SPACE, " ").encode()


def _highest_tie(pairs: list[tuple[float, str, int]]) -> float:
    """The best score that two different tokens share; pairs come best first."""
    for (score, text, _), (next_score, next_text, _) in pairwise(pairs):
        if score == next_score and text != next_text:
            return score
    return -inf
