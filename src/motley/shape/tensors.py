"""The exact tensor list of a model, from its Spec: names as GGUF has them, dims row-major, role, precision.

Vectors (norms, biases, sinks, decays) are listed too: they are few bytes, but a total within a permille needs them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from motley.shape.gguf_names import named
from motley.shape.mix import Mix, Place
from motley.shape.quant import Precision
from motley.shape.role import Role
from motley.shape.spec import FfnSpec, MixerSpec, Spec


@dataclass(frozen=True)
class TensorShape:
    name: str
    dims: tuple[int, ...]  # row-major, as numpy has them: [rows, cols], experts [E, rows, cols]
    quant: Precision
    role: Role
    layer: int | None = None  # None: outside the layers

    @property
    def n_params(self) -> int:
        return prod(self.dims)

    @property
    def n_bytes(self) -> int:
        return self.quant.n_bytes(self.n_params)


# (name without layer and ending, role, dims); a name with an ending keeps it
Part = tuple[str, Role, tuple[int, ...]]


def tensors_of(spec: Spec, mix: Mix) -> tuple[TensorShape, ...]:
    """In file order: embedding, layers, final norm, head. A tied model has no `output.weight`. Without MTP layers."""
    found = [_tensor(spec, mix, part, None) for part in _before(spec)]
    for layer in range(spec.n_layers):
        parts = _layer(spec, spec.mixer_of(layer), spec.ffn_of(layer))
        found += [_tensor(spec, mix, part, layer) for part in parts]
    found += [_tensor(spec, mix, part, None) for part in _after(spec)]
    return tuple(found)


def mtp_tensors_of(spec: Spec, mix: Mix) -> tuple[TensorShape, ...]:
    """The layers that predict further tokens, numbered behind the model's own, as GGUF numbers them."""
    if spec.mtp is None:
        return ()
    mixer = spec.mixer[spec.mtp.mixer or _last(spec.mixer_letters)]
    ffn = spec.ffn.get(spec.mtp.ffn or _last(spec.ffn_letters))
    found = []
    for layer in range(spec.n_layers, spec.n_layers + spec.mtp.layers):
        parts = [*_layer(spec, mixer, ffn), *_next_token(spec, spec.mtp.embeds)]
        found += [_tensor(spec, mix, part, layer) for part in parts]
    return tuple(found)


def _last(letters: str) -> str:
    return letters.rstrip("-")[-1:]


def _tensor(spec: Spec, mix: Mix, part: Part, layer: int | None) -> TensorShape:
    stem, role, dims = part
    name = named(spec.architecture, stem)
    name = name if layer is None else f"blk.{layer}.{name}"
    return TensorShape(name, dims, mix.precision(Place(name, role, layer, dims)), role, layer)


# --- outside the layers


def _before(spec: Spec) -> Iterator[Part]:
    d, per_layer = spec.d_model, spec.per_layer_embed * spec.n_layers
    if spec.rope_factors:
        yield "rope_freqs", Role.ATTENTION, (spec.rope_factors,)
    yield "token_embd", Role.EMBED, (spec.vocab_size, d)
    if per_layer:
        yield "per_layer_token_embd", Role.EMBED, (spec.vocab_size, per_layer)
        yield "per_layer_model_proj", Role.ATTENTION, (per_layer, d)
        yield "per_layer_proj_norm", Role.NORM, (spec.per_layer_embed,)


def _after(spec: Spec) -> Iterator[Part]:
    yield "output_norm", Role.NORM, (spec.d_model,)
    if spec.hyper:
        yield "hc_head_fn", Role.ATTENTION, (spec.hyper, spec.hyper * spec.d_model)
    if not spec.tied_embeddings:
        yield "output", Role.HEAD, (spec.vocab_size, spec.d_model)


