"""gpt-oss (GGUF `gpt-oss`): biases everywhere, a sink in each head, a window in every other layer, YaRN, clamped
SwiGLU, the softmax over the chosen experts only.

Source: the architecture of `GptOssForCausalLM` in transformers. Softmax over all, divided by the sum of the chosen, is
the softmax over the chosen.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from motley.models.attention import GroupedQueryAttention
from motley.models.config import Config, read_config
from motley.models.feed_forward import feed_forward
from motley.models.layers import Layer
from motley.models.loader import Loader
from motley.ops.protocol import Activation, Span


def config(metadata: Mapping[str, Any]) -> Config:
    c = read_config(metadata, "gpt-oss", rope="neox", truncate_yarn=False)
    return replace(c, activation=Activation.CLAMPED)


def layer(config: Config, load: Loader, index: int) -> Layer:
    heads = replace(config.heads, span=Span(config.windows[index]))
    attention = GroupedQueryAttention(config, load, index, heads)
    return Layer(attention, feed_forward(config, load, index, "post_attention_norm"))
