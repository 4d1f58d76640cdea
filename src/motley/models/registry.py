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

# Keys that change the arithmetic, and the values at which they change nothing: for families that do not read them.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "attention.clamp_kqv": (0.0,),
    "attention.indexer.top_k": (0,),
    "attention.output_scale": (0.0, 1.0),
    "attention.scale": (0.0,),
    "attention.shared_kv_layers": (0,),
    "attention.sliding_window": (0,),
    "attention.temperature_scale": (0.0,),
    "attention.value_scale": (0.0, 1.0),
    "attn_logit_softcapping": (0.0,),
    "embedding_length_per_layer_input": (0,),
    "embedding_scale": (0.0, 1.0),
    "expert_latent_length": (0,),
    "final_logit_softcapping": (0.0,),
    "interleave_moe_layer_step": (0, 1),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "router_logit_softcapping": (0.0,),
}


def family(architecture: str) -> Family:
    """Imported when asked for. Raises UnsupportedError for an architecture without a file."""
    if architecture not in FAMILIES:
        raise UnsupportedError(f"architecture {architecture!r} is not supported: Motley runs {', '.join(FAMILIES)}")
    return cast(Family, import_module(FAMILIES[architecture]))


def config_of(architecture: str, metadata: Mapping[str, Any]) -> Config:
    """The family's; UnsupportedError too for a key that changes the arithmetic and that the family does not know."""
    config = family(architecture).config(metadata)
    for key, values in HARMLESS.items():
        value = metadata.get(f"{architecture}.{key}", values[0])
        if key not in config.keys.read and value not in values:
            raise UnsupportedError(f"{architecture}.{key} = {value!r} is not supported here (only {values[0]!r} is)")
    return config
