"""A Hugging Face `config.json` turned into Dims.

Keys that change the mathematics and that Motley does not implement are refused by name, never ignored: biases, clipped
projections, sliding windows, scaled rope, dense layers between the sparse ones.
"""

from collections.abc import Mapping

from motley.errors import FormatError, UnsupportedError
from motley.shape.dims import Dims

_FAMILIES = {
    "OlmoeForCausalLM": "olmoe",
    "Qwen3MoeForCausalLM": "qwen3moe",
    "MixtralForCausalLM": "llama",
}
# What each family's mathematics fixes: (key, its meaning where the key is absent, the values that Motley computes).
_FIXED: dict[str, tuple[tuple[str, object, tuple[object, ...]], ...]] = {
    "olmoe": (
        ("clip_qkv", None, (None,)),
        ("norm_topk_prob", False, (False,)),
        ("attention_bias", False, (False,)),
        ("hidden_act", "silu", ("silu",)),
    ),
    "qwen3moe": (
        ("norm_topk_prob", False, (True,)),
        ("attention_bias", False, (False,)),
        ("use_sliding_window", False, (False,)),
        ("decoder_sparse_step", 1, (1,)),
        ("mlp_only_layers", None, (None, [])),
        ("hidden_act", "silu", ("silu",)),
    ),
    "llama": (
        ("sliding_window", None, (None,)),
        ("hidden_act", "silu", ("silu",)),
    ),
}
_ROPE_THETA = {"olmoe": 1e4, "qwen3moe": 1e6, "llama": 1e6}  # where neither key is present


def dims_from_hf(config: Mapping[str, object]) -> Dims:
    """Raises UnsupportedError for an unknown family or feature, FormatError for a missing or misshapen key."""
    family = _family(config)
    for key, absent, accepted in _FIXED[family]:
        value = config.get(key, absent)
        if value not in accepted:
            raise UnsupportedError(f"config.json: {key} = {value!r} is not supported here, only {accepted[0]!r}")
    d_model, n_heads = _int(config, "hidden_size"), _int(config, "num_attention_heads")
    d_dense = _int(config, "intermediate_size")
    return Dims(
        name=str(config.get("_name_or_path") or config.get("model_type") or family),
        architecture=family,
        n_layers=_int(config, "num_hidden_layers"),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=_int(config, "num_key_value_heads", n_heads),
        head_dim=_int(config, "head_dim", d_model // n_heads if n_heads > 0 else None),
        n_experts=_int(config, "num_local_experts" if family == "llama" else "num_experts"),
        n_experts_used=_int(config, "num_experts_per_tok"),
        d_expert=_int(config, "moe_intermediate_size") if family == "qwen3moe" else d_dense,
        d_dense=d_dense,
        vocab_size=_int(config, "vocab_size"),
        context=_int(config, "max_position_embeddings"),
        rms_eps=_float(config, "rms_norm_eps"),
        rope_theta=_rope_theta(config, family),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        source="config.json",
    )


def _family(config: Mapping[str, object]) -> str:
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str):
        raise FormatError("config.json: `architectures` is missing, so the family is unknown")
    if name not in _FAMILIES:
        raise UnsupportedError(f"config.json: architecture {name} is not supported: Motley has {', '.join(_FAMILIES)}")
    return _FAMILIES[name]


def _rope_theta(config: Mapping[str, object], family: str) -> float:
    """`rope_theta` of old configs, `rope_parameters` of new ones; any scaling is refused."""
    for key in ("rope_parameters", "rope_scaling"):
        rope = config.get(key)
        if rope is None:
            continue
        if not isinstance(rope, Mapping):
            raise FormatError(f"config.json: {key} must be a table, not {rope!r}")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise UnsupportedError(f"config.json: {key} of type {kind!r} is not supported, only plain rope")
        if "rope_theta" in rope:
            return _float(rope, "rope_theta")
    return _float(config, "rope_theta", _ROPE_THETA[family])


def _int(config: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(f"config.json: {key} must be a whole number, not {value!r}")
    return value


def _float(config: Mapping[str, object], key: str, default: float | None = None) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(f"config.json: {key} must be a number, not {value!r}")
    return float(value)
