"""Variants of the bundled model whose perplexity llama.cpp was asked for (tools/golden/make_llamacpp_perplexity.py)."""

from pathlib import Path

from motley.bundled import model_path
from motley.formats.checkpoint import open_checkpoint
from motley.formats.gguf_writer import write_gguf
from motley.shape.model import Role, TensorShape
from tiny_models import write_decoded

VARIANTS = {
    "q8_0": "the file as it is",
    "f32": "its weights decoded to float32: no rounding of activations on either side",
    "bos": "as it is, but its vocabulary says that texts begin with BOS",
}


def write_variant(folder: Path, variant: str) -> Path:
    path = folder / f"motley-8m-{variant}.gguf"
    if variant == "f32":
        write_decoded(model_path(), path)
    elif variant == "bos":
        checkpoint = open_checkpoint(model_path())
        tensors = ((TensorShape(t.name, t.dims, t.quant, Role.NORM), t.data) for t in checkpoint.tensors.values())
        write_gguf(path, {**checkpoint.metadata, "tokenizer.ggml.add_bos_token": True}, tensors)
    else:
        path.write_bytes(model_path().read_bytes())
    return path
