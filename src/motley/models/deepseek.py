"""DeepSeek-MoE 16B (GGUF `deepseek`): grouped-query attention, interleaved rope, softmax scores not renormalised,
shared experts, leading dense layers.

Source: the model code published with deepseek-ai/deepseek-moe-16b-base (transformers has none).
"""

from collections.abc import Mapping
from typing import Any

from motley.models.attention import GroupedQueryAttention
from motley.models.config import Config, read_config
from motley.models.feed_forward import feed_forward
from motley.models.layers import Layer
from motley.models.loader import Loader


def config(metadata: Mapping[str, Any]) -> Config:
    return read_config(metadata, "deepseek", rope="interleaved", normalize=False)


def layer(config: Config, load: Loader, index: int) -> Layer:
    return Layer(GroupedQueryAttention(config, load, index), feed_forward(config, load, index))
