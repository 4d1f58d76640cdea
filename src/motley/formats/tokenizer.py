"""Text to token ids and back, as the model's own file says; ids equal the published tokenizer's.

    tokenizer = Tokenizer.from_metadata(checkpoint.metadata)
    ids = tokenizer.encode_prompt("Once upon a time")
    stream = tokenizer.stream()
    for id in generated: print(stream.push(id), end="")
    print(stream.end())

Built on `tokenizers`. Known: byte-level BPE (`gpt2`) with the pre-tokenizers of `pretokenizers.py`, BPE over plain
text (`gemma4`), and SentencePiece-style BPE (`llama`); of a Hugging Face directory, its tokenizer.json as it is.
Anything else is an UnsupportedError, never a guess. What is proven, and where llama.cpp differs: docs/tokenizers.md.
Tests: tests/unit/test_tokenizer_*.py, tests/unit/test_hf_tokenizer.py.
"""

import codecs
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from motley.errors import UnsupportedError, UsageError
from motley.formats.bytelevel import ByteLevel
from motley.formats.hf_text import HuggingFaceText
from motley.formats.hf_tokenizer import WHOLE
from motley.formats.metadata import get_str
from motley.formats.plainbpe import PlainBpe
from motley.formats.pretokenizers import pre_tokenizer
from motley.formats.prompt import Prompt, is_own, part, reserved
from motley.formats.sentencepiece import SentencePiece
from motley.formats.vocabulary import PREFIX, TokenType, Vocabulary

MODELS = ("gpt2", "llama", "gemma4")


class Tokenizer:
    """Immutable after construction and safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary, huggingface: str = "") -> None:
        """`huggingface`: the model's tokenizer.json, where that is to cut and merge."""
        self._vocabulary = vocabulary
        self._text_model, add_bos = _text_model(vocabulary, huggingface)
        self.vocab_size = len(vocabulary.tokens)
        self.bos: int | None = vocabulary.bos
        self.eos: frozenset[int] = vocabulary.eos  # every id that ends a generation
        told = vocabulary.add_bos
        self.add_bos: bool = vocabulary.bos is not None and (add_bos if told is None else told)
        self._add_space = vocabulary.model == "llama" and vocabulary.add_space_prefix is not False
        self._user_defined = vocabulary.parsed(control=False)
        self._special = vocabulary.parsed(control=True)
        self._control = frozenset(id for _, id in self._special).difference(id for _, id in self._user_defined)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """From GGUF's `tokenizer.ggml.*` keys. Corrupt: FormatError naming the key; unknown kind: UnsupportedError."""
        return cls(Vocabulary.from_metadata(metadata), get_str(metadata, WHOLE, ""))

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of `text`, without BOS (see `encode_prompt`).

        special=False: a text that looks like a control token is plain text and can never become one.
        special=True: control tokens are parsed. In a `Prompt` (what `ChatTemplate.render` returns) only the template's
        own are: those that somebody's message spells stay text.
        User-defined tokens (runs of spaces, tags) are ordinary text and found in both; in a Prompt those that its
        template speaks of (`<think>`, `<tool_call>`) are the template's, too.
        """
        text = _well_formed(text)
        if isinstance(text, Prompt) and special:
            pieces = _partition_prompt(text, self._special, self._control)
        else:
            pieces = _partition(text, self._special if special else self._user_defined)
        ids: list[int] = []
        prefix = self._add_space
        for i, piece in enumerate(pieces):
            if isinstance(piece, int):
                ids.append(piece)
            elif isinstance(self._text_model, HuggingFaceText):
                ids += self._text_model.encode(piece, first=i == 0)
            else:
                ids += self._text_model.encode(" " + piece if prefix else piece)
            prefix = self._add_space and isinstance(piece, int)
        return ids

    def encode_prompt(self, text: str, special: bool = False) -> list[int]:
        """`encode`, with BOS in front where the model wants one and the text did not bring it."""
        ids = self.encode(text, special)
        if self.add_bos and self.bos is not None and ids[:1] != [self.bos]:
            return [self.bos, *ids]
        return ids

    def decode(self, ids: Iterable[int], special: bool = False, continues: bool = False) -> str:
        """The text of `ids`; control tokens show with `special` only; bytes that are no UTF-8 become U+FFFD.

        A `llama` vocabulary puts a space before a text, and decode takes it away again: `continues=True` keeps it,
        for ids that go on from an earlier text.
        """
        stream = self.stream(special, continues)
        return "".join([stream.push(id) for id in ids]) + stream.end()

    def stream(self, special: bool = False, continues: bool = False) -> "StreamDecoder":
        """A decoder for ids that come one by one; same arguments and, in sum, same text as `decode`."""
        return StreamDecoder(self, special, continues)

    def token_bytes(self, id: int) -> bytes:
        """What token `id` stands for; a control token's is its name."""
        text, kind = self.token_text(id), self._vocabulary.types[id]
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
            return text.encode()
        if kind == TokenType.BYTE:
            return bytes.fromhex(text[3:5])
        return self._text_model.bytes_of(text)

    def token_text(self, id: int) -> str:
        """Token `id` as the vocabulary spells it."""
        if not 0 <= id < self.vocab_size:
            raise UsageError(f"token id {id} is outside the vocabulary of {self.vocab_size} tokens")
        return self._vocabulary.tokens[id]

    def is_control(self, id: int) -> bool:
        """Control and unknown tokens: no part of the text."""
        return self._vocabulary.types[id] in (TokenType.CONTROL, TokenType.UNKNOWN)

    def starts_text(self, id: int) -> bool:
        """Whether the text after token `id` begins with the vocabulary's prefix space."""
        return self._add_space and (self.is_control(id) or self._vocabulary.types[id] == TokenType.USER_DEFINED)

    @property
    def adds_space(self) -> bool:
        return self._add_space


