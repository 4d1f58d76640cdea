"""Mixtral (GGUF `llama` with experts): no q/k norm, interleaved rope, the chosen experts' weights renormalised.

GGUF files hold q and k with their rows permuted for the interleaved rotation. Source: the architecture of
`MixtralForCausalLM` in transformers.
"""

from collections.abc import Mapping
from typing import Any

from motley.errors import UnsupportedError
from motley.models.config import Config, read_config
from motley.models.layers import GroupedQueryAttention, Layer, Loader, MixtureOfExperts


def config(metadata: Mapping[str, Any]) -> Config:
    if not metadata.get("llama.expert_count"):
        raise UnsupportedError("a dense llama model (no llama.expert_count) is not supported yet: only Mixtral is")
    return read_config(metadata, "llama", normalize=True, interleaved=True, width_key="feed_forward_length")


def layer(config: Config, load: Loader, index: int) -> Layer:
    return Layer(GroupedQueryAttention(config, load, index), MixtureOfExperts(config, load, index))
