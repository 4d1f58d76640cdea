"""A vocabulary as GGUF metadata tells it: every `tokenizer.ggml.*` key is read, and distrusted, here.

What comes out is consistent: as many scores and types as tokens, ids inside the vocabulary, no duplicates.
Anything else is a FormatError naming the key. Tests: tests/unit/test_tokenizer_hostile.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

from motley.errors import FormatError

PREFIX = "tokenizer.ggml."
MAX_TOKENS = 1 << 22  # the largest vocabularies in use have 2^18
MAX_TOKEN_BYTES = 4096  # the longest tokens in use have a few hundred


class TokenType(IntEnum):
    """GGUF's `token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Texts that end a generation wherever they are in a vocabulary: converters often fail to say so, therefore llama.cpp
# goes by these texts too (llama-vocab.cpp, 2026-08) and so must whoever wants to stop where it stops.
END_TEXTS = _words(
    "</s> <|eot_id|> <|eom_id|> <|im_end|> <|end|> <|endoftext|> <|end_of_text|> <|return|> <|call|> <|flush|> "
    "<|calls|> <end_of_turn> <end_of_utterance> <EOT> _<EOT> [EOT] [EOS] <eos> <｜end▁of▁sentence｜> "
    # file boundaries of the fill-in-the-middle vocabularies
    "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> "
    "<|file_sep|>"
)
# Control by their text, though no end.
MARKER_TEXTS = _words(
    "<|fim_prefix|> <fim-prefix> <fim_prefix> <PRE> ▁<PRE> <｜fim▁begin｜> <|code_prefix|> <|prefix|> "
    "<|fim_suffix|> <fim-suffix> <fim_suffix> <SUF> ▁<SUF> <｜fim▁hole｜> <|code_suffix|> <|suffix|> "
    "<|fim_middle|> <fim-middle> <fim_middle> <MID> ▁<MID> <｜fim▁end｜> <|code_middle|> <|middle|>"
)


@dataclass(frozen=True)
class Vocabulary:
    """`tokens`, `types` and `scores` have one entry per id."""

    model: str  # gpt2 | llama | ...
    pre: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    scores: tuple[float, ...] | None
    merges: tuple[tuple[str, str], ...] | None
    bos: int | None
    eos: frozenset[int]
    unknown: int | None
    add_bos: bool | None  # None: the file does not say
    add_space_prefix: bool | None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Vocabulary":
        model, pre = _string(metadata, "model"), _string(metadata, "pre", "default")
        tokens = _tokens(metadata)
        bos, eos, unknown = _DEFAULT_IDS.get(model, (None, None, None))
        ends = {_id(metadata, key, len(tokens), eos if key == "eos" else None) for key in ("eos", "eot", "eom")}
        ends |= {id for id, text in enumerate(tokens) if text in END_TEXTS}
        return cls(
            model=model,
            pre=pre or "default",
            tokens=tokens,
            types=_types(metadata, tokens),
            scores=_scores(metadata, len(tokens)),
            merges=_merges(metadata),
            bos=_id(metadata, "bos", len(tokens), bos),
            eos=frozenset(id for id in ends if id is not None),
            unknown=_id(metadata, "unknown", len(tokens), unknown),
            add_bos=_flag(metadata, "add_bos_token"),
            add_space_prefix=_flag(metadata, "add_space_prefix"),
        )

    @cached_property
    def ids(self) -> dict[str, int]:
        return {text: id for id, text in enumerate(self.tokens)}

    @cached_property
    def merge_vocabulary(self) -> dict[str, int]:
        """What plain text may become: never a control, unknown or byte token, whose text is no spelling of it."""
        never = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE)
        return {text: id for id, text in enumerate(self.tokens) if self.types[id] not in never}

    def parsed(self, control: bool) -> list[tuple[str, int]]:
        """Tokens that are found in text before anything else is done with it, longest first.

        User-defined ones always; control and unknown ones only on request.
        """
        kinds = {TokenType.USER_DEFINED} | ({TokenType.CONTROL, TokenType.UNKNOWN} if control else set())
        found = [(text, id) for id, text in enumerate(self.tokens) if self.types[id] in kinds and text]
        return sorted(found, key=lambda pair: -len(pair[0].encode()))


# bos, eos, unknown of a file that names none: llama.cpp's defaults
_DEFAULT_IDS = {"llama": (1, 2, 0), "gpt2": (11, 11, None)}


