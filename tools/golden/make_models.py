"""Golden logits: a tiny random checkpoint of each family, and what `transformers` computes for it in float32.

    pip install torch==2.13.0 transformers gguf sentencepiece
    pip download --no-binary :all: --no-deps llama-cpp-python==0.3.36      # unpack it: it carries llama.cpp
    python tools/golden/make_models.py --llama-cpp llama_cpp_python-0.3.36/vendor/llama.cpp [FAMILY ...]

Each checkpoint is saved as Hugging Face saves it and turned into a GGUF by llama.cpp's own converter: the names,
layouts and metadata are those of the files that people have. Writes tests/golden/models/<family>.gguf (float16
matrices) and <family>.npz: prompt int32 [T], logits float32 [T, V] of the whole prompt, ids int32 [16]: greedy
continuation; and, in tests/golden/hf_folders.json, what transformers saved: config.json, and of every tensor its type,
dimensions and checksum (`--folders`: this alone). `--variants`: of some models, transformers' logits under another
config, in tests/golden/hf_variants.npz and .json. Committed; the tests need none of these packages.

Weights are multiples of 1/32, so that float16 holds them exactly and the files compress well.
"""

import argparse
import json
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

OUT = Path(__file__).parents[2] / "tests" / "golden" / "models"
FOLDERS = OUT.parent / "hf_folders.json"
PROMPT = 37  # longer than every window below
COMMON = {
    "vocab_size": 160,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "num_experts_per_tok": 3,
    "eos_token_id": 1,
    "bos_token_id": 0,
    "pad_token_id": 0,
}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
PARTIAL = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "first_k_dense_replace": 1,
}
DELTANET = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 8,
    **PARTIAL,
}
# family: (class without its ending, settings beside COMMON)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "olmoe": (
        "Olmoe",
        {"intermediate_size": 32, "num_experts": 8, "norm_topk_prob": False, "num_key_value_heads": 4, **ROPE},
    ),
    "qwen3moe": (
        "Qwen3Moe",
        {
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "num_experts": 8,
            "head_dim": 32,
            "norm_topk_prob": True,
            **ROPE,
        },
    ),
    "mixtral": ("Mixtral", {"intermediate_size": 32, "num_local_experts": 8, **ROPE}),
    "llama": (
        "Llama",
        {
            "intermediate_size": 96,
            "num_experts_per_tok": None,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "qwen3": (
        "Qwen3",
        {"intermediate_size": 96, "head_dim": 32, "tie_word_embeddings": True, "num_experts_per_tok": None, **ROPE},
    ),
    "qwen2moe": (
        "Qwen2Moe",
        {
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
            "num_experts": 8,
            "norm_topk_prob": False,
            **ROPE,
        },
    ),
    "deepseek2-lite": (  # DeepSeek V2 Lite: softmax, no query compression
        "DeepseekV2",
        {**MLA, "q_lora_rank": None, "n_shared_experts": 2, "topk_method": "greedy", "n_group": 1, "topk_group": 1}
        | {"rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 32, "beta_slow": 1}},
    ),
    "deepseek2-v3": (  # DeepSeek V3, R1, Kimi K2: sigmoid scores, bias, groups, compressed queries
        "DeepseekV3",
        {**MLA, "q_lora_rank": 48, "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "norm_topk_prob": True}
        | {"routed_scaling_factor": 2.5, "num_nextn_predict_layers": 0, "scoring_func": "sigmoid"}
        | {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1}},
    ),
    "moonlight": (
        "DeepseekV3",
        {**MLA, "q_lora_rank": None, "n_shared_experts": 2, "n_group": 1, "topk_group": 1, "norm_topk_prob": True}
        | {"routed_scaling_factor": 2.446, "num_nextn_predict_layers": 0, **ROPE}
        | {"scoring_func": "sigmoid"},
    ),
    "glm4-lite": (
        "Glm4MoeLite",
        {**MLA, "q_lora_rank": 48, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "norm_topk_prob": True}
        | {"routed_scaling_factor": 1.8, "mlp_layer_types": ["dense", "sparse", "sparse"], **ROPE},
    ),
    "glm4moe": (
        "Glm4Moe",
        {
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.5,
            "attention_bias": True,
            "use_qk_norm": True,
            "head_dim": 32,
            "num_nextn_predict_layers": 0,
            **PARTIAL,
        },
    ),
    "gpt-oss": (
        "GptOss",
        {
            "intermediate_size": 32,
            "num_local_experts": 8,
            "head_dim": 32,
            "sliding_window": 16,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
        },
    ),
    "granitemoe": (
        "GraniteMoe",
        {
            "intermediate_size": 32,
            "num_local_experts": 8,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.125,
            "tie_word_embeddings": True,
            **ROPE,
        },
    ),
    "granitemoe-shared": (
        "GraniteMoeShared",
        {
            "intermediate_size": 32,
            "shared_intermediate_size": 64,
            "num_local_experts": 8,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.125,
            **ROPE,
        },
    ),
    "minimax-m2": (
        "MiniMaxM2",
        {"intermediate_size": 32, "num_local_experts": 8, "head_dim": 32, "rotary_dim": 16, **PARTIAL}
        | {"scoring_func": "sigmoid"},
    ),
    "llama4": (
        "Llama4",
        {
            "intermediate_size": 32,
            "intermediate_size_mlp": 96,
            "num_local_experts": 8,
            "num_experts_per_tok": 1,
            "head_dim": 32,
            "num_hidden_layers": 4,
            "interleave_moe_layer_step": 2,
            "no_rope_layers": [1, 1, 1, 0],
            "attention_chunk_size": 16,
            "floor_scale": 16,
            "attn_scale": 0.1,
            "use_qk_norm": True,
            **ROPE,
        },
    ),
    "gemma4": (
        "Gemma4",
        {
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "num_experts": 8,
            "top_k_experts": 3,
            "enable_moe_block": True,
            "head_dim": 32,
            "per_layer_config": {
                "01": {"head_dim": 64, "num_key_value_heads": 1},
                "03": {"head_dim": 64, "num_key_value_heads": 1},
            },
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": 16,
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "final_logit_softcapping": 30.0,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
            },
        },
    ),
    "qwen3next": ("Qwen3Next", {**DELTANET, "intermediate_size": 96, "norm_topk_prob": True}),
    "qwen35moe": ("Qwen3_5Moe", DELTANET),
    "ernie4_5-moe": (
        "Ernie4_5_Moe",
        {
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "moe_num_experts": 8,
            "moe_k": 3,
            "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 2,
            "moe_layer_interval": 1,
            **ROPE,
        },
    ),
    "dots1": (
        "Dots1",
        {
            "intermediate_size": 96,
            "num_key_value_heads": 4,
            "scoring_func": "sigmoid",
            "moe_intermediate_size": 32,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "head_dim": 32,
            "layer_types": ["full_attention"] * 3,
            **ROPE,
        },
    ),
    "hunyuan-moe": (
        "HunYuanMoEV1",
        {"intermediate_size": 32, "moe_intermediate_size": [32] * 3, "num_experts": 8, "num_experts_per_tok": [3] * 3}
        | {"head_dim": 32, "num_shared_expert": [1] * 3, **ROPE},
    ),
}


# name: (family, settings that differ). The weights are the family's, but for what the variant does not have.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "YaRN": ("qwen3moe", {"rope_parameters": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}}),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}}),
    "plain Llama": ("llama", {"tie_word_embeddings": True, **ROPE}),
    "qwen3moe, norm_topk_prob False": ("qwen3moe", {"norm_topk_prob": False}),
    "a larger base": (
        "hunyuan-moe",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0, "alpha": 50.0}},
    ),
    "GLM-4.5-Air": ("glm4moe", {"use_qk_norm": False}),
    "without biases": ("glm4moe", {"attention_bias": False}),
    "DeepSeek V2": ("deepseek2-lite", {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}),
    "not normalised": ("deepseek2-v3", {"norm_topk_prob": False, "routed_scaling_factor": 1.5}),
    "Llama 4 Scout": (
        "llama4",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 16.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
}


