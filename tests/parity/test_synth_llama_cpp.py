"""llama.cpp loads what Motley writes, for every family and precision, and computes finite, varied tokens with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.synth import synthesize
from motley.ops.protocol import Batch
from motley.ops.reference import ReferenceOps
from motley.shape.dims import Dims
from motley.shape.model import ModelShape
from tiny_models import FURTHER, shrunk

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp as a peer: pip install 'motley-moe[peers]'")

QUANTS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k", "q4_k_m", "mxfp4")
CASES = [("qwen3moe", quant) for quant in QUANTS] + [
    (family, q) for family in ("olmoe", "llama") for q in ("f32", "q4_k", "mxfp4")
]


def small(architecture: str, quant: str, tied: bool = False) -> ModelShape:
    dims = Dims(
        name=f"small {architecture}",
        architecture=architecture,
        n_layers=2,
        d_model=256,
        n_heads=4,
        n_kv_heads=4 if architecture == "olmoe" else 2,  # llama.cpp's olmoe has no grouped queries
        head_dim=64,
        n_experts=16,
        n_experts_used=4,
        d_expert=256,
        d_dense=256,
        vocab_size=1500,
        context=256,
        rms_eps=1e-5,
        rope_theta=1e4,
        tied_embeddings=tied,
    )
    return ModelShape.from_dims(dims, quant)


@pytest.mark.parametrize(("architecture", "quant"), CASES)
def test_llama_cpp_runs_it(tmp_path: Path, architecture: str, quant: str) -> None:
    path = tmp_path / "synthetic.gguf"
    synthesize(small(architecture, quant), path)
    run_and_check(path)


@pytest.mark.parametrize("architecture", ["qwen3moe", "llama"])  # llama.cpp's olmoe needs its own head
def test_tied_embeddings(tmp_path: Path, architecture: str) -> None:
    path = tmp_path / "tied.gguf"
    synthesize(small(architecture, "q8_0", tied=True), path)
    run_and_check(path)


@pytest.mark.parametrize("name", [*FURTHER, "dots.llm1", "ernie-4.5-21b-a3b", "hunyuan-a13b", "granite-3.1-1b-a400m"])
def test_llama_cpp_computes_the_same_with_the_catalogue_s_layers(tmp_path: Path, name: str) -> None:
    """In float32; Llama 4 with chunks longer than the prompt (llama.cpp knows those of 8,192 only)."""
    shape = shrunk(name, "f32")
    attrs = {k: v for k, v in shape.attrs.items() if k != "llama4.attention.sliding_window"}
    synthesize(replace(shape, attrs=attrs), path := tmp_path / "x.gguf")
    prompt = list(range(1, 20))
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0)
    model.eval(prompt)
    theirs = np.array(model.scores[: len(prompt)])
    model.close()
    whole = range(len(prompt))
    ours = LocalRunner(open_checkpoint(path), ReferenceOps(), context=32).step(Batch(prompt, whole, [0] * 19, whole))
    near = 1e-2 if shape.architecture == "gemma4" else 1e-5  # GELU from a table: see test_llamacpp_models
    assert np.abs(ours - theirs).max() < near * np.abs(ours).max()


def run_and_check(path: Path) -> None:
    model = llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, logits_all=True, verbose=False)
    prompt = model.tokenize(b"the cat, 123", add_bos=False)
    assert model.detokenize(prompt) == b"the cat, 123"
    assert len(prompt) < 12  # pairs of letters merge
    generated = []
    for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
        generated.append(token)
        if len(generated) == 48:
            break
    logits = np.array(model.scores[: len(prompt) + 40])
    model.close()
    assert np.isfinite(logits).all()
    assert 0.5 < logits.std() < 20
    assert len(set(generated)) > 24
