"""ERNIE 4.5 MoE (GGUF `ernie4_5-moe`): interleaved rope, softmax scores with a prior for choosing, shared experts,
leading dense layers.

Source: the architecture of `Ernie4_5_MoeForCausalLM` in transformers.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from motley.models.attention import GroupedQueryAttention
from motley.models.config import Config, read_config
from motley.models.feed_forward import feed_forward
from motley.models.layers import Layer
from motley.models.loader import Loader


def config(metadata: Mapping[str, Any]) -> Config:
    c = read_config(metadata, "ernie4_5-moe", rope="interleaved")
    return replace(c, d_shared=c.keys.whole("expert_shared_count", 0) * c.d_expert)  # the key for it is another's


def layer(config: Config, load: Loader, index: int) -> Layer:
    return Layer(GroupedQueryAttention(config, load, index), feed_forward(config, load, index))
