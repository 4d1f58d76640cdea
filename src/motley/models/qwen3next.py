"""Qwen3-Next and Qwen 3.5 (GGUF `qwen3next`, `qwen35moe`): three of four layers are gated delta rules, the fourth gated
attention with part of each head turned; a gate on the shared expert.

Source: the architectures of `Qwen3NextForCausalLM` and `Qwen3_5MoeForCausalLM` in transformers. For text alone, the
latter's rotation in sections is the plain one.
"""

from collections.abc import Mapping
from typing import Any

from motley.formats.mixers import is_recurrent
from motley.models.attention import GroupedQueryAttention
from motley.models.config import Config, read_config
from motley.models.deltanet import GatedDeltaNet
from motley.models.feed_forward import feed_forward
from motley.models.layers import Attention, Layer
from motley.models.loader import Loader


def config(metadata: Mapping[str, Any]) -> Config:
    return read_config(metadata, metadata["general.architecture"], rope="neox")


def layer(config: Config, load: Loader, index: int) -> Layer:
    attention: Attention
    if is_recurrent(config.keys, index):
        attention = GatedDeltaNet(config, load, index, tiled=config.architecture == "qwen35moe")
    else:
        attention = GroupedQueryAttention(config, load, index, qk_norm="given", gated=True)
    return Layer(attention, feed_forward(config, load, index, "post_attention_norm"))
