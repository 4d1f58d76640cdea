"""Qwen2-MoE, Qwen1.5-MoE (GGUF `qwen2moe`): biases on q, k and v, a gate on the shared expert, weights not
renormalised.

Source: the architecture of `Qwen2MoeForCausalLM` in transformers.
"""

from collections.abc import Mapping
from typing import Any

from motley.models.attention import GroupedQueryAttention
from motley.models.config import Config, read_config
from motley.models.feed_forward import feed_forward
from motley.models.layers import Layer
from motley.models.loader import Loader


def config(metadata: Mapping[str, Any]) -> Config:
    return read_config(metadata, "qwen2moe", rope="neox", normalize=False)


def layer(config: Config, load: Loader, index: int) -> Layer:
    return Layer(GroupedQueryAttention(config, load, index), feed_forward(config, load, index))
