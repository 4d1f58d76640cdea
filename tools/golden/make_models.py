"""Golden logits: a tiny random checkpoint of each family, and what `transformers` computes for it in float32.

    pip install torch==2.13.0 transformers && python tools/golden/make_models.py

Writes tests/golden/models/<family>.gguf (float32, ours to read) and <family>.npz: prompt int32 [T], logits
float32 [T, V] of the whole prompt, ids int32 [16]: greedy continuation. Committed; the tests need neither torch nor
transformers.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from motley.formats.gguf_writer import write_gguf
from motley.formats.huggingface import gguf_tensor
from motley.shape.model import ModelShape

OUT = Path(__file__).parents[2] / "tests" / "golden" / "models"
COMMON = {
    "vocab_size": 160,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "num_experts_per_tok": 3,
    "rope_theta": 10000.0,
    "initializer_range": 0.15,  # large enough that every part moves the logits
}
FAMILIES = {
    "olmoe": (OlmoeConfig, OlmoeForCausalLM, {"intermediate_size": 32, "num_experts": 8, "norm_topk_prob": False}),
    "qwen3moe": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        {
            "intermediate_size": 96,
            "moe_intermediate_size": 32,
            "num_experts": 8,
            "head_dim": 32,
            "norm_topk_prob": True,
        },
    ),
    "mixtral": (MixtralConfig, MixtralForCausalLM, {"intermediate_size": 32, "num_local_experts": 8}),
}


def make(family: str) -> None:
    config_type, model_type, own = FAMILIES[family]
    torch.manual_seed(sum(family.encode()))
    settings = COMMON | own
    model = model_type(config_type(**settings, eos_token_id=1, bos_token_id=0, pad_token_id=0)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():  # norms start at exactly 1: move them, or they test nothing
            if name.endswith("norm.weight"):
                p.add_(0.2 * torch.randn_like(p))
    shape = ModelShape.from_hf_config({**settings, "architectures": [model_type.__name__]} | eps(model), "f32")
    state = {name: p.detach().numpy() for name, p in model.state_dict().items()}
    tensors = []
    for t in shape.tensors:
        values = np.ascontiguousarray(gguf_tensor(t.name, shape, state), np.float32)
        assert values.shape == t.dims, (t.name, values.shape, t.dims)
        tensors.append((t, values))
    metadata = {"general.architecture": shape.architecture, "general.name": f"golden-{family}", **shape.attrs}
    write_gguf(OUT / f"{family}.gguf", metadata, tensors)

    prompt = np.random.default_rng(7).integers(2, settings["vocab_size"], 37).astype(np.int32)
    with torch.no_grad():
        logits = model(torch.tensor(prompt[None], dtype=torch.long)).logits[0].numpy()
        ids = prompt.tolist()
        for _ in range(16):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    np.savez_compressed(
        OUT / f"{family}.npz", prompt=prompt, logits=logits.astype(np.float32), ids=np.array(ids[37:], np.int32)
    )
    print(f"{family}: {shape.n_params} parameters, logits in {logits.min():.2f}..{logits.max():.2f}")


def eps(model: torch.nn.Module) -> dict[str, float]:
    return {"rms_norm_eps": model.config.rms_norm_eps}


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        make(family)
