"""The golden models as Hugging Face directories: transformers' own config and names, and the values of the golden GGUF
put back under them.

`tests/golden/hf_folders.json` has what transformers saved (tools/golden/make_models.py): config.json, and of every
tensor type, dimensions and checksum. The way back here knows nothing of Motley's tables, and the checksum of each
tensor shows that it leads to transformers' bytes.
"""

import json
import re
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hf_folders import bf16
from motley.formats.checkpoint import open_checkpoint

GOLDEN = Path(__file__).parent / "golden" / "models"
FOLDERS: dict[str, dict[str, Any]] = json.loads((GOLDEN.parent / "hf_folders.json").read_text())
Values = dict[str, np.ndarray]


def _deepseek_moe() -> dict[str, Any]:
    """DeepSeek-MoE 16B, which transformers does not hold: names and config as its publisher's code has them
    (modeling_deepseek.py of deepseek-ai/deepseek-moe-16b-base); no checksums."""
    like = FOLDERS["deepseek2-lite"]
    names = {n: [*entry[:2], None] for n, entry in like["tensors"].items() if ".kv_" not in n}
    for i in range(3):
        names |= {f"model.layers.{i}.self_attn.{p}_proj.weight": ["F32", [64, 64], None] for p in "qkvo"}
    keys = "vocab_size hidden_size num_hidden_layers num_attention_heads max_position_embeddings num_experts_per_tok"
    keys += " intermediate_size moe_intermediate_size n_routed_experts n_shared_experts first_k_dense_replace"
    config = {key: like["config"][key] for key in keys.split()} | {"num_key_value_heads": 4, "rms_norm_eps": 1e-6}
    own = {"architectures": ["DeepseekForCausalLM"], "scoring_func": "softmax", "norm_topk_prob": False}
    return {"config": config | own | {"rope_theta": 10000.0, "rope_scaling": None}, "tensors": names}


FOLDERS["deepseek"] = _deepseek_moe()

# By the end of a name: what GGUF files call it. Where there are several, whichever the file has.
PLAIN = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight ffn_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    "post_feedforward_layernorm_1.weight": "post_ffw_norm_1.weight",
    "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
    "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight",
    "layer_scalar": "layer_output_scale.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.bias": "attn_output.bias",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "self_attn.query_layernorm.weight": "attn_q_norm.weight",
    "self_attn.key_layernorm.weight": "attn_k_norm.weight",
    "self_attn.sinks": "attn_sinks.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "linear_attn.in_proj_ba.weight": "ssm_ba.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "router.proj.weight": "ffn_gate_inp.weight",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "router.layer.weight": "ffn_gate_inp.weight",
    "router.weight": "ffn_gate_inp.weight",
    "router.bias": "ffn_gate_inp.bias",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.wg.weight": "ffn_gate_inp.weight",
    "block_sparse_moe.gate.weight": "ffn_gate_inp.weight",
    "e_score_correction_bias": "exp_probs_b.bias",
    "shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
}
PART = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}
ROTATED = ("llama", "mixtral", "granitemoe", "granitemoe-shared", "deepseek")


def golden_config(family: str) -> dict[str, Any]:
    return dict(FOLDERS[family]["config"])


def golden_state(family: str) -> Values:
    """float32, under transformers' names; AssertionError where it is not what transformers saved."""
    return dict(_state(family))


@cache
def _state(family: str) -> Values:
    file = open_checkpoint(GOLDEN / f"{family}.gguf")
    gguf = {name: tensor.decode() for name, tensor in file.tensors.items()}
    state = {}
    for name, (kind, dims, checksum) in FOLDERS[family]["tensors"].items():
        assert kind == "F32"
        layer = re.match(r"model\.layers\.(\d+)\.(.*)", name)
        own = {n.removeprefix(f"blk.{layer[1]}."): v for n, v in gguf.items()} if layer else gguf
        values = np.ascontiguousarray(_back(family, layer[2] if layer else name, own), np.float32).reshape(dims)
        assert checksum in (None, zlib.crc32(values.tobytes())), f"{family}: {name} is not what transformers saved"
        state[name] = values
    return state


