"""Hugging Face directories as checkpoints: what is refused, and quantised weights end to end: the logits are those of
the same values in float32."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_folders import Tensors, bf16, f16, f32, write_folder
from hf_golden import golden_config, golden_state
from motley.engine.local import LocalRunner
from motley.errors import FormatError, UnsupportedError, UsageError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.packed import stored
from motley.formats.safetensors import read_safetensors
from motley.formats.shape_of import shape_of
from motley.ops.protocol import Batch
from motley.ops.reference import ReferenceOps
from motley.shape.quant import Quant

PROMPT = [5, 9, 2, 77, 31]
LINEAR = ("proj.weight", "w1.weight", "w2.weight", "w3.weight")


def logits(folder: Path) -> np.ndarray:
    runner = LocalRunner(open_checkpoint(folder), ReferenceOps(), context=16)
    whole = range(len(PROMPT))
    return runner.step(Batch(PROMPT, whole, [0] * len(PROMPT), whole))


def decoded(folder: Path, target: Path, config: dict[str, Any]) -> Path:
    """The same model with every parameter as plain float32."""
    state = stored(read_safetensors(folder / "model.safetensors").entries, config.get("quantization_config", {}))
    plain = {name: f32(found.values()) for name, found in state.items() if found.quant}
    return write_folder(target, {k: v for k, v in config.items() if k != "quantization_config"}, plain)


def int4(name: str, values: np.ndarray) -> Tensors:
    """compressed-tensors, symmetric, groups of 32."""
    rows, cols = values.shape
    scale = np.abs(values.reshape(rows, -1, 32)).max(-1).astype(np.float16) / np.float16(7)
    codes = np.rint(values / np.repeat(scale, 32, 1)).clip(-8, 7).astype(np.int64) + 8
    words = (codes.reshape(rows, -1, 8) << (4 * np.arange(8))).sum(-1).astype(np.uint32).view(np.int32)
    return {
        f"{name}_packed": ("I32", words),
        f"{name}_scale": f16(scale),
        f"{name}_shape": ("I64", np.array([rows, cols])),
    }


def fp8(name: str, values: np.ndarray) -> Tensors:
    """Blocks of 16 x 16; codes without NaN."""
    codes = np.random.default_rng(len(name)).integers(0, 0x60, values.shape, np.uint8)
    codes |= (values < 0).astype(np.uint8) << 7
    scale = np.full((-(-values.shape[0] // 16), -(-values.shape[1] // 16)), 0.03) + np.abs(values[0, 0]) / 50
    return {name: ("F8_E4M3", codes), f"{name}_scale_inv": f32(scale)}


def quantised(family: str, how: Any) -> Tensors:
    found: dict[str, Any] = {}
    for name, values in golden_state(family).items():
        found |= how(name, values) if name.endswith(LINEAR) else {name: bf16(values)}
    return found


CASES = {
    "int4": (int4, {}, Quant.Q4_0),
    "fp8": (fp8, {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16]}}, Quant.F32),
}


@pytest.mark.parametrize("family", ["qwen3moe", "mixtral"])  # rows of mixtral's queries and keys change places
@pytest.mark.parametrize("case", CASES)
def test_quantised_weights_give_the_logits_of_their_values(tmp_path: Path, family: str, case: str) -> None:
    how, quantization, quant = CASES[case]
    config = golden_config(family) | quantization
    folder = write_folder(tmp_path / "quantised", config, quantised(family, how))
    checkpoint = open_checkpoint(folder)
    for name in ("blk.1.ffn_down_exps.weight", "blk.0.attn_q.weight"):
        assert checkpoint.tensors[name].quant is quant
    assert checkpoint.tensors["token_embd.weight"].quant is Quant.BF16
    assert ["4 bytes a weight" in note for note in checkpoint.notes] == [True] * (case == "fp8")
    np.testing.assert_array_equal(logits(folder), logits(decoded(folder, tmp_path / "plain", config)))


def test_attention_stays_exact_while_experts_are_of_several_precisions(tmp_path: Path) -> None:
    """One expert of a layer left in bfloat16, as some quantisers do: that layer's experts become F32, others stay."""
    tensors = dict(quantised("qwen3moe", int4))
    odd = "model.layers.1.mlp.experts.3.down_proj.weight"
    tensors = {n: v for n, v in tensors.items() if not n.startswith(odd)} | {odd: bf16(golden_state("qwen3moe")[odd])}
    folder = write_folder(tmp_path / "m", golden_config("qwen3moe"), tensors)
    found = open_checkpoint(folder).tensors
    assert found["blk.1.ffn_down_exps.weight"].quant is Quant.F32
    assert found["blk.2.ffn_down_exps.weight"].quant is Quant.Q4_0
    plain = decoded(folder, tmp_path / "plain", golden_config("qwen3moe"))
    np.testing.assert_array_equal(logits(folder), logits(plain))


