"""Granite 3 MoE (GGUF `granitemoe`): interleaved rope; embedding, attention, residual and logits each have a scale;
shared experts in some.

Source: the architectures of `GraniteMoeForCausalLM` and `GraniteMoeSharedForCausalLM` in transformers.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from motley.errors import FormatError
from motley.models.attention import GroupedQueryAttention
from motley.models.config import Config, read_config
from motley.models.feed_forward import feed_forward
from motley.models.layers import Layer
from motley.models.loader import Loader


def config(metadata: Mapping[str, Any]) -> Config:
    c = read_config(metadata, "granitemoe", rope="interleaved")
    keys, added = c.keys, c.keys.real("residual_scale", 1.0)
    if (divisor := keys.real("logit_scale", 1.0)) <= 1e-30:
        raise FormatError(f"{keys.name('logit_scale')} = {divisor}: logits can't be divided by that")
    return replace(
        c,
        heads=replace(c.heads, scale=keys.real("attention.scale", c.heads.scale)),
        embedding_scale=keys.real("embedding_scale", 1.0),
        residual_scale=added,
        logit_scale=1 / divisor,
        routing=replace(c.routing, scale=added),  # what the experts add
    )


def layer(config: Config, load: Loader, index: int) -> Layer:
    return Layer(GroupedQueryAttention(config, load, index), feed_forward(config, load, index))
