"""The committed vocabularies of tests/golden/tokenizers/ with llama.cpp's ids (tools/golden/golden_tokenizers.py)."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

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
