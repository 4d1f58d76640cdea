"""The committed vocabularies of tests/golden/tokenizers/ with the reference's ids (golden_tokenizers.py)."""

import gzip
import json
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from motley.formats.pretokenizers import PRE_TOKENIZERS
from motley.formats.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[1] / "golden" / "tokenizers"
STRINGS: list[str] = json.loads((FOLDER / "strings.json").read_text())
NAMES = sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))


@cache
def golden(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))
    return data


@cache
def tokenizer(name: str) -> Tokenizer:
    return Tokenizer.from_metadata(golden(name)["metadata"])


def text_of(name: str, text: str) -> str:
    """What can come back of a text: composed where the vocabulary wants that; and SentencePiece's own space is the one
    thing that it cannot tell from a space."""
    if name in PRE_TOKENIZERS and PRE_TOKENIZERS[name].nfc:
        text = unicodedata.normalize("NFC", text)
    return text.replace("▁", " ") if name.startswith("spm") or name == "gemma4" else text
