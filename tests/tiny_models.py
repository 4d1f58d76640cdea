"""Small models of each family with random weights in any precision: the same bytes on every machine."""

from dataclasses import replace
from pathlib import Path

from motley.formats.checkpoint import open_checkpoint
from motley.formats.gguf_writer import write_gguf
from motley.formats.synth import synthesize
from motley.shape.catalogue import lookup
from motley.shape.dims import Dims
from motley.shape.model import ModelShape, Role, TensorShape
from motley.shape.quant import Quant

FAMILIES = ("olmoe", "qwen3moe", "llama")
FURTHER = (
    *("gpt-oss-20b", "glm-4.5", "glm-4.5-air", "qwen3-next-80b-a3b", "qwen3.5-35b-a3b", "qwen3.6-35b-a3b"),
    *("gemma-4-26b-a4b", "llama-4-scout", "llama-4-maverick"),
)
QUANTS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k", "mxfp4")


def tiny_shape(architecture: str, quant: str) -> ModelShape:
    """Widths are one K-quant block, 256; small enough that numpy runs it."""
    dims = Dims(
        name=f"tiny-{architecture}",
        architecture=architecture,
        n_layers=2,
        d_model=256,
        n_heads=4,
        n_kv_heads=2 if architecture != "olmoe" else 4,
        head_dim=64,
        n_experts=6,
        n_experts_used=2,
        d_expert=256,
        d_dense=256,
        vocab_size=320,
        context=256,
        rms_eps=1e-5,
        rope_theta=10000.0,
    )
    return ModelShape.from_dims(dims, quant)


def shrunk(name: str, quant: str) -> ModelShape:
    """The catalogue's model with its layers' kinds and order, six of them, and everything small."""
    found = lookup(name)
    mixers = {
        letter: replace(
            m,
            heads=4,
            kv_heads=4 if m.kv_heads == m.heads else 2 - bool(m.v_from_k),
            head_dim=64 if m.v_from_k else 32,
            window=m.window and 8,
        )
        if m.kind == "attention"
        else replace(m, k_heads=2, v_heads=4, k_dim=16, v_dim=16)
        for letter, m in found.mixer.items()
    }
    ffns = {
        letter: replace(f, width=32, experts=f.experts and 8, used=min(f.used, 2), shared_width=f.shared_width and 96)
        for letter, f in found.ffn.items()
    }
    small = replace(
        found,
        d_model=64,
        vocab_size=300,
        context=128,
        mixer=mixers,
        ffn=ffns,
        mtp=None,
        rope_factors=found.rope_factors and 32,
    )
    return ModelShape.from_spec(small, quant).with_layers(6)


def write_tiny(folder: Path, architecture: str, quant: str) -> Path:
    path = folder / f"tiny-{architecture}-{quant}.gguf"
    synthesize(tiny_shape(architecture, quant), path, seed=11)
    return path


def write_decoded(path: Path, target: Path) -> None:
    """The same model with its weights decoded to float32: what the stored precision means, without anyone's
    quantised arithmetic."""
    checkpoint = open_checkpoint(path)
    decoded = ((TensorShape(t.name, t.dims, Quant.F32, Role.NORM), t.decode()) for t in checkpoint.tensors.values())
    write_gguf(target, {**checkpoint.metadata, "general.file_type": 0}, decoded)
