"""Synthetic models: the shape's tensors exactly, weights of the intended spread, the same bytes for the same seed."""

from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from test_shape_of import small

from motley.errors import UsageError
from motley.formats import synth
from motley.formats.blocks import Q8_0
from motley.formats.checkpoint import open_checkpoint
from motley.formats.synth import synthesize
from motley.shape import llama_cpp
from motley.shape.dims import Dims
from motley.shape.mix import MIXES
from motley.shape.model import ModelShape


def medium(quant: str) -> ModelShape:
    dims = Dims("medium", "olmoe", 1, 512, 8, 8, 64, 8, 2, 256, 256, 2000, 128, 1e-5, 1e4)
    return ModelShape.from_dims(dims, quant)


@pytest.mark.parametrize("quant", [*MIXES, *llama_cpp.MIXES, "nvfp4", "iq2_s+iq3_s"])
def test_spread_of_the_weights(tmp_path: Path, quant: str) -> None:
    synthesize(medium(quant), tmp_path / "a.gguf")
    tensors = open_checkpoint(tmp_path / "a.gguf").tensors
    wanted = {
        "token_embd": 1.0,
        "blk.0.attn_q": 1 / sqrt(512),
        "blk.0.attn_output": 2 / sqrt(512),
        "blk.0.ffn_gate_inp": 2 / sqrt(512),
        "blk.0.ffn_up_exps": 1 / sqrt(512),
        "blk.0.ffn_down_exps": 3 / sqrt(256),
        "output": 4 / sqrt(512),
    }
    for name, sigma in wanted.items():
        values = tensors[f"{name}.weight"].decode()
        assert np.isfinite(values).all()
        assert values.std() == pytest.approx(sigma, rel=0.05), name
        assert abs(values.mean()) < 0.05 * sigma, name
    norm = tensors["blk.0.attn_norm.weight"].decode()
    assert np.abs(norm - 1).max() <= 0.1 + 2**-8  # bfloat16 rounds
    assert norm.std() > 0.03


@pytest.mark.parametrize("quant", ["q8_0", "q4_k", "bf16"])
def test_no_row_is_repeated_when_the_pool_is_small(tmp_path: Path, quant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "POOL_BYTES", 20_000)
    synthesize(medium(quant), tmp_path / "a.gguf")
    for tensor in open_checkpoint(tmp_path / "a.gguf").tensors.values():
        if len(tensor.dims) > 1:
            rows = tensor.data.reshape(int(np.prod(tensor.dims[:-1])), -1)
            assert len(np.unique(rows, axis=0)) == len(rows), tensor.name


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        synthesize(small(), tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_no_int8_minimum(tmp_path: Path) -> None:
    synthesize(medium("q8_0"), tmp_path / "a.gguf")
    data = open_checkpoint(tmp_path / "a.gguf").tensors["blk.0.ffn_up_exps.weight"].data
    assert data.view(Q8_0)["qs"].min() == -127


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[float] = []
    synthesize(medium("q4_k"), tmp_path / "a.gguf", progress=lambda _what, fraction: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_tokenizer_has_every_byte_once_and_merges_into_its_tokens(tmp_path: Path) -> None:
    synthesize(small(vocab=1000), tmp_path / "a.gguf")
    metadata = open_checkpoint(tmp_path / "a.gguf").metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == len(set(tokens)) == len(metadata["tokenizer.ggml.token_type"]) == 1000
    assert {chr(c) for c in range(ord("!"), 127)} | {"Ġ", "Ċ"} <= set(tokens)
    assert all(merge.replace(" ", "") in tokens for merge in metadata["tokenizer.ggml.merges"])
    assert tokens[metadata["tokenizer.ggml.eos_token_id"]] == "<|endoftext|>"


def test_vocabulary_too_small_for_bytes(tmp_path: Path) -> None:
    synthesize(small(vocab=257), tmp_path / "a.gguf")
    with pytest.raises(UsageError, match="needs 257 tokens, not 256"):
        synthesize(small(vocab=256), tmp_path / "a.gguf")