def random_model(family: str, changes: dict[str, Any] | None = None) -> Any:
    stem, own = FAMILIES[family]
    own = own | (changes or {})
    text = "Text" if hasattr(transformers, f"{stem}TextConfig") else ""
    config = getattr(transformers, f"{stem}{text}Config")(**(COMMON | own))
    torch.manual_seed(sum(family.encode()))
    model = getattr(transformers, f"{stem}ForCausalLM")._from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if not name.endswith(("inv_freq", "embed_scale")) and p.is_floating_point():
                p.copy_(some_values(name, p))
    return model


def folder_of(folder: Path) -> dict[str, Any]:
    """What a folder has: config.json, and by tensor its type, dimensions and the CRC-32 of its bytes."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8 : 8 + length]).items():
            if name != "__metadata__":
                first, last = (8 + length + at for at in entry["data_offsets"])
                tensors[name] = [entry["dtype"], entry["shape"], zlib.crc32(raw[first:last])]
    return {"config": json.loads((folder / "config.json").read_text()), "tensors": tensors}


def make(family: str, convert: Any) -> dict[str, Any]:
    """Returns `folder_of` it. Without `convert` nothing is written."""
    model = random_model(family)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = folder_of(Path(folder))
        if convert is None:
            return saved
        convert(Path(folder), OUT / f"{family}.gguf")
    prompt = np.random.default_rng(7).integers(2, model.config.vocab_size, PROMPT).astype(np.int32)
    with torch.no_grad():
        logits = model(torch.tensor(prompt[None], dtype=torch.long), use_cache=False).logits[0].numpy()
        ids = prompt.tolist()
        for _ in range(16):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    path = OUT / f"{family}.npz"
    np.savez_compressed(path, prompt=prompt, logits=logits.astype(np.float32), ids=np.array(ids[PROMPT:], np.int32))
    n_params = sum(p.numel() for p in model.parameters())
    print(f"{family}: {n_params} parameters, logits in {logits.min():.2f}..{logits.max():.2f}", flush=True)
    return saved


def make_variants() -> None:
    """No variant has weights that its family lacks."""
    described, logits = {}, {}
    prompt = np.random.default_rng(7).integers(2, COMMON["vocab_size"], PROMPT)
    for name, (family, changes) in VARIANTS.items():
        model, base = random_model(family, changes), random_model(family)
        own = {key: value for key, value in base.state_dict().items() if key in model.state_dict()}
        missing = sorted(model.state_dict().keys() - own.keys())
        assert not missing, f"{name}: {missing}"
        if model.config.tie_word_embeddings:
            del own["lm_head.weight"]
        model.load_state_dict(own, strict=False)
        model.tie_weights()
        with torch.no_grad():
            logits[name] = model(torch.tensor(prompt[None]), use_cache=False).logits[0].float().numpy()
        described[name] = {"family": family, "config": json.loads(model.config.to_json_string(use_diff=False))}
        described[name]["config"]["architectures"] = [type(model).__name__]
        print(f"{name}: logits in {logits[name].min():.2f}..{logits[name].max():.2f}", flush=True)
    np.savez_compressed(OUT.parent / "hf_variants.npz", **logits)
    (OUT.parent / "hf_variants.json").write_text(json.dumps(described) + "\n")


def some_values(name: str, p: torch.Tensor) -> torch.Tensor:
    """Large enough that every part moves the logits; vectors that start at exactly 0 or 1 test nothing there."""
    noise = torch.randn_like(p)
    if name.endswith("A_log"):
        return ((noise.abs() + 0.5) * 32).round() / 32
    if p.dim() < 2:  # norms around 1; biases, sinks and scores around 0
        centre = 0.0 if "bias" in name or "sinks" in name else p.mean()
        return centre + (0.2 * noise * 32).round() / 32
    return (0.15 * noise * 32).round() / 32


def converter(llama_cpp: Path) -> Any:
    """llama.cpp's, which writes no vocabulary."""
    sys.path[:0] = [str(llama_cpp / "gguf-py"), str(llama_cpp)]
    import gguf
    from conversion import ModelType, get_model_architecture, get_model_class
    from conversion.base import ModelBase, TextModel

    def add_keys(model: Any, family: str) -> None:
        """No vocabulary, and what the settings above have otherwise than all files of the family."""
        TextModel._set_vocab_none(model)
        writer = model.gguf_writer
        if not any(key.endswith(".vocab_size") for key in writer.kv_data[0]):
            writer.add_vocab_size(COMMON["vocab_size"])
        if family == "glm4-lite":  # known by its 47 layers
            writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        if family == "llama4":
            writer.add_sliding_window(16)
            writer.add_uint32("llama4.attention.temperature_length", 16)

    def convert(folder: Path, out: Path) -> None:
        with torch.inference_mode():
            hparams = ModelBase.load_hparams(folder, False)
            kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
            kind.set_vocab = lambda model: add_keys(model, out.stem)
            kind.no_mtp = True
            vocabulary = {
                "model": {"vocab": dict.fromkeys(map(str, range(COMMON["vocab_size"])), 0)},
                "added_tokens": [],
            }
            (folder / "tokenizer.json").write_text(json.dumps(vocabulary))  # its length is asked for (Gemma)
            kind(folder, gguf.LlamaFileType.MOSTLY_F16, out, model_name=f"golden-{out.stem}").write()

    return convert


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--llama-cpp", type=Path)
    what.add_argument("--folders", action="store_true")
    what.add_argument("--variants", action="store_true")
    parser.add_argument("family", nargs="*", default=list(FAMILIES))
    asked = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if asked.variants:
        make_variants()
        sys.exit()
    to_gguf = None if asked.folders else converter(asked.llama_cpp)
    found = json.loads(FOLDERS.read_text()) if FOLDERS.exists() else {}
    for name in asked.family:
        found[name] = make(name, to_gguf)
    lines = (f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found))
    FOLDERS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