class StreamDecoder:
    """Turns ids into text as they come, holding back the bytes of an unfinished character. Constant work per token."""

    def __init__(self, tokenizer: Tokenizer, special: bool = False, continues: bool = False) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._drop_space = tokenizer.adds_space and not continues

    def push(self, id: int) -> str:
        """The text that token `id` completes; often empty."""
        data = self._tokenizer.token_bytes(id)
        if self._tokenizer.starts_text(id):
            self._drop_space = True
        elif data:
            data = data[self._drop_space and data.startswith(b" ") :]
            self._drop_space = False
        if self._tokenizer.is_control(id) and not self._special:
            return ""
        return self._utf8.decode(data)

    def end(self) -> str:
        """What was held back: U+FFFD for a character that never got finished."""
        return self._utf8.decode(b"", final=True)


def _text_model(
    vocabulary: Vocabulary, huggingface: str
) -> tuple[ByteLevel | PlainBpe | SentencePiece | HuggingFaceText, bool]:
    """How plain text becomes ids, and whether prompts begin with BOS when the file does not say."""
    if huggingface:
        return HuggingFaceText(huggingface, vocabulary), False
    if vocabulary.model in ("gpt2", "gemma4"):
        pre = pre_tokenizer(vocabulary.pre)
        return (ByteLevel if pre.spelled else PlainBpe)(vocabulary, pre), pre.add_bos
    if vocabulary.model == "llama":
        return SentencePiece(vocabulary), True
    raise UnsupportedError(f"{PREFIX}model is '{vocabulary.model}': Motley knows {', '.join(MODELS)}")


def _partition(text: str, tokens: list[tuple[str, int]]) -> list[str | int]:
    """Cut `text` at every occurrence of a token: all of the longest token's first, as llama.cpp does."""
    pieces: list[str | int] = [text] if text else []
    for token, id in tokens:
        if token not in text:
            continue
        cut: list[str | int] = []
        for piece in pieces:
            if isinstance(piece, int):
                cut.append(piece)
                continue
            for i, between in enumerate(piece.split(token)):
                cut += [id] * (i > 0) + [between] * bool(between)
        pieces = cut
    return pieces


def _partition_prompt(prompt: Prompt, tokens: list[tuple[str, int]], guarded: frozenset[int]) -> list[str | int]:
    """`_partition`, but a token that is `guarded` or that the template speaks of counts only where it is its own."""
    pieces: list[Prompt | int] = [prompt] if prompt else []
    for token, id in tokens:
        if token not in prompt:
            continue
        mine = id in guarded or reserved(prompt, token)
        cut: list[Prompt | int] = []
        for piece in pieces:
            cut += [piece] if isinstance(piece, int) else _cut(piece, token, id, mine)
        pieces = cut
    return [piece if isinstance(piece, int) else str.__str__(piece) for piece in pieces]


def _cut(piece: Prompt, token: str, id: int, mine: bool) -> Iterator[Prompt | int]:
    done = at = 0
    while (at := piece.find(token, at)) >= 0:
        end = at + len(token)
        if mine and not is_own(piece, at, end):
            at += 1
            continue
        if at > done:
            yield part(piece, done, at)
        yield id
        done = at = end
    if done < len(piece):
        yield part(piece, done, len(piece))


def _well_formed(text: str) -> str:
    """Lone surrogates, which a Python string may hold and UTF-8 may not, become U+FFFD.

    (A `Prompt` with one becomes a Prompt that owns nothing: where its characters moved to is not worth finding out.)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        text, kind = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), type(text)
        return kind(text)
    return text
