"""llama.cpp loads what Motley writes, for every family and precision, and computes finite, varied tokens with it."""

from pathlib import Path

import numpy as np
import pytest

from motley.formats.synth import synthesize
from motley.shape.dims import Dims
from motley.shape.model import ModelShape

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
