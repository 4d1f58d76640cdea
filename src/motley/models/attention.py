"""Attention blocks, written once against `ops.protocol`: grouped-query, and latent (DeepSeek's) in its absorbed form.

B sequences, T tokens, D model width, H heads, K key/value heads, N head width.
"""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from motley.models.config import Config, Heads
from motley.models.loader import Loader
from motley.models.rows import Rows, RunRows
from motley.ops.protocol import Array, Batch, KVCache, Ops, Weight
from motley.shape.mixer import CacheType

QkNorm = Literal["", "given", "given after rope", "unit after rope"]


class GroupedQueryAttention:
    """Norm, q/k/v, rope, attention, output, residual. Biases and sinks are used where the file has them.

    `qk_norm`: q and k are normed, before rope or after it, over as many elements as the file's vectors have ("given"),
    or each head without weights ("unit"). `post_norm`: the name of a norm behind it. `gated`: each head's q is
    followed by a gate, whose sigmoid multiplies what the head gives. `unit_values`: values are normed without weights,
    and come from the keys' matrix where they have none (Gemma 4). `temper`: multiplies q by its position (Llama 4)."""

    def __init__(
        self,
        config: Config,
        load: Loader,
        layer: int,
        heads: Heads | None = None,
        *,
        qk_norm: QkNorm = "",
        post_norm: str = "",
        gated: bool = False,
        unit_values: bool = False,
        temper: "Temper | None" = None,
    ) -> None:
        blk, h = f"blk.{layer}.", heads or config.heads
        self.config, self.heads, self.gated, self.temper = config, h, gated, temper
        q, kv, d = h.n_heads * h.head_dim, h.n_kv_heads * h.head_dim, config.d_model
        self.attn_norm = load.weight(blk + "attn_norm.weight", d)
        values = "attn_v" if load.has(blk + "attn_v.weight") or not unit_values else "attn_k"
        projections = [("attn_q", 2 * q if gated else q), ("attn_k", kv), (values, kv)]
        named = [(f"{blk}{name}.weight", height) for name, height in projections]
        self.projections = Rows(load, named, d, load.projected.get(layer), layer)
        self.v_norm = load.vector(blk + "attn_v_norm", np.ones(h.head_dim, np.float32)) if unit_values else None
        self.attn_output = load.weight(blk + "attn_output.weight", d, q)
        self.biases = [load.optional(f"{blk}attn_{n}.bias", w) for n, w in zip("qkv", (q, kv, kv))]
        self.output_bias = load.optional(blk + "attn_output.bias", d)
        self.sinks = load.optional(blk + "attn_sinks.weight", h.n_heads)
        self.post_norm = load.weight(blk + post_norm + ".weight", d) if post_norm else None
        self.norms_after = qk_norm.endswith("after rope")
        self.attn_q_norm, self.attn_k_norm = (
            _norm(load, blk, name, width, h, qk_norm) for name, width in (("q", q), ("k", kv))
        )

    def state(self, ops: Ops, n_slots: int, context: int, cache: CacheType | None) -> KVCache:
        h = self.heads
        return ops.kv_cache(n_slots, context, h.n_kv_heads, h.head_dim, span=h.span, stored=cache)

    def __call__(self, ops: Ops, x: Array, batch: Batch, state: KVCache, rows: RunRows) -> Array:
        """x [T, D] -> [T, D]"""
        c, h = self.config, self.heads
        qkv = rows(self.projections, ops.rms_norm(x, self.attn_norm, c.eps))  # [T, H*N], [T, K*N], [T, K*N]
        q, k, v = (y if bias is None else ops.add_bias(y, bias) for y, bias in zip(qkv, self.biases))
        if self.v_norm is not None:
            v = ops.rms_norm(v, self.v_norm, c.eps)
        if self.gated:
            gate = ops.columns(q, 2 * h.head_dim, h.head_dim, 2 * h.head_dim)
            q = ops.columns(q, 2 * h.head_dim, 0, h.head_dim)
        if not self.norms_after:
            q, k = self._norms(ops, q, k)
        if h.rope:
            q, k = (ops.rope(y, h.head_dim, batch.positions, h.rope) for y in (q, k))
        if self.norms_after:
            q, k = self._norms(ops, q, k)
        if self.temper:
            q = ops.temper(q, batch.positions, *self.temper)
        a = ops.attention(q, k, v, state, batch, h.scale, self.sinks)  # [T, H*N]
        if self.gated:
            a = ops.gate(a, gate)
        (o,) = ops.linear(a, self.attn_output)
        if self.output_bias is not None:
            o = ops.add_bias(o, self.output_bias)
        return residual(ops, x, o, c, self.post_norm)

    def _norms(self, ops: Ops, q: Array, k: Array) -> tuple[Array, Array]:
        if self.attn_q_norm is None:
            return q, k
        eps = self.config.eps
        return ops.rms_norm(q, self.attn_q_norm, eps), ops.rms_norm(k, self.attn_k_norm, eps)


