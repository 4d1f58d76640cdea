"""llama.cpp loads what `motley convert` writes, with the same tokens in and out."""

from pathlib import Path

import numpy as np
import pytest

import motley
from hf_folders import GOLDEN, f32, golden_config, golden_state, write_folder
from hf_tokenizers import engine, write_tokenizer
from motley.formats.checkpoint import open_checkpoint
from motley.formats.convert import convert

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp as a peer: pip install 'motley-moe[peers]'")

TEXTS = ["Hello world, it's 1234567 o'clock!", "  Größe\n\n 你好 🙂", "a"]


def folder(tmp_path: Path, family: str, kind: str) -> Path:
    """The golden model with more rows for the tokenizer's tokens: its own ids mean what they meant."""
    tensors = golden_state(family)
    size = engine(kind).get_vocab_size()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        more = np.random.default_rng(3).standard_normal((size - 160, 64)) * 0.1
        tensors[name] = np.concatenate([tensors[name], more])
    tensors["lm_head.weight"][160:] *= 0
    write_tokenizer(tmp_path, kind)
    config = golden_config(family) | {"vocab_size": size}
    return write_folder(tmp_path, config, {name: f32(values) for name, values in tensors.items()})


@pytest.mark.parametrize(
    ("family", "kind"), [("olmoe", "gpt2"), ("qwen3moe", "qwen2"), ("qwen3moe", "llama3"), ("mixtral", "llama")]
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
    with motley.load(out, threads=1, context=64) as ours:
        logits = ours.logits(prompt)
    tolerance = 1e-2 if quant is None else 5e-2  # both round: keys and values to f16, activations to int8
    assert np.abs(logits - theirs).max() / np.abs(theirs).max() < tolerance
    if quant is None:
        golden = np.load(GOLDEN / f"{family}.npz")["logits"]
        assert np.abs(theirs[:, :160] - golden).max() / np.abs(golden).max() < tolerance
