"""Loading a model: every tensor is read or refused, and what it takes is known beforehand."""

from pathlib import Path

import numpy as np
import pytest

from hf_golden import GOLDEN
from motley.engine.device import DeviceModel, planned_bytes
from motley.engine.local import LocalRunner, Model
from motley.errors import CapacityError, FormatError, UnsupportedError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.gguf_writer import write_gguf
from motley.formats.shape_of import shape_of
from motley.formats.tensor import Checkpoint
from motley.models.registry import config_of
from motley.ops.reference import ReferenceOps
from motley.shape.model import Role, TensorShape
from motley.shape.quant import Quant
from tiny_models import FAMILIES, write_tiny


def with_extra(path: Path, target: Path, name: str) -> Checkpoint:
    """The same file with one more tensor of zeros."""
    checkpoint = open_checkpoint(path)
    tensors = [(TensorShape(t.name, t.dims, t.quant, Role.NORM), t.data) for t in checkpoint.tensors.values()]
    extra = (TensorShape(name, (64,), Quant.F32, Role.NORM), np.zeros(64, np.float32))
    write_gguf(target, checkpoint.metadata, [*tensors, extra])
    return open_checkpoint(target)


def part(checkpoint: Checkpoint, layers: range, experts: dict[int, list[int]]) -> DeviceModel:
    return DeviceModel(checkpoint, ReferenceOps(), layers=layers, experts=experts, n_slots=1, context=8)


@pytest.mark.parametrize("name", ["blk.1.attn_rot_embd.weight", "blk.0.ffn_gate_shexp.weight", "rope_freqs.weight"])
def test_a_tensor_that_nothing_reads_is_refused(tmp_path: Path, name: str) -> None:
    checkpoint = with_extra(write_tiny(tmp_path, "qwen3moe", "q8_0"), tmp_path / "extra.gguf", name)
    with pytest.raises(UnsupportedError, match=name):
        LocalRunner(checkpoint, ReferenceOps(), context=8)


def test_one_bias_of_three_is_refused(tmp_path: Path) -> None:
    checkpoint = with_extra(write_tiny(tmp_path, "qwen3moe", "q8_0"), tmp_path / "extra.gguf", "blk.0.ffn_up_exps.bias")
    with pytest.raises(FormatError, match=r"blk.0.ffn_gate_exps.bias \[6, 256\] is missing"):
        LocalRunner(checkpoint, ReferenceOps(), context=8)


def test_other_homes_tensors_are_theirs_to_read(tmp_path: Path) -> None:
    checkpoint = with_extra(
        write_tiny(tmp_path, "llama", "q8_0"), tmp_path / "extra.gguf", "blk.1.attn_rot_embd.weight"
    )
    part(checkpoint, range(0, 1), {})
    part(checkpoint, range(0), {1: [2]})


@pytest.mark.parametrize("family", FAMILIES)
def test_planned_bytes_are_what_is_loaded(tmp_path: Path, family: str) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, family, "q4_k"))
    for layers, experts in (
        (range(2), {0: range(6), 1: range(6)}),
        (range(1), {0: [1, 4], 1: [0]}),
        (range(1, 2), {}),
        (range(0), {1: [5]}),
    ):
        ids = {layer: list(owned) for layer, owned in experts.items()}
        assert part(checkpoint, layers, ids).n_bytes == planned_bytes(shape_of(checkpoint), layers, ids)


@pytest.mark.parametrize("golden", ["deepseek2-v3", "olmoe"])
@pytest.mark.parametrize("vocabulary", [160, ["a", 1]])
def test_a_vocabulary_that_is_no_list_of_words_is_refused(golden: str, vocabulary: object) -> None:
    checkpoint = open_checkpoint(GOLDEN / f"{golden}.gguf")
    layers = {f"{checkpoint.architecture}.block_count": 47}  # as GLM-4.7-Flash, which is known by its vocabulary
    metadata = {**checkpoint.metadata, **layers, "tokenizer.ggml.tokens": vocabulary}
    with pytest.raises(FormatError, match=r"tokenizer\.ggml\.tokens"):
        config_of(checkpoint.architecture, metadata)


@pytest.mark.parametrize(
    ("golden", "key", "value", "sentence"),
    [
        ("deepseek2-v3", "rope.scaling.yarn_beta_fast", 1e308, "no rotation"),
        ("deepseek2-v3", "rope.scaling.yarn_beta_slow", 5e-324, "no rotation"),
        ("deepseek2-v3", "rope.scaling.yarn_beta_slow", 0.0, "no rotation"),
        ("deepseek2-v3", "rope.scaling.original_context_length", 0, "no rotation"),
        ("granitemoe", "logit_scale", 0.0, "can't be divided"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(golden: str, key: str, value: float, sentence: str) -> None:
    checkpoint = open_checkpoint(GOLDEN / f"{golden}.gguf")
    with pytest.raises(FormatError, match=sentence):
        config_of(checkpoint.architecture, {**checkpoint.metadata, f"{checkpoint.architecture}.{key}": value})


def test_more_tokens_than_the_context_are_refused(tmp_path: Path) -> None:
    runner = LocalRunner(open_checkpoint(write_tiny(tmp_path, "olmoe", "f32")), ReferenceOps(), context=8)
    with Model(runner) as model, pytest.raises(CapacityError, match="9 tokens exceed the context of 8"):
        model.logits([1] * 9)
