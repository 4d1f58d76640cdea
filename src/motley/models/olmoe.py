"""OLMoE (GGUF `olmoe`): q/k norm over the full width, softmax over all experts, weights not renormalised.

Source: the architecture of `OlmoeForCausalLM` in transformers.
"""

from collections.abc import Mapping
from typing import Any

from motley.models.config import Config, read_config
from motley.models.layers import GroupedQueryAttention, Layer, Loader, MixtureOfExperts


def config(metadata: Mapping[str, Any]) -> Config:
    return read_config(metadata, "olmoe", normalize=False, interleaved=False, width_key="feed_forward_length")


def layer(config: Config, load: Loader, index: int) -> Layer:
    widths = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim)
    return Layer(
        GroupedQueryAttention(config, load, index, qk_norm=widths),
        MixtureOfExperts(config, load, index),
    )
