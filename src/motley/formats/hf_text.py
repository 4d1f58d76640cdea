"""Plain text to ids by a model's own tokenizer.json: what `Tokenizer` uses for Hugging Face directories.

The engine is the `tokenizers` library with the file's own normaliser, pre-tokenizer and merges, but without its added
tokens: `Tokenizer` finds those itself, so that a text which looks like a control token can never become one.
"""

import json
from typing import Any

from motley.formats.bytelevel import ByteLevel
from motley.formats.hf_tokenizer import engine, parts
from motley.formats.sentencepiece import SentencePiece
from motley.formats.vocabulary import Vocabulary


class HuggingFaceText:
    def __init__(self, whole: str, vocabulary: Vocabulary) -> None:
        described = _plain(json.loads(whole), vocabulary)
        self._first = engine(described)
        self._later = engine(described) if _only_first(described) else self._first
        self.bytes_of = ByteLevel.bytes_of if vocabulary.model == "gpt2" else SentencePiece.bytes_of

    def encode(self, text: str, first: bool) -> list[int]:
        """`first`: the text begins here, and no token stands before it."""
        chosen = self._first if first else self._later
        ids: list[int] = chosen.encode(text, add_special_tokens=False).ids
        return ids


def _plain(whole: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Without added tokens, and without control tokens where the vocabulary lists them among its words."""
    never = {text for text, id in vocabulary.parsed(control=True)} - vocabulary.merge_vocabulary.keys()
    never.discard(str(whole["model"].get("unk_token")))
    model = dict(whole["model"])
    model["vocab"] = {text: id for text, id in model["vocab"].items() if text not in never}
    model["merges"] = [pair for pair in model["merges"] if not never.intersection(_texts(pair))]
    off = dict.fromkeys(("truncation", "padding", "post_processor"))
    return {**whole, **off, "model": model, "added_tokens": []}


def _texts(pair: str | list[str]) -> tuple[str, str, str]:
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left, right, left + right


def _only_first(described: dict[str, Any]) -> bool:
    """Whether the space goes before the very first piece only; then those schemes are turned off for later ones."""
    found = [part for part in parts(described, "pre_tokenizer") if part.get("prepend_scheme") == "first"]
    for part in found:
        part["prepend_scheme"] = "never"
    return bool(found)
