"""Llama, Mistral and Mixtral (GGUF `llama`): no q/k norm, interleaved rope, Llama 3's factors where the file has them;
Mixtral's chosen experts are renormalised.

GGUF files hold q and k with their rows permuted for the interleaved rotation. Source: the architectures of
`LlamaForCausalLM` and `MixtralForCausalLM` in transformers.
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
    return read_config(metadata, "llama", rope="interleaved")


def layer(config: Config, load: Loader, index: int) -> Layer:
    heads = replace(config.heads, rope=load.turned(config.heads.rope))
    return Layer(GroupedQueryAttention(config, load, index, heads), feed_forward(config, load, index))
