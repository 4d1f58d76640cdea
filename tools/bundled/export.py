"""Write the trained checkpoint as the package's GGUF file: Q8_0, with all that llama.cpp needs.

Owns the metadata (tokenizer, licence, sources) and the rounding to Q8_0; tensor names, order and
precision come from the catalogue's `motley-8m`, the file itself from `motley.formats`.

    PYTHONPATH=src python tools/bundled/export.py --work build/bundled
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from motley.formats.encode import encode
from motley.formats.gguf_writer import write_gguf
from motley.shape.model import ModelShape
from motley.shape.quant import Quant

SHAPE = "motley-8m"
FILE = f"{SHAPE}-q8_0.gguf"
PACKAGE = Path(__file__).parents[2] / "src" / "motley" / "bundled"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n\n{% endfor %}"
"""The model only continues text: messages stand one after the other."""


def tokenizer_metadata(path: Path) -> dict[str, Any]:
    """GGUF's tokenizer keys from a `tokenizers` file."""
    saved = json.loads(path.read_text())
    by_id = sorted(saved["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["content"]: token["id"] for token in saved["added_tokens"]}
    end = special["<|endoftext|>"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in saved["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [token for token, _ in by_id],
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token, _ in by_id],  # 3: control, 1: normal
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": end,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.padding_token_id": end,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def general_metadata(work: Path, saved: dict[str, Any]) -> dict[str, Any]:
    rows = json.loads((work / "sources.json").read_text())
    sources = "; ".join(dict.fromkeys(f"{row['package']} ({row['licence']})" for row in rows))
    return {
        "general.architecture": "qwen3moe",
        "general.type": "model",
        "general.name": "Motley 8M",
        "general.description": (
            "A Mixture-of-Experts model of 8 M parameters to try Motley with: it continues English text, "
            f"Python code and manual pages, and knows nothing. Trained on {saved['seen']:,} tokens of Debian 12 "
            f"packages: {sources}."
        ),
        "general.size_label": "32x0.2M",
        "general.license": "apache-2.0",
        "general.languages": ["en"],
        "general.file_type": 7,  # mostly Q8_0
        "general.quantization_version": 2,
    }


def load(checkpoint: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What training saved, and its weights by GGUF name as float32."""
    saved = torch.load(checkpoint, weights_only=True)
    shape = ModelShape.named(SHAPE, "q8_0")
    weights = {t.name: saved["model"][t.name.replace(".", "_")].numpy() for t in shape.tensors}
    extra = set(saved["model"]) - {name.replace(".", "_") for name in weights}
    assert not extra, f"the shape {SHAPE} has no place for {sorted(extra)}"
    for tensor in shape.tensors:
        assert weights[tensor.name].shape == tensor.dims, f"{tensor.name}: {weights[tensor.name].shape}"
    return saved, weights


def export(work: Path, target: Path) -> None:
    saved, weights = load(work / "checkpoint.pt")
    shape = ModelShape.named(SHAPE, "q8_0")
    blocks = [(tensor, encode(weights[tensor.name], tensor.quant)) for tensor in shape.tensors]
    assert {tensor.quant for tensor in shape.tensors} == {Quant.F32, Quant.Q8_0}
    metadata = general_metadata(work, saved) | dict(shape.attrs) | tokenizer_metadata(work / "tokenizer.json")
    write_gguf(target, metadata, blocks)
    size = target.stat().st_size
    assert size < 10_000_000, f"{target} has {size} bytes: the package must stay under 10 MB"
    print(f"{target}: {size:,} bytes, {shape.n_params:,} parameters, trained on {saved['seen']:,} tokens")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bundled"))
    parser.add_argument("-o", "--out", type=Path, default=PACKAGE / FILE)
    options = parser.parse_args()
    export(options.work, options.out)
