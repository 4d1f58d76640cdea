"""Qwen3-MoE (GGUF `qwen3moe`): q/k norm per head, the chosen experts' weights renormalised to one.

Source: the architecture of `Qwen3MoeForCausalLM` in transformers.
"""

from collections.abc import Mapping
from typing import Any

from motley.models.config import Config, read_config
from motley.models.layers import GroupedQueryAttention, Layer, Loader, MixtureOfExperts


def config(metadata: Mapping[str, Any]) -> Config:
    return read_config(metadata, "qwen3moe", normalize=True, interleaved=False, width_key="expert_feed_forward_length")


def layer(config: Config, load: Loader, index: int) -> Layer:
    return Layer(
        GroupedQueryAttention(config, load, index, qk_norm=(config.head_dim, config.head_dim)),
        MixtureOfExperts(config, load, index),
    )
