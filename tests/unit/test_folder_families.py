"""Folders as publishers ship them: FP8 blocks (DeepSeek V3), MXFP4 experts (gpt-oss), a text model inside one that sees
(Llama 4, Gemma 4, Qwen 3.5, Kimi K2.5), layers for further tokens."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_folders import Tensors, bf16, f32, write_folder
from hf_golden import GOLDEN, golden_config, golden_state, mxfp4_experts
from motley.engine.local import LocalRunner
from motley.errors import FormatError, UnsupportedError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.convert import convert
from motley.formats.packed import stored
from motley.formats.safetensors import read_safetensors
from motley.ops.protocol import Batch
from motley.ops.reference import ReferenceOps
from motley.shape.model import ModelShape
from motley.shape.quant import Quant

PROMPT = [5, 9, 2, 77, 31]
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}


def logits(path: Path) -> np.ndarray:
    whole = range(len(PROMPT))
    runner = LocalRunner(open_checkpoint(path), ReferenceOps(), context=16)
    return runner.step(Batch(PROMPT, whole, [0] * len(PROMPT), whole))


def same_as_decoded(tmp_path: Path, folder: Path, config: dict[str, Any]) -> None:
    """The folder and the file made of it give the logits of the same values in plain float32."""
    state = stored(read_safetensors(folder / "model.safetensors").entries, config.get("quantization_config", {}))
    plain = {name: f32(found.values()) for name, found in state.items()}
    decoded = write_folder(tmp_path / "plain", {k: v for k, v in config.items() if k != "quantization_config"}, plain)
    right = logits(decoded)
    np.testing.assert_array_equal(logits(folder), right)
    convert(open_checkpoint(folder), tmp_path / "x.gguf")
    np.testing.assert_array_equal(logits(tmp_path / "x.gguf"), right)


def fp8(name: str, values: np.ndarray) -> Tensors:
    """Codes without NaN; a scale for each 16 x 16 of them."""
    codes = np.random.default_rng(len(name)).integers(0, 0x60, values.shape, np.uint8)
    codes |= (values < 0).astype(np.uint8) << 7
    scales = np.random.default_rng(1).uniform(0.02, 0.05, [-(-n // 16) for n in values.shape])
    return {name: ("F8_E4M3", codes), f"{name}_scale_inv": f32(scales)}


@pytest.mark.parametrize("family", ["deepseek2-v3", "glm4-lite", "minimax-m2", "glm4moe", "qwen35moe"])
def test_fp8_in_blocks(tmp_path: Path, family: str) -> None:
    """As DeepSeek V3 has it: every matrix of a layer but the router's, the latent's way up too."""
    tensors: dict[str, Any] = {}
    for name, values in golden_state(family).items():
        matrix = ".layers." in name and values.ndim == 2 and ".gate." not in name and "shared_expert_gate" not in name
        tensors |= fp8(name, values) if matrix else {name: bf16(values)}
    config = golden_config(family) | {"quantization_config": FP8}
    folder = write_folder(tmp_path / "fp8", config, tensors)
    assert any("4 bytes a weight" in note for note in open_checkpoint(folder).notes)
    same_as_decoded(tmp_path, folder, config)


def test_mxfp4_experts_stay_as_they_are(tmp_path: Path) -> None:
    """gpt-oss: gate and up by turns in blocks [E, 2F, D / 32, 16], read one expert at a time."""
    config, tensors = mxfp4_experts()
    folder = write_folder(tmp_path / "mxfp4", config, tensors)
    same_as_decoded(tmp_path, folder, config)
    written = open_checkpoint(tmp_path / "x.gguf").tensors
    for part in ("gate", "up", "down"):
        assert written[f"blk.3.ffn_{part}_exps.weight"].quant is Quant.MXFP4
    gate, up = (written[f"blk.2.ffn_{part}_exps.weight"].decode()[5] for part in ("gate", "up"))
    name = "model.layers.2.mlp.experts.gate_up_proj"
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])  # of a code, its sign above
    codes = tensors[f"{name}_blocks"][1][5]
    both = np.stack([codes & 15, codes >> 4], -1)  # [2F, D / 32, 16, 2]: neighbours, the even one low
    sizes = np.where(both & 8, -1, 1) * values[both & 7]
    scales = 2.0 ** (tensors[f"{name}_scales"][1][5].astype(int) - 127)
    right = (sizes * scales[..., None, None]).reshape(64, 64)
    assert np.array_equal(gate, right[::2])
    assert np.array_equal(up, right[1::2])


INSIDE = {  # the class, and what stands before `layers`, and before `lm_head`
    "llama4": ("Llama4ForConditionalGeneration", "language_model.model.", "language_model."),
    "gemma4": ("Gemma4ForConditionalGeneration", "model.language_model.", ""),
    "qwen35moe": ("Qwen3_5MoeForConditionalGeneration", "model.language_model.", ""),
    "deepseek2-v3": ("KimiK25ForConditionalGeneration", "language_model.model.", "language_model."),
}
OTHER_SENSES = (
    *(
        "vision_model.patch_embedding.weight",
        "multi_modal_projector.linear_1.weight",
        "model.visual.blocks.0.norm1.bias",
    ),
    *("vision_tower.encoder.weight", "mm_projector.proj.0.weight", "model.vision_tower.w", "model.embed_vision.w"),
)


@pytest.mark.parametrize("family", INSIDE)
def test_the_text_part_of_a_model_that_sees(tmp_path: Path, family: str) -> None:
    name_of_class, layers, head = INSIDE[family]
    text = golden_config(family)
    del text["architectures"]
    config = {"architectures": [name_of_class], "text_config": text, "vision_config": {"hidden_size": 8}}
    tensors = {
        layers + name.removeprefix("model.") if name.startswith("model.") else head + name: f32(values)
        for name, values in golden_state(family).items()
    }
    tensors |= {name: f32(np.ones((4, 4))) for name in OTHER_SENSES}
    checkpoint = open_checkpoint(write_folder(tmp_path / "m", config, tensors))
    assert checkpoint.notes == ("the model's text part: 7 tensors for images or sound are left out",)
    golden = open_checkpoint(GOLDEN / f"{family}.gguf")
    assert checkpoint.tensors.keys() == golden.tensors.keys()
    for name in ("token_embd.weight", "blk.1.ffn_down_exps.weight"):
        assert np.array_equal(checkpoint.tensors[name].decode(), golden.tensors[name].decode())


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("deepseek2-v3", "model.layers.3.eh_proj.weight"),
        ("glm4moe", "model.layers.3.shared_head.head.weight"),
        ("qwen3next", "mtp.layers.0.mlp.gate.weight"),
        ("ernie4_5-moe", "model.mtp_block.0.mlp.down_proj.weight"),
    ],
)
def test_layers_for_further_tokens_may_be_there(tmp_path: Path, family: str, extra: str) -> None:
    tensors = {name: f32(values) for name, values in golden_state(family).items()} | {extra: f32(np.ones((4, 4)))}
    folder = write_folder(tmp_path / "m", golden_config(family), tensors)
    assert open_checkpoint(folder).tensors.keys() == open_checkpoint(GOLDEN / f"{family}.gguf").tensors.keys()


@pytest.mark.parametrize(
    ("family", "changes", "sentence"),
    [
        ("deepseek2-v3", {"topk_method": "greedy"}, "topk_method = 'greedy' is not supported"),
        ("deepseek2-lite", {"norm_topk_prob": True}, "norm_topk_prob = True is not supported"),
        ("gpt-oss", {"swiglu_limit": 5.0}, "swiglu_limit = 5.0 is not supported"),
        ("gpt-oss", {"layer_types": ["full_attention", "sliding_attention"] * 2}, "gpt-oss as Motley runs it"),
        ("gpt-oss", {"layer_types": ["chunked_attention"] * 4}, "layer_types must be 4 of sliding_attention"),
        ("llama4", {"no_rope_layers": [0, 1, 1, 1]}, "llama4 as Motley runs it"),
        ("llama4", {"use_qk_norm": False}, "use_qk_norm = False is not supported"),
        ("gemma4", {"hidden_size_per_layer_input": 256}, "hidden_size_per_layer_input = 256 is not supported"),
        ("gemma4", {"num_kv_shared_layers": 2}, "num_kv_shared_layers = 2 is not supported"),
        ("ernie4_5-moe", {"moe_layer_end_index": 1}, "moe_layer_end_index = 1 is not supported"),
        ("ernie4_5-moe", {"use_bias": True}, "use_bias = True is not supported"),
        ("minimax-m2", {"scoring_func": "softmax"}, "scoring_func = 'softmax' is not supported"),
        ("glm4-lite", {"mlp_layer_types": ["sparse", "dense", "sparse"]}, "deepseek2 as Motley runs it"),
        ("qwen3next", {"decoder_sparse_step": 2}, "decoder_sparse_step = 2 is not supported"),
        ("hunyuan-moe", {"moe_topk": [3, 2, 3]}, "moe_topk must be a whole number"),
        ("granitemoe", {"attention_multiplier": "x"}, "attention_multiplier must be a number"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "factor must be a number"),
        ("qwen3moe", {"rope_parameters": {"rope_theta": 10**400}}, "rope_theta must be a number"),
        ("hunyuan-moe", {"rope_parameters": {"rope_type": "dynamic", "alpha": -5}}, "no rotation of heads of 32"),
        ("hunyuan-moe", {"rope_parameters": {"rope_type": "dynamic", "alpha": 1e308}}, "no rotation of heads of 32"),
        ("hunyuan-moe", {"rope_parameters": {"rope_type": "dynamic", "alpha": 9}, "head_dim": 2}, "of heads of 2"),
    ],
)
def test_what_a_family_does_not_compute_is_refused(
    tmp_path: Path, family: str, changes: dict[str, Any], sentence: str
) -> None:
    folder = write_folder(tmp_path / "m", golden_config(family) | changes, {"model.norm.weight": f32(np.ones(64))})
    with pytest.raises((FormatError, UnsupportedError), match=sentence):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("family", "absent", "key", "meant"),
    [
        ("qwen3moe", "norm_topk_prob", "expert_weights_norm", False),
        ("dots1", "norm_topk_prob", "expert_weights_norm", False),
        ("deepseek2-v3", "norm_topk_prob", "expert_weights_norm", True),
        ("deepseek2-lite", "topk_method", "expert_group_count", 1),  # greedy
    ],
)
def test_an_absent_key_means_what_its_class_takes_it_for(family: str, absent: str, key: str, meant: object) -> None:
    config = golden_config(family) | {"n_group": 4, "topk_group": 2}
    del config[absent]
    shape = ModelShape.from_hf_config(config)
    assert shape.attrs[f"{shape.architecture}.{key}"] == meant


def test_more_dense_layers_than_there_are_cost_nothing() -> None:
    config = golden_config("deepseek2-v3")
    wanted = ModelShape.from_hf_config(config | {"first_k_dense_replace": 3})
    tracemalloc.start()
    found = ModelShape.from_hf_config(config | {"first_k_dense_replace": 200_000})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == wanted
    assert peak < 4 << 20