def _next_token(spec: Spec, embeds: bool) -> Iterator[Part]:
    d = spec.d_model
    yield "nextn.eh_proj", Role.ATTENTION, (d, 2 * d)
    for name in ("enorm", "hnorm", "shared_head_norm"):
        yield f"nextn.{name}", Role.NORM, (d,)
    if embeds:
        yield "nextn.embed_tokens", Role.EMBED, (spec.vocab_size, d)
        yield "nextn.shared_head_head", Role.HEAD, (spec.vocab_size, d)


# --- layers


def _layer(spec: Spec, mixer: MixerSpec | None, ffn: FfnSpec | None) -> Iterator[Part]:
    d = spec.d_model
    if mixer:
        yield "attn_norm", Role.NORM, (d,)
        yield from _mixer(spec, mixer)
        if mixer.beside:
            yield from _mixer(spec, spec.mixer[mixer.beside])
        yield from _around(spec, "attn")
    if ffn:
        yield "ffn_norm", Role.NORM, (d,)
        yield from _side_by_side(d, ffn) if spec.architecture == "gemma4" and ffn.kind == "moe" else _ffn(d, ffn)
        yield from _around(spec, "ffn")
    if spec.architecture == "gemma4":
        yield "layer_output_scale", Role.ATTENTION, (1,)
    if spec.per_layer_embed:
        yield "inp_gate", Role.DENSE_FFN, (spec.per_layer_embed, d)
        yield "proj", Role.DENSE_FFN, (d, spec.per_layer_embed)
        yield "post_norm", Role.NORM, (d,)


def _around(spec: Spec, block: str) -> Iterator[Part]:
    """What a block has beside its matrices."""
    if spec.post_norms:
        yield f"post_{block}_norm", Role.NORM, (spec.d_model,)
    if spec.hyper:  # mixing weights of the streams, before and behind the block and among themselves
        ways = spec.hyper * (2 + spec.hyper)
        yield f"hc_{block}_fn", Role.ATTENTION, (ways, spec.hyper * spec.d_model)
        yield f"hc_{block}_base.bias", Role.ATTENTION, (ways,)


def _mixer(spec: Spec, m: MixerSpec) -> Iterator[Part]:
    makers = {
        "attention": _attention,
        "mla": _mla,
        "compressed": _compressed,
        "deltanet": _deltanet,
        "kda": _kda,
        "mamba2": _mamba2,
        "lightning": _lightning,
        "shortconv": _shortconv,
    }
    for name, dims in makers[m.kind](spec.d_model, m):
        for own, rows in _apart(spec, name, dims):
            yield own, Role.NORM if name.endswith("_norm") else Role.ATTENTION, rows


Named = Iterator[tuple[str, tuple[int, ...]]]


