"""Qwen3 (GGUF `qwen3`, `qwen3moe`): q/k norm per head, the chosen experts' weights renormalised to one,
where no key says otherwise.

Source: the architectures of `Qwen3ForCausalLM` and `Qwen3MoeForCausalLM` in transformers.
"""

from collections.abc import Mapping
from typing import Any

from motley.models.attention import GroupedQueryAttention
from motley.models.config import Config, read_config
from motley.models.feed_forward import feed_forward
from motley.models.layers import Layer
from motley.models.loader import Loader


def config(metadata: Mapping[str, Any]) -> Config:
    return read_config(metadata, metadata["general.architecture"], rope="neox")


def layer(config: Config, load: Loader, index: int) -> Layer:
    attention = GroupedQueryAttention(config, load, index, qk_norm="given")
    return Layer(attention, feed_forward(config, load, index))
