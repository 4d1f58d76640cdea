"""Byte-level BPE (`tokenizer.ggml.model` gpt2): words, spelled in 256 characters, one a byte, are merged by rank."""

from tokenizers import Tokenizer as Engine
from tokenizers import models

from motley.errors import FormatError, UsageError
from motley.formats.pretokenizers import PreTokenizer
from motley.formats.vocabulary import PREFIX, Vocabulary


def _byte_characters() -> dict[str, int]:
    """GPT-2's spelling: printable Latin-1 stands for itself, every other byte for the next character from U+0100."""
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    other = (byte for byte in range(256) if byte not in itself)
    return {chr(b): b for b in itself} | {chr(0x100 + i): b for i, b in enumerate(other)}


BYTE_OF = _byte_characters()


class ByteLevel:
    def __init__(self, vocabulary: Vocabulary, pre: PreTokenizer) -> None:
        words = vocabulary.merge_vocabulary
        self._missing = frozenset(byte for char, byte in BYTE_OF.items() if char not in words)
        model = models.BPE(vocab=words, merges=ranked_merges(vocabulary), ignore_merges=pre.ignore_merges)
        self._engine = Engine(model)
        if (normalizer := pre.normalizer()) is not None:
            self._engine.normalizer = normalizer
        self._engine.pre_tokenizer = pre.build()

    def encode(self, text: str) -> list[int]:
        if self._missing and (lost := self._missing.intersection(text.encode())):
            raise UsageError(f"the model's vocabulary has no token for byte 0x{min(lost):02X}, which the text contains")
        ids: list[int] = self._engine.encode(text, add_special_tokens=False).ids
        return ids

    @staticmethod
    def bytes_of(text: str) -> bytes:
        """A token's text -> what it stands for; a text that is not spelled in byte characters stands for itself."""
        try:
            return bytes([BYTE_OF[char] for char in text])
        except KeyError:
            return text.encode()


def ranked_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The ranked pairs, checked; the first of two equal ones counts, and none may make a control token."""
    if vocabulary.merges is None:
        raise FormatError(f"{PREFIX}merges is missing: a '{vocabulary.model}' vocabulary cannot be used without it")
    words, ids = vocabulary.merge_vocabulary, vocabulary.ids
    kept: dict[tuple[str, str], None] = {}
    for rank, (left, right) in enumerate(vocabulary.merges):
        for part in (left, right, left + right):
            if part not in ids:
                raise FormatError(f"{PREFIX}merges[{rank}] needs {part[:40]!r}, which is not in the vocabulary")
        if left in words and right in words and left + right in words:
            kept.setdefault((left, right))
    return list(kept)
