"""Where each GGUF tensor of a family comes from in a Hugging Face checkpoint: a line per kind of tensor.

A source is a name under `model.layers.<layer>.`, or a whole one for what is outside the layers, with the layout that
it has there (`hf_layouts`). Where there are several, the first that a checkpoint holds counts. `*` stands for an
expert's number: one tensor each, which are stacked.
"""

from typing import NamedTuple

from motley.formats import hf_layouts as lay
from motley.formats.hf_layouts import Layout, as_is


class Source(NamedTuple):
    name: str
    layout: Layout = as_is


Table = dict[str, tuple[Source, ...]]


def _from(*sources: str | tuple[str, Layout]) -> tuple[Source, ...]:
    return tuple(Source(s) if isinstance(s, str) else Source(*s) for s in sources)


def _gated(where: str, ending: str = "") -> Table:
    """The three matrices of a gated block; `ending`: of their GGUF names."""
    return {f"ffn_{part}{ending}.weight": _from(f"{where}.{part}_proj.weight") for part in ("gate", "up", "down")}


OUTSIDE: Table = {
    "token_embd.weight": _from("model.embed_tokens.weight"),
    "output_norm.weight": _from("model.norm.weight"),
    "output.weight": _from("lm_head.weight"),
}

_ATTENTION: Table = {
    "attn_norm.weight": _from("input_layernorm.weight"),
    "attn_q.weight": _from("self_attn.q_proj.weight"),
    "attn_k.weight": _from("self_attn.k_proj.weight"),
    "attn_v.weight": _from("self_attn.v_proj.weight"),
    "attn_output.weight": _from("self_attn.o_proj.weight"),
    "ffn_norm.weight": _from("post_attention_layernorm.weight"),
}
_BIASES: Table = {
    "attn_q.bias": _from("self_attn.q_proj.bias"),
    "attn_k.bias": _from("self_attn.k_proj.bias"),
    "attn_v.bias": _from("self_attn.v_proj.bias"),
}
_HEAD_NORMS: Table = {
    "attn_q_norm.weight": _from("self_attn.q_norm.weight"),
    "attn_k_norm.weight": _from("self_attn.k_norm.weight"),
}
_TURNED: Table = {
    "attn_q.weight": _from(("self_attn.q_proj.weight", lay.interleaved)),
    "attn_k.weight": _from(("self_attn.k_proj.weight", lay.interleaved)),
}
_LATENT: Table = {
    "attn_q_a.weight": _from("self_attn.q_a_proj.weight"),
    "attn_q_a_norm.weight": _from("self_attn.q_a_layernorm.weight"),
    "attn_q_b.weight": _from("self_attn.q_b_proj.weight"),
    "attn_kv_a_mqa.weight": _from("self_attn.kv_a_proj_with_mqa.weight"),
    "attn_kv_a_norm.weight": _from("self_attn.kv_a_layernorm.weight"),
    "attn_k_b.weight": _from(("self_attn.kv_b_proj.weight", lay.keys_up)),
    "attn_v_b.weight": _from(("self_attn.kv_b_proj.weight", lay.values_up)),
}
_DENSE: Table = _gated("mlp")
# One tensor an expert, as checkpoints are published, or packed, as transformers holds them in memory.
_EXPERTS: Table = {
    "ffn_gate_inp.weight": _from("mlp.gate.weight"),
    "ffn_gate_exps.weight": _from("mlp.experts.*.gate_proj.weight", ("mlp.experts.gate_up_proj", lay.first_half)),
    "ffn_up_exps.weight": _from("mlp.experts.*.up_proj.weight", ("mlp.experts.gate_up_proj", lay.second_half)),
    "ffn_down_exps.weight": _from("mlp.experts.*.down_proj.weight", "mlp.experts.down_proj"),
}
_MIXTRAL: Table = {  # behind it, the names that transformers has in memory
    "ffn_gate_inp.weight": _from("block_sparse_moe.gate.weight", "mlp.gate.weight"),
    "ffn_gate_exps.weight": (*_from("block_sparse_moe.experts.*.w1.weight"), *_EXPERTS["ffn_gate_exps.weight"]),
    "ffn_up_exps.weight": (*_from("block_sparse_moe.experts.*.w3.weight"), *_EXPERTS["ffn_up_exps.weight"]),
    "ffn_down_exps.weight": (*_from("block_sparse_moe.experts.*.w2.weight"), *_EXPERTS["ffn_down_exps.weight"]),
}
_SHARED: Table = _gated("mlp.shared_experts", "_shexp")
_PRIOR: Table = {"exp_probs_b.bias": _from("mlp.gate.e_score_correction_bias")}
_BEHIND: Table = {"post_attention_norm.weight": _from("post_attention_layernorm.weight")}
_QWEN_SHARED: Table = {
    **_gated("mlp.shared_expert", "_shexp"),
    "ffn_gate_inp_shexp.weight": _from(("mlp.shared_expert_gate.weight", lay.flat)),
}
_DELTANET: Table = {
    "attn_norm.weight": _from(("input_layernorm.weight", lay.plus_one)),
    "post_attention_norm.weight": _from(("post_attention_layernorm.weight", lay.plus_one)),
    "attn_q_norm.weight": _from(("self_attn.q_norm.weight", lay.plus_one)),
    "attn_k_norm.weight": _from(("self_attn.k_norm.weight", lay.plus_one)),
    "attn_qkv.weight": _from(("linear_attn.in_proj_qkvz.weight", lay.queries_keys_values)),
    "attn_gate.weight": _from(("linear_attn.in_proj_qkvz.weight", lay.output_gates)),
    "ssm_ba.weight": _from("linear_attn.in_proj_ba.weight"),
    "ssm_conv1d.weight": _from(("linear_attn.conv1d.weight", lay.without_middle)),
    "ssm_dt.bias": _from("linear_attn.dt_bias"),
    "ssm_a": _from(("linear_attn.A_log", lay.decay)),
    "ssm_norm.weight": _from("linear_attn.norm.weight"),
    "ssm_out.weight": _from("linear_attn.out_proj.weight"),
}
_TILED: Table = {
    "attn_qkv.weight": _from(("linear_attn.in_proj_qkv.weight", lay.tiled_tail)),
    "attn_gate.weight": _from(("linear_attn.in_proj_z.weight", lay.tiled)),
    "ssm_beta.weight": _from(("linear_attn.in_proj_b.weight", lay.tiled)),
    "ssm_alpha.weight": _from(("linear_attn.in_proj_a.weight", lay.tiled)),
    "ssm_conv1d.weight": _from(("linear_attn.conv1d.weight", lay.tiled_taps)),
    "ssm_dt.bias": _from(("linear_attn.dt_bias", lay.tiled)),
    "ssm_a": _from(("linear_attn.A_log", lay.tiled_decay)),
    "ssm_out.weight": _from(("linear_attn.out_proj.weight", lay.tiled_columns)),
}
_GPT_OSS: Table = {
    "attn_output.bias": _from("self_attn.o_proj.bias"),
    "attn_sinks.weight": _from("self_attn.sinks"),
    "ffn_gate_inp.weight": _from("mlp.router.weight"),
    "ffn_gate_inp.bias": _from("mlp.router.bias"),
    "ffn_gate_exps.weight": _from(("mlp.experts.gate_up_proj", lay.even_across)),
    "ffn_up_exps.weight": _from(("mlp.experts.gate_up_proj", lay.odd_across)),
    "ffn_down_exps.weight": _from(("mlp.experts.down_proj", lay.transposed)),
    "ffn_gate_exps.bias": _from(("mlp.experts.gate_up_proj_bias", lay.even)),
    "ffn_up_exps.bias": _from(("mlp.experts.gate_up_proj_bias", lay.odd)),
    "ffn_down_exps.bias": _from("mlp.experts.down_proj_bias"),
}
_GRANITE: Table = {
    "ffn_gate_inp.weight": _from("block_sparse_moe.router.layer.weight"),
    "ffn_gate_exps.weight": _from(("block_sparse_moe.input_linear.weight", lay.first_half)),
    "ffn_up_exps.weight": _from(("block_sparse_moe.input_linear.weight", lay.second_half)),
    "ffn_down_exps.weight": _from("block_sparse_moe.output_linear.weight"),
    "ffn_gate_shexp.weight": _from(("shared_mlp.input_linear.weight", lay.first_half)),
    "ffn_up_shexp.weight": _from(("shared_mlp.input_linear.weight", lay.second_half)),
    "ffn_down_shexp.weight": _from("shared_mlp.output_linear.weight"),
}
_LLAMA4: Table = {
    **_gated("feed_forward"),
    "ffn_gate_inp.weight": _from("feed_forward.router.weight"),
    "ffn_gate_exps.weight": _from(("feed_forward.experts.gate_up_proj", lay.first_half_across)),
    "ffn_up_exps.weight": _from(("feed_forward.experts.gate_up_proj", lay.second_half_across)),
    "ffn_down_exps.weight": _from(("feed_forward.experts.down_proj", lay.transposed)),
    **_gated("feed_forward.shared_expert", "_shexp"),
}
_GEMMA4: Table = _BEHIND | {
    "ffn_norm.weight": _from("pre_feedforward_layernorm.weight"),
    "post_ffw_norm.weight": _from("post_feedforward_layernorm.weight"),
    "post_ffw_norm_1.weight": _from("post_feedforward_layernorm_1.weight"),
    "pre_ffw_norm_2.weight": _from("pre_feedforward_layernorm_2.weight"),
    "post_ffw_norm_2.weight": _from("post_feedforward_layernorm_2.weight"),
    "ffn_gate_inp.weight": _from("router.proj.weight"),
    "ffn_gate_inp.scale": _from("router.scale"),
    "ffn_gate_up_exps.weight": _from("experts.gate_up_proj"),
    "ffn_down_exps.weight": _from("experts.down_proj"),
    "ffn_down_exps.scale": _from("router.per_expert_scale"),
    "layer_output_scale.weight": _from("layer_scalar"),
}
_HUNYUAN: Table = {
    "attn_q_norm.weight": _from("self_attn.query_layernorm.weight"),
    "attn_k_norm.weight": _from("self_attn.key_layernorm.weight"),
    "ffn_gate_inp.weight": _from("mlp.gate.wg.weight"),
    **_gated("mlp.shared_mlp", "_shexp"),
}

