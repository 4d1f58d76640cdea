"""llama.cpp loads what `motley convert` writes, with the same tokens in and out."""

from pathlib import Path

import numpy as np
import pytest

from hf_folders import f32, write_folder
from hf_golden import FOLDERS, GOLDEN, golden_config, golden_state
from hf_tokenizers import engine, write_tokenizer
from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.convert import convert
from motley.ops.protocol import Batch
from motley.ops.reference import ReferenceOps
from tiny_models import write_tiny

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp as a peer: pip install 'motley-moe[peers]'")

LIKE_ITS = {  # settings that llama.cpp does not know: see test_llamacpp_models
    "gpt-oss": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "llama4": {"attention_chunk_size": 8192, "floor_scale": 8192},
}
TEXTS = ["Hello world, it's 1234567 o'clock!", "  Größe\n\n 你好 🙂", "a"]


def folder(tmp_path: Path, family: str, kind: str) -> Path:
    """The golden model with more rows for the tokenizer's tokens: its own ids mean what they meant."""
    tensors = golden_state(family)
    size = engine(kind).get_vocab_size()
    for name in {"model.embed_tokens.weight", "lm_head.weight"} & tensors.keys():
        more = np.random.default_rng(3).standard_normal((size - 160, 64)) * 0.1
        tensors[name] = np.concatenate([tensors[name], more])
    if "lm_head.weight" in tensors:
        tensors["lm_head.weight"][160:] *= 0
    write_tokenizer(tmp_path, kind)
    config = golden_config(family) | LIKE_ITS.get(family, {}) | {"vocab_size": size}
    return write_folder(tmp_path, config, {name: f32(values) for name, values in tensors.items()})


OTHERS = sorted(FOLDERS.keys() - {"qwen3moe", "mixtral", "deepseek2-lite", "moonlight"})  # the last: known by 27 layers


@pytest.mark.parametrize("family", OTHERS)
def test_llama_cpp_computes_the_same_from_every_family_s_folder(tmp_path: Path, family: str) -> None:
    convert(open_checkpoint(folder(tmp_path / "m", family, "gpt2")), out := tmp_path / "x.gguf")
    model = llama_cpp.Llama(str(out), n_ctx=64, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0)
    prompt = np.load(GOLDEN / f"{family}.npz")["prompt"].tolist()
    model.eval(prompt)
    errors = relative_errors(np.array(model.scores[: len(prompt)]), exact(out, prompt))
    assert np.median(errors) < 1e-3  # GELU from a table tips an expert of Gemma 4's
    assert family == "gemma4" or errors.max() < 1e-4


def exact(path: Path, prompt: list[int]) -> np.ndarray:
    """What the stored weights mean, without anyone's quantised arithmetic."""
    whole = range(len(prompt))
    runner = LocalRunner(open_checkpoint(path), ReferenceOps(), context=64)
    return runner.step(Batch(prompt, whole, [0] * len(prompt), whole))


@pytest.mark.parametrize(
    ("family", "kind"), [("qwen3moe", "gpt2"), ("qwen3moe", "qwen2"), ("qwen3moe", "llama3"), ("mixtral", "llama")]
)
@pytest.mark.parametrize("quant", [None, "q8_0"])
def test_llama_cpp_agrees(tmp_path: Path, family: str, kind: str, quant: str | None) -> None:
    out = tmp_path / "x.gguf"
    convert(open_checkpoint(folder(tmp_path / "m", family, kind)), out, quant)
    model = llama_cpp.Llama(str(out), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    for text in TEXTS:
        ids = model.tokenize(text.encode(), add_bos=False, special=False)
        assert ids == engine(kind).encode(text, add_special_tokens=False).ids, text
    prompt = np.load(GOLDEN / f"{family}.npz")["prompt"].tolist()
    model.eval(prompt)
    theirs = np.array(model.scores[: len(prompt)])
    errors = relative_errors(theirs, exact(out, prompt))
    if quant is not None:
        assert np.median(errors) < 5e-2
        return
    assert errors.max() < 1e-2  # llama.cpp rounds keys and values to f16
    assert relative_errors(theirs[:, :160], np.load(GOLDEN / f"{family}.npz")["logits"]).max() < 1e-2


def relative_errors(logits: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of each token. llama.cpp rounds activations before quantised weights: that may flip a token's expert."""
    return np.abs(logits - right).max(axis=1) / np.abs(right).max()


@pytest.mark.parametrize("quant", ["q8_0", "q4_k_m", "bf16"])
def test_llama_cpp_loads_olmoe_from_a_gguf(tmp_path: Path, quant: str) -> None:
    """Not from the golden model: llama.cpp's olmoe has no grouped queries."""
    out = tmp_path / "x.gguf"
    convert(open_checkpoint(write_tiny(tmp_path, "olmoe", "f32")), out, quant)
    model = llama_cpp.Llama(str(out), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    model.eval(prompt := [5, 80, 31, 7, 120])
    theirs = np.array(model.scores[: len(prompt)])
    assert np.median(relative_errors(theirs, exact(out, prompt))) < 5e-2