def _apart(spec: Spec, name: str, dims: tuple[int, ...]) -> Named:
    """Qwen 3.5 has the delta rule's two small projections as two."""
    if name == "ssm_ba" and spec.architecture in ("qwen35", "qwen35moe"):
        for own in ("ssm_beta", "ssm_alpha"):
            yield own, (dims[0] // 2, dims[1])
    else:
        yield name, dims


def _attention(d: int, m: MixerSpec) -> Named:
    q, k, v = m.heads * m.head_dim, m.kv_heads * m.head_dim, m.kv_heads * m.value_dim
    yield from _projection("attn_q", 2 * q if m.gate == "element" else q, d, bool(m.bias))
    if not m.shares_kv:
        yield from _projection("attn_k", k, d, bool(m.bias))
        if not m.v_from_k:
            yield from _projection("attn_v", v, d, bool(m.bias))
    if m.gate == "head":
        yield "attn_gate", (m.heads, d)
    if m.qk_norm:
        yield "attn_q_norm", (q if m.qk_norm == "full" else m.head_dim,)
        if not m.shares_kv:
            yield "attn_k_norm", (k if m.qk_norm == "full" else m.head_dim,)
    if m.sinks:
        yield "attn_sinks", (m.heads,)
    yield from _projection("attn_output", d, m.heads * m.value_dim, m.bias == "all")
    yield from _indexer(d, m)


def _projection(name: str, rows: int, cols: int, bias: bool) -> Named:
    yield name, (rows, cols)
    if bias:
        yield f"{name}.bias", (rows,)


def _low_rank_query(d: int, m: MixerSpec, rows: int) -> Named:
    if not m.q_lora_rank:
        yield "attn_q", (rows, d)
        return
    yield "attn_q_a", (m.q_lora_rank, d)
    yield "attn_q_a_norm", (m.q_lora_rank,)
    yield "attn_q_b", (rows, m.q_lora_rank)


def _mla(d: int, m: MixerSpec) -> Named:
    """The up-projection of keys and values as two, by heads: that is how decoding uses it."""
    yield from _low_rank_query(d, m, m.heads * (m.head_dim + m.rope_dim))
    yield "attn_kv_a_mqa", (m.kv_lora_rank + m.rope_dim, d)
    yield "attn_kv_a_norm", (m.kv_lora_rank,)
    yield "attn_k_b", (m.heads, m.kv_lora_rank, m.head_dim)
    yield "attn_v_b", (m.heads, m.value_dim, m.kv_lora_rank)
    if m.gate == "element":
        yield "attn_gate", (m.heads * m.value_dim, d)
    yield "attn_output", (d, m.heads * m.value_dim)
    yield from _indexer(d, m)


def _indexer(d: int, m: MixerSpec) -> Named:
    if not m.top_k or m.shares_index:
        return
    yield "indexer.attn_q_b", (m.index_heads * m.index_dim, m.q_lora_rank or d)
    yield "indexer.attn_k", (m.index_dim, d)
    yield "indexer.k_norm", (m.index_dim,)
    yield "indexer.proj", (m.index_heads, d)


def _compressed(d: int, m: MixerSpec) -> Named:
    """DeepSeek V4: one entry of `head_dim` serves all heads as key and value; the output is projected in groups."""
    q = m.heads * m.head_dim
    yield from _low_rank_query(d, m, q)
    yield "attn_kv", (m.head_dim, d)
    yield "attn_kv_a_norm", (m.head_dim,)
    if m.sinks:
        yield "attn_sinks", (m.heads,)
    yield "attn_output_a", (m.o_groups, m.o_lora_rank, q // m.o_groups)
    yield "attn_output_b", (d, m.o_groups * m.o_lora_rank)
    if m.compress:
        yield from _compressor("attn_compressor", d, m.head_dim, m)
    if m.top_k:
        yield "indexer.attn_q_b", (m.index_heads * m.index_dim, m.q_lora_rank)
        yield "indexer.proj", (m.index_heads, d)
        yield from _compressor("indexer.compressor", d, m.index_dim, m)


def _compressor(name: str, d: int, width: int, m: MixerSpec) -> Named:
    """Entries overlap where few positions make one: twice the width."""
    wide = width * (2 if m.compress == 4 else 1)
    yield f"{name}_kv", (wide, d)
    yield f"{name}_gate", (wide, d)
    yield f"{name}_ape", (m.compress, wide)
    yield f"{name}_norm", (width,)


def _deltanet(d: int, m: MixerSpec) -> Named:
    v = m.v_heads * m.v_dim
    yield "attn_qkv", (m.conv_width, d)
    yield "attn_gate", (v, d)
    yield "ssm_ba", (2 * m.v_heads, d)
    yield "ssm_conv1d", (m.conv_width, m.conv)
    yield "ssm_dt.bias", (m.v_heads,)
    yield "ssm_a", (m.v_heads,)
    yield "ssm_norm", (m.v_dim,)
    yield "ssm_out", (d, v)


def _kda(d: int, m: MixerSpec) -> Named:
    """Decay and output gate are of rank `head_dim`; the gate may be whole (Kimi K3)."""
    for part in ("q", "k", "v"):
        yield f"attn_{part}", (m.d_inner, d)
        yield f"ssm_conv1d_{part}", (m.d_inner, m.conv)
    for part in ("f",) if m.gate else ("f", "g"):
        yield f"ssm_{part}_a", (m.head_dim, d)
        yield f"ssm_{part}_b", (m.d_inner, m.head_dim)
    if m.gate:
        yield "attn_gate", (m.d_inner, d)
    yield "ssm_beta", (m.heads, d)
    yield "ssm_dt.bias", (m.d_inner,)
    yield "ssm_a", (m.heads,)
    yield "ssm_norm", (m.head_dim,)
    yield "attn_output", (d, m.d_inner)


def _mamba2(d: int, m: MixerSpec) -> Named:
    yield "ssm_in", (m.d_inner + m.conv_width + m.heads, d)
    yield "ssm_conv1d", (m.conv_width, m.conv)
    yield "ssm_conv1d.bias", (m.conv_width,)
    yield "ssm_dt.bias", (m.heads,)
    yield "ssm_a", (m.heads,)
    yield "ssm_d", (m.heads,)
    yield "ssm_norm", (m.d_inner,)
    yield "ssm_out", (d, m.d_inner)


def _lightning(d: int, m: MixerSpec) -> Named:
    yield "attn_qkv", (3 * m.d_inner, d)
    yield "attn_gate", (m.d_inner, d)
    yield "ssm_norm", (m.d_inner,)
    yield "attn_output", (d, m.d_inner)


def _shortconv(d: int, m: MixerSpec) -> Named:
    yield "shortconv.in_proj", (3 * d, d)
    yield "shortconv.conv", (d, m.conv)
    yield "shortconv.out_proj", (d, d)


def _ffn(d: int, f: FfnSpec) -> Iterator[Part]:
    if f.kind == "dense":
        for name, rows, cols in _matrices("ffn_{}", d, f.width, f.gated):
            yield name, Role.DENSE_FFN, (rows, cols)
            if f.bias:
                yield f"{name}.bias", Role.DENSE_FFN, (rows,)
        return
    inner = f.latent or d
    yield "ffn_gate_inp", Role.ROUTER, (f.experts, d)
    if f.router_bias:
        yield "exp_probs_b.bias", Role.ROUTER, (f.experts,)
    if f.latent:  # every token passes both: they stay at the layer's home
        yield "ffn_latent_down", Role.SHARED_EXPERT, (f.latent, d)
        yield "ffn_latent_up", Role.SHARED_EXPERT, (d, f.latent)
    for name, rows, cols in _matrices("ffn_{}_exps", inner, f.width, f.gated):
        yield name, Role.EXPERT, (f.experts, rows, cols)
        if f.expert_bias:
            yield f"{name}.bias", Role.EXPERT, (f.experts, rows)
    if f.d_shared:
        for name, rows, cols in _matrices("ffn_{}_shexp", d, f.d_shared, f.gated):
            yield name, Role.SHARED_EXPERT, (rows, cols)
        if f.shared_gate:
            yield "ffn_gate_inp_shexp", Role.SHARED_EXPERT, (d,)


def _side_by_side(d: int, f: FfnSpec) -> Iterator[Part]:
    """Gemma 4: a dense block beside the experts, each between norms of its own; an expert's gate and up are one."""
    yield from _ffn(d, FfnSpec("dense", width=f.d_shared))
    for name in ("post_ffw_norm_1", "pre_ffw_norm_2", "post_ffw_norm_2"):
        yield name, Role.NORM, (d,)
    yield "ffn_gate_inp", Role.ROUTER, (f.experts, d)
    yield "ffn_gate_inp.scale", Role.ROUTER, (d,)
    yield "ffn_gate_up_exps", Role.EXPERT, (f.experts, 2 * f.width, d)
    yield "ffn_down_exps", Role.EXPERT, (f.experts, d, f.width)
    yield "ffn_down_exps.scale", Role.EXPERT, (f.experts,)


def _matrices(name: str, d: int, width: int, gated: bool) -> Iterator[tuple[str, int, int]]:
    if gated:
        yield name.format("gate"), width, d
    yield name.format("up"), width, d
    yield name.format("down"), d, width
