"""Config: the hyper-parameters a decoder needs, read from a checkpoint's metadata (GGUF keys `<architecture>.*`).

A family reads its own with `read_config` and says what its keys cannot: the rotation's style, whether the chosen
experts' weights are renormalised. Settings that would change the mathematics and that nobody asked for are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from motley.errors import FormatError, UnsupportedError
from motley.formats.keys import Keys
from motley.formats.metadata import get_int, get_list
from motley.formats.mixers import window_of
from motley.models.rope import read_rope
from motley.ops.protocol import EVERYTHING, Activation, Rope, Routing, Span

Score = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Heads:
    """Attention of one layer."""

    n_heads: int  # H
    n_kv_heads: int  # K
    head_dim: int  # N
    rope: Rope | None
    scale: float
    span: Span = EVERYTHING


@dataclass(frozen=True)
class Config:
    architecture: str
    n_layers: int
    d_model: int  # D
    n_experts: int  # E; 0: a dense model
    d_expert: int  # F
    vocab_size: int  # V
    context: int
    eps: float
    heads: Heads  # of every layer, or of those that a family does not know better
    routing: Routing
    keys: Keys = field(repr=False, compare=False)
    windows: tuple[int, ...]  # of each layer: `formats.mixers.window_of`
    activation: Activation = Activation.SILU
    d_dense: int = 0  # of a dense block
    d_shared: int = 0  # of all shared experts together
    dense_layers: frozenset[int] = frozenset()  # without experts
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # of what a block adds
    logit_scale: float = 1.0
    logit_cap: float = 0.0  # 0: none

    def has_experts(self, layer: int) -> bool:
        return self.n_experts > 0 and layer not in self.dense_layers


def read_config(
    metadata: Mapping[str, Any],
    architecture: str,
    *,
    rope: Literal["neox", "interleaved"],
    normalize: bool = True,
    score: Score = "softmax",
    truncate_yarn: bool = True,
) -> Config:
    """What all families have in common; `normalize` and `score` where no key says otherwise. Raises FormatError naming
    the key that is missing or odd."""
    keys = Keys(metadata, architecture)
    mtp = keys.whole("nextn_predict_layers", 0)
    n_layers = max(keys.whole("block_count") - mtp, 0)
    d_model = keys.whole("embedding_length")
    n_experts = keys.whole("expert_count", 0)
    n_heads = keys.most("attention.head_count")
    n_kv_heads = keys.most("attention.head_count_kv", n_heads)
    head_dim = keys.whole("attention.key_length", d_model // n_heads if n_heads else 0)
    if not n_heads or not n_kv_heads or n_heads % n_kv_heads or head_dim % 2:
        raise FormatError(f"{n_heads} heads of {head_dim} over {n_kv_heads} key/value heads cannot be grouped")
    turned = read_rope(keys, head_dim, interleaved=rope == "interleaved", truncate=truncate_yarn)
    d_dense = keys.whole("feed_forward_length", 0)
    n_dense = keys.whole("leading_dense_block_count", 0) if n_experts else 0
    d_expert = keys.whole("expert_feed_forward_length", d_dense) if n_experts else 0
    n_shared = keys.whole("expert_shared_count", 0) if n_experts else 0
    return Config(
        architecture=architecture,
        n_layers=n_layers,
        d_model=d_model,
        n_experts=n_experts,
        d_expert=d_expert,
        vocab_size=vocab_size(metadata, architecture),
        context=keys.whole("context_length"),
        eps=keys.real("attention.layer_norm_rms_epsilon"),
        heads=Heads(n_heads, n_kv_heads, head_dim, turned, head_dim**-0.5),
        routing=_routing(keys, n_experts, normalize, score),
        keys=keys,
        windows=tuple(window_of(keys, layer) for layer in range(n_layers)),
        d_dense=d_dense,
        d_shared=keys.whole("expert_shared_feed_forward_length", n_shared * d_expert) if n_experts else 0,
        dense_layers=frozenset(range(n_dense)),
    )


def _routing(keys: Keys, n_experts: int, normalize: bool, score: Score) -> Routing:
    if not n_experts:
        return Routing(0, normalize)
    n_used = keys.whole("expert_used_count")
    if not 0 < n_used <= n_experts:
        raise FormatError(
            f"{keys.name('expert_used_count')} = {n_used} must be between 1 and expert_count = {n_experts}"
        )
    functions: dict[int, Score] = {0: score, 1: "softmax", 2: "sigmoid"}
    function = keys.whole("expert_gating_func", 0)
    if function not in functions:
        raise UnsupportedError(f"{keys.name('expert_gating_func')} = {function}: Motley knows 1 (softmax), 2 (sigmoid)")
    found = functions[function]
    n_groups = keys.whole("expert_group_count", 1) or 1
    used = keys.whole("expert_group_used_count", 1) or 1
    if n_experts % n_groups or used > n_groups:
        raise FormatError(f"{n_experts} experts in {n_groups} groups, {used} of them used: that cannot be")
    return Routing(
        n_used,
        keys.flag("expert_weights_norm", normalize),
        found,
        keys.real("expert_weights_scale", 1.0) or 1.0,
        n_groups,
        used,
        group_sum=2 if found == "sigmoid" else 1,  # DeepSeek V3's way and V2's
    )


def vocab_size(metadata: Mapping[str, Any], architecture: str) -> int:
    """V, by the vocabulary where there is one. Raises FormatError."""
    if "tokenizer.ggml.tokens" in metadata:
        return len(get_list(metadata, "tokenizer.ggml.tokens", str))
    return get_int(metadata, f"{architecture}.vocab_size")