_QWEN3_MOE = _ATTENTION | _HEAD_NORMS | _EXPERTS
_QWEN3_NEXT = _ATTENTION | _EXPERTS | _QWEN_SHARED | _DELTANET
IN_LAYER: dict[str, Table] = {
    "llama": _ATTENTION | _TURNED | _DENSE | _MIXTRAL,
    "olmoe": _QWEN3_MOE,
    "qwen2moe": _ATTENTION | _BIASES | _EXPERTS | _QWEN_SHARED,
    "qwen3": _ATTENTION | _HEAD_NORMS | _DENSE,
    "qwen3moe": _QWEN3_MOE,
    "qwen3next": _QWEN3_NEXT,
    "qwen35moe": _QWEN3_NEXT | _TILED,
    "deepseek": _ATTENTION | _TURNED | _DENSE | _EXPERTS | _SHARED,
    "deepseek2": _ATTENTION | _LATENT | _DENSE | _EXPERTS | _SHARED | _PRIOR,
    "glm4moe": _ATTENTION | _BIASES | _HEAD_NORMS | _BEHIND | _DENSE | _EXPERTS | _SHARED | _PRIOR,
    "gpt-oss": _ATTENTION | _BIASES | _BEHIND | _GPT_OSS,
    "granitemoe": _ATTENTION | _TURNED | _GRANITE,
    "minimax-m2": _ATTENTION
    | _HEAD_NORMS
    | _MIXTRAL
    | {"exp_probs_b.bias": _from("block_sparse_moe.e_score_correction_bias")},
    "llama4": _ATTENTION | _LLAMA4,
    "gemma4": _ATTENTION | _HEAD_NORMS | _DENSE | _GEMMA4,
    "ernie4_5-moe": _ATTENTION
    | _DENSE
    | _EXPERTS
    | _SHARED
    | {"exp_probs_b.bias": _from(("mlp.moe_statics.e_score_correction_bias", lay.flat))},
    "dots1": _ATTENTION | _HEAD_NORMS | _DENSE | _EXPERTS | _SHARED | _PRIOR,
    "hunyuan-moe": _ATTENTION | _EXPERTS | _HUNYUAN,
}
OWN_OUTSIDE: dict[str, Table] = {
    architecture: {"output_norm.weight": _from(("model.norm.weight", lay.plus_one))}
    for architecture in ("qwen3next", "qwen35moe")
}
