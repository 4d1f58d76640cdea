"""Tensor names that GGUF files of an architecture have otherwise than most, and their endings."""

from collections.abc import Mapping

_BEHIND = {"ffn_norm": "post_attention_norm"}  # the norm before the block, called by what is before it
_OWN: Mapping[str, Mapping[str, str]] = {
    "gpt-oss": {**_BEHIND, "exp_probs_b.bias": "ffn_gate_inp.bias"},  # which adds to the scores, too
    "glm4moe": _BEHIND,
    "qwen3next": _BEHIND,
    "qwen35": _BEHIND,
    "qwen35moe": _BEHIND,
    "gemma4": {"post_attn_norm": "post_attention_norm", "post_ffn_norm": "post_ffw_norm"},
}
_WITHOUT_ENDING = ("ssm_a",)


def named(architecture: str, stem: str) -> str:
    """`attn_norm` -> `attn_norm.weight`, `attn_q.bias` as it is: without the layer."""
    name = _OWN.get(architecture, {}).get(stem, stem)
    return name if name.endswith((".bias", ".scale")) or name in _WITHOUT_ENDING else f"{name}.weight"
