"""GLM-4.5, 4.6 and Air (GGUF `glm4moe`): part of each head turned, q/k norm in the large ones, sigmoid scores with a
prior for choosing, one shared expert, leading dense layers.

Source: the architecture of `Glm4MoeForCausalLM` in transformers.
"""

from collections.abc import Mapping
from typing import Any

from motley.models.attention import GroupedQueryAttention
from motley.models.config import Config, read_config
from motley.models.feed_forward import feed_forward
from motley.models.layers import Layer
from motley.models.loader import Loader


def config(metadata: Mapping[str, Any]) -> Config:
    return read_config(metadata, "glm4moe", rope="neox", score="sigmoid")


def layer(config: Config, load: Loader, index: int) -> Layer:
    normed = load.has(f"blk.{index}.attn_q_norm.weight")
    attention = GroupedQueryAttention(config, load, index, qk_norm="given" if normed else "")
    return Layer(attention, feed_forward(config, load, index, "post_attention_norm"))
