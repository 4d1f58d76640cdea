"""Config: the hyper-parameters a decoder needs, read from a checkpoint's metadata (GGUF keys `<architecture>.*`).

A family reads its own with `read_config` and says what its keys cannot: the rotation's style, whether the chosen
experts' weights are renormalised. Settings that would change the mathematics and are not implemented are refused here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from motley.errors import FormatError, UnsupportedError
from motley.formats.metadata import get_float, get_int
from motley.ops.protocol import Rope, Routing

# Keys that change the arithmetic, and the one value at which they change nothing.
UNSUPPORTED_UNLESS: dict[str, Any] = {
    "rope.scaling.type": "none",
    "attention.clamp_kqv": 0.0,
    "attention.sliding_window": 0,
    "attention.logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
    "expert_weights_scale": 0.0,
    "expert_shared_count": 0,
    "leading_dense_block_count": 0,
}


@dataclass(frozen=True)
class Config:
    architecture: str
    n_layers: int
    d_model: int  # D
    n_heads: int  # H
    n_kv_heads: int  # K
    head_dim: int  # N
    n_experts: int  # E
    d_expert: int  # F
    vocab_size: int  # V
    context: int
    eps: float
    rope: Rope
    routing: Routing

    @property
    def scale(self) -> float:
        return float(self.head_dim**-0.5)


def read_config(
    metadata: Mapping[str, Any], architecture: str, *, normalize: bool, interleaved: bool, width_key: str
) -> Config:
    """`width_key`: which key holds an expert's width F. Raises FormatError naming the key that is missing or odd."""

    def key(name: str) -> str:
        return f"{architecture}.{name}"

    for name, harmless in UNSUPPORTED_UNLESS.items():
        value = metadata.get(key(name), harmless)
        if value != harmless:
            raise UnsupportedError(f"{key(name)} = {value!r} is not supported yet (only {harmless!r} is)")
    d_model = get_int(metadata, key("embedding_length"))
    n_heads = get_int(metadata, key("attention.head_count"))
    n_experts = get_int(metadata, key("expert_count"))
    n_used = get_int(metadata, key("expert_used_count"))
    if not 0 < n_used <= n_experts:
        raise FormatError(f"{key('expert_used_count')} = {n_used} must be between 1 and expert_count = {n_experts}")
    head_dim = get_int(metadata, key("attention.key_length"), default=d_model // n_heads if n_heads else 0)
    n_kv_heads = get_int(metadata, key("attention.head_count_kv"), default=n_heads)
    if not n_heads or not n_kv_heads or n_heads % n_kv_heads or head_dim % 2:
        raise FormatError(f"{n_heads} heads of {head_dim} over {n_kv_heads} key/value heads cannot be grouped")
    return Config(
        architecture=architecture,
        n_layers=get_int(metadata, key("block_count")),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        n_experts=n_experts,
        d_expert=get_int(metadata, key(width_key)),
        vocab_size=_vocab_size(metadata, architecture),
        context=get_int(metadata, key("context_length")),
        eps=get_float(metadata, key("attention.layer_norm_rms_epsilon")),
        rope=Rope(
            dim=get_int(metadata, key("rope.dimension_count"), default=head_dim),
            theta=get_float(metadata, key("rope.freq_base"), default=10000.0),
            interleaved=interleaved,
        ),
        routing=Routing(n_used=n_used, normalize=normalize),
    )


def _vocab_size(metadata: Mapping[str, Any], architecture: str) -> int:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is not None:
        return len(tokens)
    return get_int(metadata, f"{architecture}.vocab_size")