def _string(metadata: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = metadata.get(PREFIX + key, default)
    if value is None:
        raise FormatError(f"{PREFIX}{key} is missing: the file carries no tokenizer")
    if not isinstance(value, str):
        raise FormatError(f"{PREFIX}{key} must be a string, not {type(value).__name__}")
    return value


def _flag(metadata: Mapping[str, Any], key: str) -> bool | None:
    value = metadata.get(PREFIX + key)
    if value is not None and not isinstance(value, bool):
        raise FormatError(f"{PREFIX}{key} must be a bool, not {type(value).__name__}")
    return value


def _id(metadata: Mapping[str, Any], name: str, n_tokens: int, default: int | None) -> int | None:
    key = f"{PREFIX}{name}_token_id"
    value = metadata.get(key)
    if value is None:
        return default if default is not None and default < n_tokens else None
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(f"{key} must be an integer, not {type(value).__name__}")
    if not 0 <= value < n_tokens:
        raise FormatError(f"{key} is {value}, outside the vocabulary of {n_tokens} tokens")
    return value


def _list(metadata: Mapping[str, Any], key: str, kinds: tuple[type, ...], length: int | None = None) -> Sequence[Any]:
    value = metadata[PREFIX + key]
    if not isinstance(value, list | tuple):
        raise FormatError(f"{PREFIX}{key} must be an array, not {type(value).__name__}")
    if length is not None and len(value) != length:
        raise FormatError(f"{PREFIX}{key} has {len(value)} entries for {length} tokens")
    wrong = next((i for i, item in enumerate(value) if type(item) not in kinds), None)
    if wrong is not None:
        raise FormatError(f"{PREFIX}{key}[{wrong}] must be {kinds[0].__name__}, not {type(value[wrong]).__name__}")
    return value


def _tokens(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    if PREFIX + "tokens" not in metadata:
        raise FormatError(f"{PREFIX}tokens is missing: the file carries no vocabulary")
    tokens = _list(metadata, "tokens", (str,))
    if not 0 < len(tokens) <= MAX_TOKENS:
        raise FormatError(f"{PREFIX}tokens has {len(tokens)} entries; 1 to {MAX_TOKENS} are accepted")
    seen: dict[str, int] = {}
    for id, text in enumerate(tokens):
        if seen.setdefault(text, id) != id and text:
            raise FormatError(f"{PREFIX}tokens[{id}] repeats tokens[{seen[text]}], {text[:40]!r}")
        if len(text) > MAX_TOKEN_BYTES or _is_broken(text):
            raise FormatError(f"{PREFIX}tokens[{id}] is not UTF-8 text of at most {MAX_TOKEN_BYTES} bytes")
    # llama.cpp's name for a hole: it keeps the id and can never be met
    return tuple(text or f"[EMPTY_{id}]" for id, text in enumerate(tokens))


def _is_broken(text: str) -> bool:
    """Lone surrogates: how a reader may pass on bytes that are not UTF-8."""
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)


def _types(metadata: Mapping[str, Any], tokens: Sequence[str]) -> tuple[TokenType, ...]:
    types = [TokenType.NORMAL] * len(tokens)
    if PREFIX + "token_type" in metadata:
        known = {int(kind): kind for kind in TokenType}
        stored = _list(metadata, "token_type", (int,), len(tokens))
        types = [known.get(value, TokenType.UNDEFINED) for value in stored]
    for id, text in enumerate(tokens):
        if text in END_TEXTS or text in MARKER_TEXTS:
            types[id] = TokenType.CONTROL
    return tuple(types)


def _scores(metadata: Mapping[str, Any], n_tokens: int) -> tuple[float, ...] | None:
    if PREFIX + "scores" not in metadata:
        return None
    scores = tuple(float(score) for score in _list(metadata, "scores", (float, int), n_tokens))
    wrong = next((i for i, score in enumerate(scores) if not math.isfinite(score)), None)
    if wrong is not None:
        raise FormatError(f"{PREFIX}scores[{wrong}] is {scores[wrong]}, not a finite number")
    return scores


def _merges(metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """'left right' lines; the space that parts them is never the first character."""
    if PREFIX + "merges" not in metadata:
        return None
    lines = _list(metadata, "merges", (str,))
    if len(lines) > MAX_TOKENS:
        raise FormatError(f"{PREFIX}merges has {len(lines)} entries; at most {MAX_TOKENS} are accepted")
    merges = []
    for i, line in enumerate(lines):
        at = line.find(" ", 1)
        if at < 0 or at + 1 == len(line):
            raise FormatError(f"{PREFIX}merges[{i}] is {line[:40]!r}, not two parts with a space between")
        merges.append((line[:at], line[at + 1 :]))
    return tuple(merges)
