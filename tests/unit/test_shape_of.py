"""A shape read back from a file equals the one that was written, and what is missing or disagrees is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motley.errors import FormatError, UnsupportedError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.gguf_writer import write_gguf
from motley.formats.shape_of import role_of, shape_of
from motley.formats.synth import synthesize
from motley.formats.tensor import Checkpoint, QuantTensor
from motley.shape.dims import Dims
from motley.shape.model import ModelShape, Role
from motley.shape.quant import Quant


def small(architecture: str = "qwen3moe", quant: str = "q8_0", tied: bool = False, vocab: int = 300) -> ModelShape:
    dims = Dims(
        name="small",
        architecture=architecture,
        n_layers=3,
        d_model=64,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16 if architecture == "olmoe" else 32,
        n_experts=8,
        n_experts_used=2,
        d_expert=32,
        d_dense=96 if architecture == "qwen3moe" else 32,
        vocab_size=vocab,
        context=128,
        rms_eps=1e-5,
        rope_theta=1e4,
        tied_embeddings=tied,
    )
    return ModelShape.from_dims(dims, quant)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    synthesize(small(), tmp_path / "a.gguf")
    return open_checkpoint(tmp_path / "a.gguf")


@pytest.mark.parametrize("architecture", ["olmoe", "qwen3moe", "llama"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("quant", ["q8_0", "f16"])
def test_written_and_read_shapes_are_equal(tmp_path: Path, architecture: str, tied: bool, quant: str) -> None:
    shape = small(architecture, quant, tied)
    synthesize(shape, tmp_path / "a.gguf")
    got = shape_of(open_checkpoint(tmp_path / "a.gguf"))
    same = replace(got, name=shape.name, attrs=shape.attrs, source=shape.source)
    assert same == shape
    assert got.attrs.keys() == shape.attrs.keys()
    for key, value in shape.attrs.items():
        assert got.attrs[key] == pytest.approx(value, rel=1e-7)
    assert got.name == "synthetic small"


def without(checkpoint: Checkpoint, *keys: str, **changes: object) -> Checkpoint:
    """A copy that lacks metadata keys or tensors; `changes` replace metadata, `__` standing for a dot."""
    metadata = {k: v for k, v in checkpoint.metadata.items() if k not in keys}
    metadata |= {key.replace("__", "."): value for key, value in changes.items()}
    tensors = {k: v for k, v in checkpoint.tensors.items() if k not in keys}
    return Checkpoint(metadata, tensors, checkpoint.hash)


@pytest.mark.parametrize(
    "key",
    [
        "general.architecture",
        "qwen3moe.block_count",
        "qwen3moe.embedding_length",
        "qwen3moe.attention.head_count",
        "qwen3moe.attention.layer_norm_rms_epsilon",
        "qwen3moe.context_length",
        "qwen3moe.expert_used_count",
    ],
)
def test_missing_keys_are_named(checkpoint: Checkpoint, key: str) -> None:
    with pytest.raises(FormatError, match=f"metadata key '{key}' is missing"):
        shape_of(without(checkpoint, key))


@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", "blk.1.ffn_gate_inp.weight"])
def test_missing_tensors_are_named(checkpoint: Checkpoint, name: str) -> None:
    with pytest.raises(FormatError, match=f"tensor '{name}' is missing"):
        shape_of(without(checkpoint, name))


def test_missing_experts_are_named(checkpoint: Checkpoint) -> None:
    names = [name for name in checkpoint.tensors if "_exps" in name]
    with pytest.raises(FormatError, match=r"tensor 'blk.0.ffn_up_exps.weight' is missing"):
        shape_of(without(checkpoint, *names))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qwen3moe__expert_count": 9}, r"'blk.0.ffn_gate_inp.weight' has dimensions \[8, 64\], .* say \[9, 64\]"),
        ({"qwen3moe__embedding_length": 96}, r"'token_embd.weight' has dimensions \[300, 64\], .* say \[300, 96\]"),
        ({"qwen3moe__block_count": 4}, r"layer 3 has no tensors \(1 of 4 layers are missing\)"),
        ({"qwen3moe__block_count": 2**31 - 1}, "layer 3 has no tensors"),
        ({"qwen3moe__block_count": 2}, "layer 2 are there, but the metadata say block_count 2"),
        ({"qwen3moe__block_count": "3"}, "'qwen3moe.block_count' must be an integer, not str '3'"),
        ({"qwen3moe__block_count": 2**40}, "'qwen3moe.block_count' is 1099511627776: not a size"),
        ({"qwen3moe__rope__freq_base": float("nan")}, "'qwen3moe.rope.freq_base' is nan"),
        ({"qwen3moe__attention__head_count": 0}, "n_heads must be positive"),
        ({"qwen3moe__attention__head_count": ["4"]}, r"'qwen3moe.attention.head_count\[0\]' must be of type int"),
        ({"qwen3moe__expert_used_count": 99}, "uses 99 of only 8 experts"),
        ({"qwen3moe__attention__head_count_kv": 3}, "4 heads do not share 3 key/value heads evenly"),
    ],
)
def test_disagreements_are_named(checkpoint: Checkpoint, changes: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        shape_of(without(checkpoint, **changes))


def test_tensor_of_unknown_role(checkpoint: Checkpoint) -> None:
    odd = QuantTensor("blk.0.mystery.weight", (4, 32), Quant.F32, np.zeros(512, np.uint8))
    changed = Checkpoint(checkpoint.metadata, {**checkpoint.tensors, odd.name: odd}, "")
    with pytest.raises(UnsupportedError, match=r"'blk.0.mystery.weight' has no role that Motley knows"):
        shape_of(changed)


def test_other_families_by_their_tensor_names(tmp_path: Path) -> None:
    """A dense layer, then one with shared experts: no family of Motley's, still a shape."""
    sizes = {
        "token_embd.weight": (100, 32),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.ffn_up.weight": (64, 32),
        "blk.1.ffn_up_exps.weight": (4, 48, 32),
        "blk.1.ffn_up_shexp.weight": (48, 32),
        "blk.1.exp_probs_b.bias": (4,),
        "blk.1.attn_kv_a_mqa.weight": (16, 32),
        "output_norm.weight": (32,),
    }
    metadata = {
        "general.architecture": "deepseek2",
        "deepseek2.block_count": 2,
        "deepseek2.embedding_length": 32,
        "deepseek2.context_length": 64,
        "deepseek2.attention.head_count": 4,
        "deepseek2.expert_count": 4,
        "deepseek2.expert_used_count": 2,
    }
    tensors = [QuantTensor(n, d, Quant.F32, np.zeros(4 * int(np.prod(d)), np.uint8)) for n, d in sizes.items()]
    write_gguf(tmp_path / "a.gguf", metadata, [(t, t.data) for t in tensors])
    shape = shape_of(open_checkpoint(tmp_path / "a.gguf"))
    assert (shape.n_experts, shape.n_experts_used, shape.d_expert, shape.vocab_size) == (4, 2, 48, 100)
    assert shape.has_tied_head
    roles = {t.name: (t.role, t.layer) for t in shape.tensors}
    assert roles["blk.0.ffn_up.weight"] == (Role.DENSE_FFN, 0)
    assert roles["blk.1.ffn_up_exps.weight"] == (Role.EXPERT, 1)
    assert roles["blk.1.ffn_up_shexp.weight"] == (Role.SHARED_EXPERT, 1)
    assert roles["blk.1.exp_probs_b.bias"] == (Role.ROUTER, 1)
    assert roles["blk.1.attn_kv_a_mqa.weight"] == (Role.ATTENTION, 1)


def test_every_catalogue_role_is_read_off_its_name() -> None:
    for name in ("olmoe-1b-7b", "qwen3-30b-a3b", "mixtral-8x7b"):
        for tensor in ModelShape.named(name, "q4_k").tensors:
            assert role_of(tensor.name) == (tensor.role, tensor.layer)
