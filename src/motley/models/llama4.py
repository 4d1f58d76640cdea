"""Llama 4 Scout and Maverick (GGUF `llama4`): three of four layers turn q and k, norm them without weights and attend
within chunks of 8,192; the fourth sees everything, unturned, and scales q by its position. One expert a token, whose
sigmoid score multiplies its input, beside a shared one; in Maverick every other layer.

Source: the architecture of `Llama4ForCausalLM` in transformers. GGUF files do not state chunk and temper: these are the
published values, unless `attention.sliding_window` and `attention.temperature_length` are there.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from motley.models.attention import GroupedQueryAttention, Temper
from motley.models.config import Config, read_config
from motley.models.feed_forward import feed_forward
from motley.models.layers import Layer
from motley.models.loader import Loader
from motley.ops.protocol import Span

TEMPER_LENGTH, TEMPER_SCALE = 8192, 0.1


def config(metadata: Mapping[str, Any]) -> Config:
    c = read_config(metadata, "llama4", rope="interleaved", normalize=False, score="sigmoid")
    step = c.keys.whole("interleave_moe_layer_step", 1) or 1
    dense = frozenset(i for i in range(c.n_layers) if (i + 1) % step)
    return replace(c, dense_layers=dense, d_shared=c.d_expert)


def layer(config: Config, load: Loader, index: int) -> Layer:
    heads = replace(config.heads, rope=load.turned(config.heads.rope))
    if chunk := config.windows[index]:
        heads = replace(heads, span=Span(chunk=chunk))
        normed = config.n_experts != 128  # all but Maverick
        attention = GroupedQueryAttention(config, load, index, heads, qk_norm="unit after rope" if normed else "")
    else:
        temper = Temper(TEMPER_SCALE, config.keys.whole("attention.temperature_length", TEMPER_LENGTH))
        attention = GroupedQueryAttention(config, load, index, replace(heads, rope=None), temper=temper)
    return Layer(attention, feed_forward(config, load, index, scales_input=True))