def mxfp4_experts() -> tuple[dict[str, Any], dict[str, tuple[str, np.ndarray]]]:
    """gpt-oss with random blocks for experts: config and tensors, gate and up by turns, [E, 2F, D / 32, 16]."""
    rng, tensors = np.random.default_rng(3), dict[str, tuple[str, np.ndarray]]()
    for name, values in golden_state("gpt-oss").items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):  # [E, in, out]
            n_experts, columns, rows = values.shape
            blocks = rng.integers(0, 256, (n_experts, rows, columns // 32, 16), np.uint8)
            tensors[f"{name}_blocks"] = "U8", blocks
            tensors[f"{name}_scales"] = "U8", rng.integers(120, 124, blocks.shape[:3], np.uint8)
        else:
            tensors[name] = bf16(values)
    return golden_config("gpt-oss") | {"quantization_config": {"quant_method": "mxfp4"}}, tensors


def packed(state: Values) -> Values:
    """Experts as transformers holds them in memory: all of a layer in two tensors."""
    found: Values = {}
    for name, values in state.items():
        parts = re.fullmatch(r"(.*?)(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight", name)
        if not parts:
            found[name] = values
        elif parts[2] == "0" and PART[parts[3]] != "up":
            every = [state[name.replace("experts.0.", f"experts.{e}.")] for e in range(8)]
            if PART[parts[3]] == "gate":
                up = name.replace("gate_proj", "up_proj").replace("w1", "w3")
                ups = [state[up.replace("experts.0.", f"experts.{e}.")] for e in range(8)]
                every = [np.concatenate(both) for both in zip(every, ups)]
            found[f"{parts[1]}mlp.experts.{'down' if PART[parts[3]] == 'down' else 'gate_up'}_proj"] = np.stack(every)
    return found


def _back(family: str, name: str, gguf: Values) -> np.ndarray:
    if found := re.search(r"experts\.(\d+)\.(\w+)\.weight$", name):
        return gguf[f"ffn_{PART[found[2]]}_exps.weight"][int(found[1])]
    if found := re.search(r"(shared_experts?|shared_mlp)\.(\w+_proj)\.weight$", name):
        return gguf[f"ffn_{PART[found[2]]}_shexp.weight"]
    if found := re.fullmatch(r"(?:mlp|feed_forward)\.(\w+_proj)\.weight", name):
        return gguf[f"ffn_{PART[found[1]]}.weight"]
    if found := re.search(r"experts\.(gate_up_proj|down_proj)(_bias)?$", name):
        return _packed(family, found[1] == "down_proj", "bias" if found[2] else "weight", gguf)
    if found := re.search(r"(block_sparse_moe|shared_mlp)\.(input|output)_linear\.weight$", name):
        ending = "exps" if found[1] == "block_sparse_moe" else "shexp"
        parts = ("gate", "up") if found[2] == "input" else ("down",)
        return np.concatenate([gguf[f"ffn_{part}_{ending}.weight"] for part in parts], axis=-2)
    if name.endswith("kv_b_proj.weight"):  # [H, R, N] and [H, M, R], by heads one behind the other
        return np.concatenate([gguf["attn_k_b.weight"].swapaxes(1, 2), gguf["attn_v_b.weight"]], axis=1)
    if name.endswith("in_proj_qkvz.weight"):
        return _by_key_head(gguf["attn_qkv.weight"], gguf["attn_gate.weight"])
    if name.endswith("A_log"):  # multiples of 1/32 when they were made
        return (np.log(-_untiled(family, "", gguf["ssm_a"])) * 32).round() / 32
    ours = next(n for end, n in sorted(PLAIN.items(), key=lambda item: -len(item[0])) if name.endswith(end))
    values = next(gguf[each] for each in ours.split() if each in gguf)
    if family in ROTATED and name.endswith(("q_proj.weight", "k_proj.weight")):
        return np.concatenate([values.reshape(-1, 16, 64)[:, i::2] for i in (0, 1)], axis=1)  # heads of 16
    if family in ("qwen3next", "qwen35moe") and name.endswith("norm.weight") and "linear_attn" not in name:
        return values - 1
    return _untiled(family, name, values) if "linear_attn" in name else values


def _packed(family: str, down: bool, kind: str, gguf: Values) -> np.ndarray:
    """All experts in one: gemma4 as GGUF has it, gpt-oss and llama4 turned, gpt-oss with gate and up in turns."""
    if family == "gemma4":
        return gguf[f"ffn_{'down' if down else 'gate_up'}_exps.{kind}"]
    across = (lambda v: v.swapaxes(-1, -2)) if kind == "weight" else (lambda v: v)
    if down:
        return across(gguf[f"ffn_down_exps.{kind}"])
    both = [across(gguf[f"ffn_{part}_exps.{kind}"]) for part in ("gate", "up")]
    if family == "gpt-oss":
        return np.stack(both, axis=-1).reshape(*both[0].shape[:-1], -1)
    return np.concatenate(both, axis=-1)


def _by_key_head(qkv: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Two key heads of 16, four value heads of 16."""
    q, k, v = qkv[:32], qkv[32:64], qkv[64:]
    heads = [(q[16 * h :][:16], k[16 * h :][:16], v[32 * h :][:32], z[32 * h :][:32]) for h in (0, 1)]
    return np.concatenate([part for head in heads for part in head])


def _untiled(family: str, name: str, values: np.ndarray) -> np.ndarray:
    """Qwen 3.5: value heads 0, 2, 1, 3 of the file are 0, 1, 2, 3."""
    if family != "qwen35moe" or name.endswith("norm.weight"):
        return values
    if name.endswith("out_proj.weight"):
        return _untiled(family, "", values.T).T
    first = 64 if name.endswith(("in_proj_qkv.weight", "conv1d.weight")) else 0
    heads = np.split(values[first:], 4)
    return np.concatenate([values[:first], *(heads[i] for i in (0, 2, 1, 3))])
