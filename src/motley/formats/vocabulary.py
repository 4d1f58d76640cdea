"""A vocabulary as GGUF metadata tells it: every `tokenizer.ggml.*` key is read, and distrusted, here.

What comes out is consistent: as many scores and types as tokens, ids inside the vocabulary, no duplicates.
Anything else is a FormatError naming the key. Tests: tests/unit/test_tokenizer_hostile.py.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, TypeVar

from motley.errors import FormatError
from motley.formats.metadata import get_bool, get_int, get_list, get_str

T = TypeVar("T")
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_SURROGATE = re.compile("[\ud800-\udfff]")  # how a reader may pass on bytes that are not UTF-8
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
# goes by these texts too (llama-vocab.cpp, 2026-10) and so must whoever wants to stop where it stops.
END_TEXTS = _words(
    "</s> <|eot_id|> <|eom_id|> <|im_end|> <|end|> <|endoftext|> <|end_of_text|> <|return|> <|call|> <|flush|> "
    "<|calls|> <end_of_turn> <end_of_utterance> <EOT> _<EOT> [EOT] [EOS] <eos> <｜end▁of▁sentence｜> <turn|> "
    "<|tool_response> [e~[ "
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


def _end_texts(tokens: Collection[str]) -> frozenset[str]:
    """Those of `END_TEXTS` that end a generation in a vocabulary of these tokens."""
    ends = END_TEXTS
    harmony = {"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"}, {"<|call|>", "<|flush|>"}
    if any(marks.issubset(tokens) for marks in harmony):
        ends -= {"<|end|>"}  # ends a message, and the next one may follow
    if "<|tool_response>" in tokens:
        ends -= {"</s>"}  # Gemma 4's, where it is a piece of HTML
    return ends


@dataclass(frozen=True)
class Vocabulary:
    """`tokens`, `types` and `scores` have one entry per id."""

    model: str  # gpt2 | llama | gemma4 | ...
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
        model = get_str(metadata, PREFIX + "model")
        tokens = _tokens(metadata)
        bos, eos, unknown = _DEFAULT_IDS.get(model, (None, None, None))
        ends = {_id(metadata, "eos", len(tokens), eos), *(_id(metadata, key, len(tokens)) for key in ("eot", "eom"))}
        end_texts = _end_texts(frozenset(tokens))
        ends |= {id for id, text in enumerate(tokens) if text in end_texts}
        return cls(
            model=model,
            pre="gemma4" if model == "gemma4" else get_str(metadata, PREFIX + "pre", "") or "default",
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


# bos, eos, unknown of a file that names none: SentencePiece's own. (llama.cpp takes id 11, Falcon's, for every
# byte-level vocabulary that names none; a comma must not end a text here.)
_DEFAULT_IDS = {"llama": (1, 2, 0)}


def special_text(metadata: Mapping[str, Any], name: str) -> str:
    """The text of the `bos` or `eos` token; empty where there is none."""
    tokens = get_list(metadata, PREFIX + "tokens", str, [])
    ids = dict(zip(("bos", "eos"), _DEFAULT_IDS.get(metadata.get(PREFIX + "model", ""), ()), strict=False))
    id = _id(metadata, name, len(tokens), ids.get(name))
    return "" if id is None else tokens[id]


def _flag(metadata: Mapping[str, Any], key: str) -> bool | None:
    return get_bool(metadata, PREFIX + key) if PREFIX + key in metadata else None


def _id(metadata: Mapping[str, Any], name: str, n_tokens: int, default: int | None = None) -> int | None:
    key = f"{PREFIX}{name}_token_id"
    if key not in metadata:
        return default if default is not None and default < n_tokens else None
    id = get_int(metadata, key)
    if not 0 <= id < n_tokens:
        raise FormatError(f"{key} is {id}, outside the vocabulary of {n_tokens} tokens")
    return id


def _one_per_token(metadata: Mapping[str, Any], key: str, of: type[T], n_tokens: int) -> list[T]:
    values = get_list(metadata, PREFIX + key, of)
    if len(values) != n_tokens:
        raise FormatError(f"{PREFIX}{key} has {len(values)} entries for {n_tokens} tokens")
    return values


def _tokens(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    tokens = get_list(metadata, PREFIX + "tokens", str)
    if not 0 < len(tokens) <= MAX_TOKENS:
        raise FormatError(f"{PREFIX}tokens has {len(tokens)} entries; 1 to {MAX_TOKENS} are accepted")
    seen: dict[str, int] = {}
    for id, text in enumerate(tokens):
        if seen.setdefault(text, id) != id and text:
            raise FormatError(f"{PREFIX}tokens[{id}] repeats tokens[{seen[text]}], {text[:40]!r}")
        if len(text) > MAX_TOKEN_BYTES or (not text.isascii() and _SURROGATE.search(text)):
            raise FormatError(f"{PREFIX}tokens[{id}] is not UTF-8 text of at most {MAX_TOKEN_BYTES} bytes")
    # llama.cpp's name for a hole: it keeps the id and can never be met
    return tuple(text or f"[EMPTY_{id}]" for id, text in enumerate(tokens))


def _types(metadata: Mapping[str, Any], tokens: Sequence[str]) -> tuple[TokenType, ...]:
    types = [TokenType.NORMAL] * len(tokens)
    if PREFIX + "token_type" in metadata:
        known = {int(kind): kind for kind in TokenType}
        stored = _one_per_token(metadata, "token_type", int, len(tokens))
        types = [known.get(value, TokenType.UNDEFINED) for value in stored]
    control = _end_texts(frozenset(tokens)) | MARKER_TEXTS
    for id, text in enumerate(tokens):
        if text in control:
            types[id] = TokenType.CONTROL
        elif types[id] == TokenType.BYTE and not _BYTE.fullmatch(text):
            raise FormatError(f"{PREFIX}tokens[{id}] is {text[:40]!r}, but its type is byte: '<0x00>' to '<0xFF>'")
    return tuple(types)


def _scores(metadata: Mapping[str, Any], n_tokens: int) -> tuple[float, ...] | None:
    if PREFIX + "scores" not in metadata:
        return None
    scores = tuple(_one_per_token(metadata, "scores", float, n_tokens))
    wrong = next((i for i, score in enumerate(scores) if not math.isfinite(score)), None)
    if wrong is not None:
        raise FormatError(f"{PREFIX}scores[{wrong}] is {scores[wrong]}, not a finite number")
    return scores


def _merges(metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """'left right' lines; the space that parts them is never the first character."""
    if PREFIX + "merges" not in metadata:
        return None
    lines = get_list(metadata, PREFIX + "merges", str)
    if len(lines) > MAX_TOKENS:
        raise FormatError(f"{PREFIX}merges has {len(lines)} entries; at most {MAX_TOKENS} are accepted")
    merges = []
    for i, line in enumerate(lines):
        at = line.find(" ", 1)
        if at < 0 or at + 1 == len(line):
            raise FormatError(f"{PREFIX}merges[{i}] is {line[:40]!r}, not two parts with a space between")
        merges.append((line[:at], line[at + 1 :]))
    return tuple(merges)
