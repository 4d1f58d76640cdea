"""The GGUF metadata of a Spec: what a file of random weights needs to be run, for the families whose tensors `tensors`
lists as their files have them.

A catalogue file states what costs time and memory; of the rest (rotation, norms, scales) the values here are common
ones, for weights that mean nothing.
"""

from collections.abc import Mapping

from motley.shape.spec import FfnSpec, MixerSpec, Spec

# Norms or further tensors have other names in the files of gpt-oss, glm4moe, qwen3next, gemma4, llama4.
SYNTHESISED = frozenset(
    "llama qwen3 deepseek deepseek2 dots1 ernie4_5-moe hunyuan-moe minimax-m2 granitemoe".split()  # noqa: SIM905
)
_SIGMOID = frozenset({"dots1", "minimax-m2"})  # deepseek2: with a bias on the router


def attrs_of(spec: Spec) -> Mapping[str, int | float | bool]:
    """Every `<architecture>.*` key that the family reads; empty where Motley can't make a file of the model."""
    mixers, ffns = set(spec.mixer_letters), spec.ffn_letters
    m, f = spec.main, spec.moe
    dense = next((d for d in map(spec.ffn.get, ffns) if d and d.kind == "dense"), None)
    n_dense = sum(spec.ffn_of(i) is dense for i in range(spec.n_layers)) if dense else 0
    leads = all(spec.ffn_of(i) is dense for i in range(n_dense)) if f else n_dense == spec.n_layers
    plain = not (spec.post_norms or spec.per_layer_embed or spec.hyper or spec.hybrid)
    if spec.architecture not in SYNTHESISED or len(mixers) != 1 or not leads or not plain or not _is_plain(m, f, dense):
        return {}
    d_dense = dense.width if dense else spec.d_dense or (f.width if f else 0)
    keys: dict[str, int | float | bool] = {
        "block_count": spec.n_layers,
        "context_length": spec.context,
        "embedding_length": spec.d_model,
        "feed_forward_length": d_dense,
        "attention.head_count": m.heads,
        "attention.head_count_kv": m.kv_heads or 1,
        "attention.layer_norm_rms_epsilon": spec.rms_eps or 1e-6,
        "rope.freq_base": spec.rope_theta or 1e4,
        "vocab_size": spec.vocab_size,
        **(_latent(m) if m.kind == "mla" else _grouped(m)),
        **(_experts(spec, f, n_dense) if f else {}),
    }
    return {f"{spec.architecture}.{key}": value for key, value in keys.items()}


def _is_plain(m: MixerSpec, f: FfnSpec | None, dense: FfnSpec | None) -> bool:
    odd = m.window or m.gate or m.sinks or m.v_from_k or m.shares_kv or m.top_k or m.beside or m.bias
    blocks = [block for block in (f, dense) if block]
    return (
        m.kind in ("attention", "mla")
        and not odd
        and not any(b.latent or b.bias or b.expert_bias or b.shared_gate or not b.gated for b in blocks)
    )


def _grouped(m: MixerSpec) -> dict[str, int]:
    return {
        "attention.key_length": m.head_dim,
        "attention.value_length": m.value_dim,
        "rope.dimension_count": m.head_dim,
    }


def _latent(m: MixerSpec) -> dict[str, int]:
    """The first two as converters write them: of the one key/value head that all heads share."""
    keys = {
        "attention.key_length": m.kv_lora_rank + m.rope_dim,
        "attention.value_length": m.kv_lora_rank,
        "attention.key_length_mla": m.head_dim + m.rope_dim,
        "attention.value_length_mla": m.value_dim,
        "attention.kv_lora_rank": m.kv_lora_rank,
        "rope.dimension_count": m.rope_dim,
    }
    return keys | ({"attention.q_lora_rank": m.q_lora_rank} if m.q_lora_rank else {})


def _experts(spec: Spec, f: FfnSpec, n_dense: int) -> dict[str, int | float | bool]:
    sigmoid = spec.architecture in _SIGMOID or (spec.architecture == "deepseek2" and f.router_bias)
    keys: dict[str, int | float | bool] = {
        "expert_count": f.experts,
        "expert_used_count": f.used,
        "expert_feed_forward_length": f.width,
        "expert_gating_func": 2 if sigmoid else 1,
    }
    if n_dense:
        keys["leading_dense_block_count"] = n_dense
    if f.d_shared:
        keys |= {"expert_shared_count": f.shared, "expert_shared_feed_forward_length": f.d_shared}
    return keys
