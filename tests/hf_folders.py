"""Hugging Face directories for tests: a safetensors writer of a few lines, and the golden models turned back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from motley.formats.checkpoint import open_checkpoint

GOLDEN = Path(__file__).parent / "golden" / "models"
Tensors = Mapping[str, tuple[str, np.ndarray]]  # dtype by the format's name, and an array with the bytes

CONFIGS: dict[str, dict[str, Any]] = {
    "olmoe": {
        "architectures": ["OlmoeForCausalLM"],
        "norm_topk_prob": False,
        "num_experts": 8,
        "num_key_value_heads": 4,
    },
    "qwen3moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "norm_topk_prob": True,
        "num_experts": 8,
        "head_dim": 32,
        "moe_intermediate_size": 32,
    },
    "mixtral": {"architectures": ["MixtralForCausalLM"], "num_local_experts": 8},
}
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate",
}
_EXPERTS = {
    "ffn_gate_exps": ("gate_proj", "w1"),
    "ffn_up_exps": ("up_proj", "w3"),
    "ffn_down_exps": ("down_proj", "w2"),
}


def f32(values: np.ndarray) -> tuple[str, np.ndarray]:
    return "F32", np.asarray(values, np.float32, order="C")


def f16(values: np.ndarray) -> tuple[str, np.ndarray]:
    return "F16", np.asarray(values, np.float16, order="C")


def bf16(values: np.ndarray) -> tuple[str, np.ndarray]:
    """Cut, not rounded: for tests any bfloat16 does."""
    return "BF16", (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def safetensors_bytes(tensors: Tensors, **changes: Any) -> bytes:
    """`changes` replace what the header says of a tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, data = 0, b""
    for name, (dtype, values) in tensors.items():
        raw = values.tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + len(raw)]}
        header[name] |= changes.get(name, {})
        at, data = at + len(raw), data + raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def write_folder(folder: Path, config: Mapping[str, Any], *shards: Tensors) -> Path:
    """One file, or several with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if len(shards) == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(shards[0]))
        return folder
    where = {}
    for i, tensors in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        (folder / name).write_bytes(safetensors_bytes(tensors))
        where |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def golden_state(family: str, packed_experts: bool = False) -> dict[str, np.ndarray]:
    """The golden GGUF's values under Hugging Face's names; experts one by one, or as transformers packs them."""
    checkpoint = open_checkpoint(GOLDEN / f"{family}.gguf")
    state: dict[str, np.ndarray] = {}
    for name, tensor in checkpoint.tensors.items():
        values = tensor.decode()
        if name in _OUTSIDE:
            state[_OUTSIDE[name]] = values
            continue
        _, layer, part, _ = name.split(".")
        prefix = f"model.layers.{layer}."
        if part not in _EXPERTS:
            mixtral_router = family == "mixtral" and part == "ffn_gate_inp"
            if family == "mixtral" and part in ("attn_q", "attn_k"):
                values = _rotated_by_halves(values, 16)
            state[prefix + ("block_sparse_moe.gate" if mixtral_router else _PARTS[part]) + ".weight"] = values
            continue
        if packed_experts:
            state[f"{prefix}{part}"] = values
            continue
        for e, matrix in enumerate(values):
            usual, mixtral = _EXPERTS[part]
            own = f"block_sparse_moe.experts.{e}.{mixtral}" if family == "mixtral" else f"mlp.experts.{e}.{usual}"
            state[f"{prefix}{own}.weight"] = matrix
    return _packed(state) if packed_experts else state


def golden_config(family: str) -> dict[str, Any]:
    return {
        "vocab_size": 160,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "num_experts_per_tok": 3,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6 if family == "qwen3moe" else 1e-5,
        "intermediate_size": 96 if family == "qwen3moe" else 32,
        **CONFIGS[family],
    }


def _rotated_by_halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """GGUF llama's pairs (2i, 2i+1) back to (i, i + N/2)."""
    heads = rows.reshape(-1, head_dim, rows.shape[-1])
    return np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1).reshape(rows.shape)


def _packed(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {}
    for name, values in state.items():
        stem, _, part = name.rpartition(".")
        if part == "ffn_gate_exps":
            found[f"{stem}.mlp.experts.gate_up_proj"] = np.concatenate([values, state[f"{stem}.ffn_up_exps"]], axis=1)
        elif part == "ffn_down_exps":
            found[f"{stem}.mlp.experts.down_proj"] = values
        elif part != "ffn_up_exps":
            found[name] = values
    return found
