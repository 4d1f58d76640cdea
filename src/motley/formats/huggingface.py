"""From Hugging Face's tensor names and layouts to GGUF's: the one place that knows both.

Experts may come packed, as transformers holds them in memory (`gate_up_proj` [E, 2F, D]), or one tensor per expert, as
checkpoints store them (`gate_proj`/`up_proj`/`down_proj`, Mixtral's `w1`/`w3`/`w2`).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError
from motley.shape.model import ModelShape

F32 = NDArray[np.float32]

_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER = {
    "attn_norm.weight": ("input_layernorm.weight",),
    "attn_q.weight": ("self_attn.q_proj.weight",),
    "attn_k.weight": ("self_attn.k_proj.weight",),
    "attn_v.weight": ("self_attn.v_proj.weight",),
    "attn_output.weight": ("self_attn.o_proj.weight",),
    "attn_q_norm.weight": ("self_attn.q_norm.weight",),
    "attn_k_norm.weight": ("self_attn.k_norm.weight",),
    "ffn_norm.weight": ("post_attention_layernorm.weight",),
    "ffn_gate_inp.weight": ("mlp.gate.weight", "block_sparse_moe.gate.weight"),
}
_EXPERT_PARTS = {
    "ffn_gate_exps.weight": ("gate", "w1"),
    "ffn_up_exps.weight": ("up", "w3"),
    "ffn_down_exps.weight": ("down", "w2"),
}


def gguf_tensor(name: str, shape: ModelShape, state: Mapping[str, F32]) -> F32:
    """The values of GGUF tensor `name` from a Hugging Face state dict, in GGUF's layout. Raises FormatError if no
    tensor of `state` holds it."""
    if name in _OUTSIDE:
        return _first(name, state, (_OUTSIDE[name],))
    _, layer, part = name.split(".", 2)
    prefix = f"model.layers.{layer}."
    if part in _EXPERT_PARTS:
        return _experts(name, prefix, part, shape, state)
    values = _first(name, state, tuple(prefix + source for source in _IN_LAYER[part]))
    if shape.architecture == "llama" and part in ("attn_q.weight", "attn_k.weight"):
        return interleave_rope_rows(values, shape.head_dim)
    return values


def interleave_rope_rows(values: F32, head_dim: int) -> F32:
    """Rows of each head from (i, i + N/2) pairs, Hugging Face's rotation, to (2i, 2i+1), GGUF llama's."""
    heads = values.reshape(-1, 2, head_dim // 2, values.shape[-1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(values.shape)


def _first(name: str, state: Mapping[str, F32], sources: tuple[str, ...]) -> F32:
    for source in sources:
        if source in state:
            return state[source]
    raise FormatError(f"no tensor for {name}: looked for {' and '.join(sources)}")


def _experts(name: str, prefix: str, part: str, shape: ModelShape, state: Mapping[str, F32]) -> F32:
    kind, mixtral_name = _EXPERT_PARTS[part]
    packed = prefix + "mlp.experts." + ("down_proj" if kind == "down" else "gate_up_proj")
    if packed in state:
        values = state[packed]
        half = {"gate": slice(0, shape.d_expert), "up": slice(shape.d_expert, None), "down": slice(None)}[kind]
        return np.ascontiguousarray(values[:, half])
    each = [
        (f"{prefix}mlp.experts.{e}.{kind}_proj.weight", f"{prefix}block_sparse_moe.experts.{e}.{mixtral_name}.weight")
        for e in range(shape.n_experts)
    ]
    return np.stack([_first(name, state, sources) for sources in each])