def residual(ops: Ops, x: Array, y: Array, config: Config, post_norm: Weight | None = None) -> Array:
    """x + y, which may be normed and scaled before."""
    if post_norm is not None:
        y = ops.rms_norm(y, post_norm, config.eps)
    if config.residual_scale != 1.0:
        y = ops.scale(y, config.residual_scale)
    return ops.add(x, y)


def _norm(load: Loader, blk: str, name: str, width: int, heads: Heads, qk_norm: QkNorm) -> Weight | None:
    """Over each head, or over all of them: the length of the file's vector says."""
    if qk_norm == "unit after rope":
        return load.vector(f"{blk}attn_{name}_norm", np.ones(heads.head_dim, np.float32))
    if qk_norm == "":
        return None
    vector = load.checkpoint.tensors.get(full := f"{blk}attn_{name}_norm.weight")
    whole = vector is not None and vector.dims == (width,)
    return load.weight(full, width if whole else heads.head_dim)


class Temper(NamedTuple):
    """See `Ops.temper`: Llama 4 on layers without rope."""

    factor: float
    length: int


class LatentAttention:
    """Keys and values of all heads come from one latent of R elements a position, which alone is remembered, with the
    rope part that all heads share. The up-projections are absorbed: each head's query is taken into the latent space,
    and what it finds there out of it, so that attention has one key/value head. `config.heads.rope` turns the last
    elements of a head."""

    def __init__(self, config: Config, load: Loader, layer: int) -> None:
        blk, keys, d, rope = f"blk.{layer}.", config.keys, config.d_model, config.heads.rope
        assert rope is not None
        self.config, self.scale, self.n_heads = config, config.heads.scale, config.heads.n_heads
        self.rank = rank = keys.whole("attention.kv_lora_rank")
        self.head_dim = config.heads.head_dim
        self.value_dim = keys.whole("attention.value_length_mla", keys.whole("attention.value_length", self.head_dim))
        self.nope = self.head_dim - rope.dim
        self.rope, self.shared_rope = rope, replace(rope, start=0)
        q, q_rank = self.n_heads * self.head_dim, keys.whole("attention.q_lora_rank", 0)
        self.attn_norm = load.weight(blk + "attn_norm.weight", d)
        if q_rank:
            self.attn_q_a: Any = load.weight(blk + "attn_q_a.weight", q_rank, d)
            self.attn_q_a_norm = load.weight(blk + "attn_q_a_norm.weight", q_rank)
            self.attn_q = load.weight(blk + "attn_q_b.weight", q, q_rank)
        else:
            self.attn_q_a = None
            self.attn_q = load.weight(blk + "attn_q.weight", q, d)
        self.attn_kv_a_mqa = load.weight(blk + "attn_kv_a_mqa.weight", rank + rope.dim, d)
        self.attn_kv_a_norm = load.weight(blk + "attn_kv_a_norm.weight", rank)
        self.attn_k_b = load.weight(blk + "attn_k_b.weight", self.n_heads, rank, self.nope)
        self.attn_v_b = load.weight(blk + "attn_v_b.weight", self.n_heads, self.value_dim, rank)
        self.attn_output = load.weight(blk + "attn_output.weight", d, self.n_heads * self.value_dim)

    def state(self, ops: Ops, n_slots: int, context: int, cache: CacheType | None) -> KVCache:
        return ops.kv_cache(n_slots, context, 1, self.rank + self.rope.dim, self.rank, stored=cache, one=True)

    def __call__(self, ops: Ops, x: Array, batch: Batch, state: KVCache, rows: RunRows) -> Array:
        """x [T, D] -> [T, D]"""
        c, n, rank, turned = self.config, self.nope, self.rank, self.rope.dim
        h = ops.rms_norm(x, self.attn_norm, c.eps)
        if self.attn_q_a is None:
            q, kv = ops.linear(h, self.attn_q, self.attn_kv_a_mqa)
        else:
            a, kv = ops.linear(h, self.attn_q_a, self.attn_kv_a_mqa)
            (q,) = ops.linear(ops.rms_norm(a, self.attn_q_a_norm, c.eps), self.attn_q)  # [T, H*N]
        q = ops.rope(q, self.head_dim, batch.positions, self.rope)
        latent = ops.rms_norm(ops.columns(kv, rank + turned, 0, rank), self.attn_kv_a_norm, c.eps)
        shared = ops.columns(kv, rank + turned, rank, rank + turned)
        shared = ops.rope(shared, turned, batch.positions, self.shared_rope)
        absorbed = ops.heads_linear(ops.columns(q, n + turned, 0, n), self.attn_k_b)  # [T, H*R]
        q = ops.join(absorbed, rank, ops.columns(q, n + turned, n, n + turned), turned)
        found = ops.attention(q, ops.join(latent, rank, shared, turned), latent, state, batch, self.scale)  # [T, H*R]
        (o,) = ops.linear(ops.heads_linear(found, self.attn_v_b), self.attn_output)
        return residual(ops, x, o, c)
