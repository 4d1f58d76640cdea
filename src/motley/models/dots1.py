"""dots.llm1 (GGUF `dots1`): q/k norm per head, sigmoid scores with a prior for choosing, shared experts, leading dense
layers.

Source: the architecture of `Dots1ForCausalLM` in transformers.
"""

from collections.abc import Mapping
from typing import Any

from motley.models.attention import GroupedQueryAttention
from motley.models.config import Config, read_config
from motley.models.feed_forward import feed_forward
from motley.models.layers import Layer
from motley.models.loader import Loader


def config(metadata: Mapping[str, Any]) -> Config:
    return read_config(metadata, "dots1", rope="neox", score="sigmoid")


def layer(config: Config, load: Loader, index: int) -> Layer:
    attention = GroupedQueryAttention(config, load, index, qk_norm="given")
    return Layer(attention, feed_forward(config, load, index))
