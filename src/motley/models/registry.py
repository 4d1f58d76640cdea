"""Which family file runs which GGUF architecture. A new family is one file and one line here."""

from importlib import import_module
from typing import cast

from motley.errors import UnsupportedError
from motley.models.family import Family

FAMILIES = {
    "olmoe": "motley.models.olmoe",
    "qwen3moe": "motley.models.qwen3moe",
    "llama": "motley.models.mixtral",
}


def family(architecture: str) -> Family:
    """Imported when asked for. Raises UnsupportedError for an architecture without a file."""
    if architecture not in FAMILIES:
        raise UnsupportedError(f"architecture {architecture!r} is not supported: Motley runs {', '.join(FAMILIES)}")
    return cast(Family, import_module(FAMILIES[architecture]))
