"""Which family file runs which GGUF architecture. A new family is one file and one line here."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from motley.errors import UnsupportedError
from motley.models.config import Config
from motley.models.family import Family

_FILES = {
    "llama": "llama",
    "olmoe": "olmoe",
    "qwen2moe": "qwen2moe",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3",
    "qwen3next": "qwen3next",
    "qwen35moe": "qwen3next",
    "deepseek": "deepseek",
    "deepseek2": "deepseek2",
    "glm4moe": "glm4moe",
    "gpt-oss": "gpt_oss",
    "granitemoe": "granitemoe",
    "minimax-m2": "minimax_m2",
    "llama4": "llama4",
    "gemma4": "gemma4",
    "ernie4_5-moe": "ernie45_moe",
    "dots1": "dots1",
    "hunyuan-moe": "hunyuan_moe",
}
FAMILIES = {architecture: f"motley.models.{file}" for architecture, file in _FILES.items()}


def family(architecture: str) -> Family:
    """Imported when asked for. Raises UnsupportedError for an architecture without a file."""
    if architecture not in FAMILIES:
        raise UnsupportedError(f"architecture {architecture!r} is not supported: Motley runs {', '.join(FAMILIES)}")
    return cast(Family, import_module(FAMILIES[architecture]))


def config_of(architecture: str, metadata: Mapping[str, Any]) -> Config:
    """The family's; UnsupportedError too for a key that changes the arithmetic and that the family does not know."""
    config = family(architecture).config(metadata)
    config.keys.require_harmless()
    return config