def plain(family: str = "qwen3moe") -> dict[str, tuple[str, np.ndarray]]:
    return {name: f32(values) for name, values in golden_state(family).items()}


def test_a_tensor_that_no_part_reads_is_refused(tmp_path: Path) -> None:
    bias = "model.layers.2.self_attn.q_proj.bias"
    folder = write_folder(tmp_path / "m", golden_config("qwen3moe"), plain() | {bias: f32(np.full(128, 0.1))})
    with pytest.raises(UnsupportedError, match=f"tensor '{bias}' is not part of qwen3moe as Motley computes it"):
        open_checkpoint(folder)


def test_what_changes_nothing_may_be_there(tmp_path: Path) -> None:
    extra = {
        "model.layers.2.self_attn.q_proj.bias": f32(np.zeros(128)),  # some quantisers write one for every matrix
        "model.layers.0.self_attn.rotary_emb.inv_freq": f32(np.ones(16)),
        "model.layers.0.self_attn.k_scale": f32(np.ones(1)),
        "model.layers.3.eh_proj.weight": f32(np.ones((64, 128))),  # a layer that predicts a further token
    }
    folder = write_folder(tmp_path / "m", golden_config("qwen3moe"), plain() | extra)
    assert np.array_equal(logits(folder), logits(write_folder(tmp_path / "n", golden_config("qwen3moe"), plain())))


def test_tied_embeddings_need_no_head_and_ignore_one(tmp_path: Path) -> None:
    config = golden_config("qwen3moe") | {"tie_word_embeddings": True}
    tensors = plain()
    both = logits(write_folder(tmp_path / "both", config, tensors))
    del tensors["lm_head.weight"]
    assert np.array_equal(logits(write_folder(tmp_path / "one", config, tensors)), both)


def without(name: str) -> dict[str, tuple[str, np.ndarray]]:
    return {key: value for key, value in plain().items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "changes", "sentence"),
    [
        (without("model.norm.weight"), {}, "no tensor for output_norm.weight"),
        (without("model.layers.1.mlp.experts.0.up_proj.weight"), {}, r"experts.0.up_proj.weight' is missing"),
        (without("model.layers.1.mlp.experts.5.up_proj.weight"), {}, r"experts.5.up_proj.weight' is missing"),
        (plain() | {"model.norm.weight": f32(np.ones(63))}, {}, r"output_norm.weight .*\[63\], but .*\[64\]"),
        (
            plain() | {"model.layers.1.mlp.experts.5.up_proj.weight": f32(np.ones((32, 65)))},
            {},
            r"experts.5.up_proj.weight' has the dimensions \[32, 65\], but .*experts.0.up_proj.weight' \[32, 64\]",
        ),
        (plain() | {"model.norm.weight": ("I32", np.ones(64, np.int32))}, {}, "'model.norm.weight' is I32"),
        (plain(), {"num_local_experts": 9}, r"blk.0.ffn_gate_inp.weight would have the dimensions \[8, 64\]"),
        (plain(), {"vocab_size": 161}, "token_embd.weight"),
        (plain(), {"architectures": ["NobodyForCausalLM"]}, "NobodyForCausalLM is not supported"),
        (plain(), {"quantization_config": "fp8"}, "quantization_config must be a table"),
    ],
    ids=range(10),
)
def test_what_is_wrong_is_said_when_the_folder_is_opened(
    tmp_path: Path, tensors: Tensors, changes: dict[str, Any], sentence: str
) -> None:
    folder = write_folder(tmp_path / "m", golden_config("qwen3moe") | changes, tensors)
    with pytest.raises(FormatError, match=sentence):
        open_checkpoint(folder)


def test_config_json_is_needed_and_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder without"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FormatError, match="is not valid JSON"):
        open_checkpoint(tmp_path)


def test_the_hash_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    config = golden_config("qwen3moe")
    tensors = plain()
    first = open_checkpoint(write_folder(tmp_path / "a", config, tensors)).hash
    assert open_checkpoint(write_folder(tmp_path / "b", config, tensors)).hash == first
    other = {name: f32(values * 2) for name, (_, values) in plain().items()}
    assert open_checkpoint(write_folder(tmp_path / "c", config, other)).hash != first
    (tmp_path / "b" / "config.json").write_text(json.dumps(config | {"rope_theta": 5e5}))
    assert open_checkpoint(tmp_path / "b").hash != first


def test_the_shape_counts_what_is_used(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", golden_config("qwen3moe"), quantised("qwen3moe", int4))
    checkpoint = open_checkpoint(folder)
    shape = shape_of(checkpoint)
    assert shape.n_bytes == sum(t.n_bytes for t in checkpoint.tensors.values())
    assert shape.expert_bytes(0) == 3 * 32 * 64 // 32 * 18
