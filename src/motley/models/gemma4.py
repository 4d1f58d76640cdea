"""Gemma 4 with experts (GGUF `gemma4`): norms before and behind every block, windows in five of six layers, whose heads
are smaller; the others take their values from the keys' projection; dense block and experts side by side, each normed;
a router that reads the residual through a norm of its own; the embedding times sqrt(D), a scale per layer, capped
logits.

Source: the architecture of `Gemma4ForCausalLM` in transformers.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from motley.models.attention import GroupedQueryAttention, residual
from motley.models.config import Config, Heads, read_config
from motley.models.feed_forward import GatedLinear, Lap, RunExperts
from motley.models.layers import Layer
from motley.models.loader import Loader
from motley.models.rope import read_rope
from motley.ops.protocol import Activation, Array, Ops, RouterVectors, Span


def config(metadata: Mapping[str, Any]) -> Config:
    c = read_config(metadata, "gemma4", rope="neox")
    cap = c.keys.real("final_logit_softcapping", 0.0)
    return replace(c, embedding_scale=float(c.d_model**0.5), logit_cap=cap, activation=Activation.GELU)


def layer(config: Config, load: Loader, index: int) -> Layer:
    attention = GroupedQueryAttention(
        config,
        load,
        index,
        _heads(config, load, index),
        qk_norm="given",
        post_norm="post_attention_norm",
        unit_values=True,
    )
    return Layer(attention, SideBySide(config, load, index))


def _heads(config: Config, load: Loader, index: int) -> Heads:
    keys, whole = config.keys, load.turned(config.heads.rope)
    n_heads, n_kv = (keys.of_layer(f"attention.head_count{end}", index) for end in ("", "_kv"))
    if not (window := config.windows[index]):
        return Heads(n_heads, n_kv, config.heads.head_dim, whole, 1.0)
    head_dim = keys.whole("attention.key_length_swa")
    rope = read_rope(keys, head_dim, interleaved=False, ending="_swa")
    return Heads(n_heads, n_kv, head_dim, rope, 1.0, Span(window))


class SideBySide:
    """A dense block and experts, each between norms of its own, their sum normed."""

    def __init__(self, config: Config, load: Loader, layer: int) -> None:
        blk, d = f"blk.{layer}.", config.d_model
        self.config, self.layer = config, layer
        self.dense_norm, self.dense_post = (load.weight(f"{blk}{n}.weight", d) for n in ("ffn_norm", "post_ffw_norm_1"))
        self.norm, self.post = (load.weight(f"{blk}{n}.weight", d) for n in ("pre_ffw_norm_2", "post_ffw_norm_2"))
        self.post_norm = load.weight(blk + "post_ffw_norm.weight", d)
        self.dense = GatedLinear(config, load, layer, config.d_dense, "")
        self.ffn_gate_inp = load.weight(blk + "ffn_gate_inp.weight", config.n_experts, d)
        scale = load.tensor(blk + "ffn_gate_inp.scale", (d,)).decode()
        self.router_norm = load.vector("router norm", scale / np.float32(d**0.5))
        gain = load.optional(blk + "ffn_down_exps.scale", config.n_experts)
        self.vectors = RouterVectors(gain=gain)
        self.scale = float(load.tensor(blk + "layer_output_scale.weight", (1,)).decode()[0])

    def __call__(self, ops: Ops, x: Array, experts: RunExperts, lap: Lap) -> Array:
        """x [T, D] -> [T, D]"""
        c = self.config
        votes = ops.rms_norm(x, self.router_norm, c.eps)
        ids, weights = ops.router(votes, self.ffn_gate_inp, c.routing, self.vectors)
        lap("router")
        beside: list[Array] = []

        def dense() -> None:
            y = self.dense(ops, ops.rms_norm(x, self.dense_norm, c.eps))
            beside.append(ops.rms_norm(y, self.dense_post, c.eps))

        parts = experts(self.layer, ops.rms_norm(x, self.norm, c.eps), ids, weights, dense)
        nothing = ops.scale(ops.columns(x, c.d_model, 0, c.d_model), 0.0)  # the experts' sum is normed alone
        y = ops.rms_norm(ops.combine(nothing, parts), self.post, c.eps)
        x = residual(ops, x, ops.add(y, beside[0]), c, self.post_norm)
        lap("experts")
        return ops.scale(x, self.scale)
