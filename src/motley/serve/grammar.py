"""Answers that must fit a grammar, by llguidance: which tokens may come next, as a mask over the logits.

Grammars come from requests, so each has a budget (`BUDGET`): one that would cost more ends its own request. A JSON
schema that refers to a file or an address is refused by llguidance, which fetches nothing.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from motley.errors import UsageError
from motley.formats.tokenizer import Tokenizer
from motley.serve.problems import Problem

# Between JSON's tokens: a space, or a line's end and its indentation. Without an end to it, a model that is made to
# write JSON may write nothing but space. (The bound is llama.cpp's.)
SPACE = r" ?|\n{1,2}[ \t]{0,20}"
BUDGET = {
    "initial_lexer_fuel": 1_000_000,  # about 20 ms
    "step_lexer_fuel": 100_000,  # about 7 ms
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,  # 1 to 2 KB each
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}


class Grammar:
    """`choosing.Constraint` of one sequence."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size
        self._words = np.zeros((vocab_size + 31) // 32, np.int32)

    def copy(self) -> "Grammar":
        return Grammar(self._matcher.deep_copy(), self._vocab_size)

    @property
    def complete(self) -> bool:
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.bool_]:
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        self._check()
        bits = np.unpackbits(self._words.view(np.uint8), count=self._vocab_size, bitorder="little")
        return bits.view(np.bool_)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UsageError(f"the grammar can't go on: {self._matcher.get_error()[:300]}; give a simpler schema")


class Grammars:
    """Of one model. From any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size

    @cached_property
    def _ll(self) -> llguidance.LLTokenizer:
        return llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Vocabulary(self._tokenizer, self._vocab_size)),
            n_vocab=self._vocab_size,
            eos_token=sorted(self._tokenizer.eos),
        )

    def compile(self, lark: str, param: str) -> Grammar:
        """`param`: the request's field that it comes from."""
        limits = llguidance.LLParserLimits(**BUDGET)  # type: ignore[arg-type]
        grammar = llguidance.LLMatcher.grammar_from_lark(lark)
        matcher = llguidance.LLMatcher(self._ll, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise Problem(400, f"{param}: {matcher.get_error()[:300]}", param=param)
        made = Grammar(matcher, self._vocab_size)
        made.allowed()  # the first is the dearest: here it makes no stream wait
        return made

    def literal(self, text: str) -> str:
        """`text` in Lark, its control tokens as tokens."""
        pieces, at = [], 0
        while at < len(text):
            end, id = min(((text.find(mark, at), id) for mark, id in self._marks if mark in text[at:]), default=(-1, 0))
            plain = text[at:] if end < 0 else text[at:end]
            if plain:
                pieces.append(json.dumps(plain, ensure_ascii=False))
            if end < 0:
                break
            pieces.append(f"<[{id}]>")
            at = end + len(self._tokenizer.token_text(id))
        return " ".join(pieces)

    @cached_property
    def _marks(self) -> list[tuple[str, int]]:
        ids = range(self._tokenizer.vocab_size)
        return [(self._tokenizer.token_text(id), id) for id in ids if self._tokenizer.is_control(id)]


class _Vocabulary:
    """As llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        n = min(tokenizer.vocab_size, vocab_size)
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.eos)
        self.bos_token_id = tokenizer.bos
        self.tokens: Sequence[bytes] = [tokenizer.token_bytes(id) for id in range(n)] + [b""] * (vocab_size - n)
        self.special_token_ids = [id for id in range(n) if tokenizer.is_control(id)]

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def json_rule(schema: Mapping[str, Any]) -> str:
    """What fits the schema, in Lark."""
    options = {"whitespace_pattern": SPACE}
    return "%json " + json.dumps({**schema, "x-guidance": options})
