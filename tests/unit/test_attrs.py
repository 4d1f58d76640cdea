"""Files of random weights: metadata and tensors are what the family reads, and say again what the catalogue says."""

import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.synth import synthesize
from motley.formats.tensor import Checkpoint, QuantTensor
from motley.models.registry import config_of
from motley.ops.protocol import Batch
from motley.ops.reference import ReferenceOps
from motley.shape.catalogue import lookup, names
from motley.shape.model import ModelShape
from motley.shape.quant import Quant
from motley.shape.reader import read_spec
from tiny_models import FURTHER, shrunk

LATENT = 'kind = "mla"\nheads = 4\nhead_dim = 32\nv_head_dim = 32\nkv_lora_rank = 32\nrope_dim = 32'
GROUPED = 'kind = "attention"\nheads = 4\nkv_heads = 2\nhead_dim = 32'
EXPERTS = 'kind = "moe"\nexperts = 8\nused = 2\nwidth = 32'
DENSE = '[ffn.D]\nkind = "dense"\nwidth = 96'


def spec(architecture: str, mixer: str, ffns: str) -> str:
    return (
        f'name = "toy"\narchitecture = "{architecture}"\nsource = "a test"\n'
        f"n_layers = 3\nd_model = 64\nvocab_size = 300\ncontext = 128\n"
        f"{ffns.partition('[')[0]}\n[mixer.F]\n{mixer}\n[{ffns.partition('[')[2]}"
    )


CASES = {
    "llama": spec("llama", GROUPED, DENSE),
    "qwen3": spec("qwen3", GROUPED + '\nqk_norm = "head"', DENSE),
    "deepseek": spec("deepseek", GROUPED, f'ffns = "DE2"\n{DENSE}\n[ffn.E]\n{EXPERTS}\nshared = 2'),
    "deepseek2": spec(
        "deepseek2", LATENT, f'ffns = "DE2"\n{DENSE}\n[ffn.E]\n{EXPERTS}\nshared = 1\nrouter_bias = true'
    ),
    "deepseek2 with q": spec(
        "deepseek2", LATENT + "\nq_lora_rank = 32", f'ffns = "DE2"\n{DENSE}\n[ffn.E]\n{EXPERTS}\nshared = 1'
    ),
    "dots1": spec(
        "dots1",
        GROUPED + '\nqk_norm = "head"',
        f'ffns = "DE2"\n{DENSE}\n[ffn.E]\n{EXPERTS}\nshared = 2\nrouter_bias = true',
    ),
    "minimax-m2": spec("minimax-m2", GROUPED + '\nqk_norm = "full"', f"[ffn.E]\n{EXPERTS}\nrouter_bias = true"),
    "granitemoe": spec("granitemoe", GROUPED, f"[ffn.E]\n{EXPERTS}"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_of_random_weights_runs(tmp_path: Path, case: str) -> None:
    shape = ModelShape.from_spec(read_spec(tomllib.loads(CASES[case]), "toy"), "q8_0")
    assert shape.runs
    synthesize(shape, tmp_path / "x.gguf", seed=1)
    runner = LocalRunner(open_checkpoint(tmp_path / "x.gguf"), ReferenceOps(), context=16)
    logits = runner.step(Batch([1, 2, 3], range(3), [0] * 3, range(3)))
    assert np.isfinite(logits).all()
    assert logits.std() > 0


@pytest.mark.parametrize("name", FURTHER)
def test_the_catalogue_s_layers_run(tmp_path: Path, name: str) -> None:
    shape = shrunk(name, "q8_0")
    synthesize(shape, tmp_path / "x.gguf", seed=1)
    file = open_checkpoint(tmp_path / "x.gguf")
    assert differences(shape, shape_of(file)) == {"name", "source"}
    runner = LocalRunner(file, ReferenceOps(), context=32)
    whole = range(20)  # longer than the windows
    logits = runner.step(Batch(list(whole), whole, [0] * 20, whole))
    assert np.isfinite(logits).all()
    assert (0.2 if shape.has_tied_head else 0.5) < logits.std() < 20
    assert len(set(logits.argmax(1).tolist())) > 10


def differences(ours: ModelShape, other: ModelShape) -> set[str]:
    """Names of fields. GGUF's numbers are float32."""
    close = {k: pytest.approx(v) if isinstance(v, float) else v for k, v in ours.attrs.items()}
    found = {each.name for each in fields(ours) if getattr(ours, each.name) != getattr(other, each.name)}
    return found - ({"attrs"} if close == other.attrs else set())


ONE_OF_EACH = {lookup(name).architecture: name for name in names() if ModelShape.named(name, "q8_0").runs}


@pytest.mark.parametrize("name", sorted({*ONE_OF_EACH.values(), *FURTHER}))
def test_a_file_of_the_catalogue_s_model_has_its_shape(name: str) -> None:
    """Whole models, their bytes left out."""
    shape = ModelShape.named(name, "q8_0")
    bytes_of = {t.name: np.broadcast_to(np.uint8(0), t.n_bytes) for t in shape.tensors}
    tensors = {t.name: QuantTensor(t.name, t.dims, Quant(t.quant), bytes_of[t.name]) for t in shape.tensors}
    metadata = {"general.architecture": shape.architecture, "general.name": shape.name, **shape.attrs}
    # MTP layers are not written; latents are counted as the CPU's cache has them, in files' shapes only
    allowed = {"source", "mtp"} | ({"mixers"} if shape.architecture == "deepseek2" else set())
    assert differences(shape, shape_of(Checkpoint(metadata, tensors, "0" * 32))) <= allowed


@pytest.mark.parametrize(
    "name",
    [
        "deepseek-v2-lite",
        "kimi-k2",
        "glm-4.7-flash",
        "deepseek-moe-16b",
        "hunyuan-a13b",
        "ernie-4.5-21b-a3b",
        "gpt-oss-20b",
        "glm-4.5-air",
        "qwen3-next-80b-a3b",
        "qwen3.6-35b-a3b",
        "llama-4-maverick",
    ],
)
def test_the_catalogue_s_numbers_are_the_family_s(name: str) -> None:
    shape = ModelShape.named(name, "q4_0")
    config = config_of(shape.architecture, {"general.architecture": shape.architecture, **shape.attrs})
    assert (config.n_layers, config.d_model, config.n_experts) == (shape.n_layers, shape.d_model, shape.n_experts)
    assert (config.d_expert, config.vocab_size) == (shape.d_expert, shape.vocab_size)
    dense = [i for i in range(shape.n_layers) if not shape.experts_in(i)]
    assert config.dense_layers == frozenset(dense)
    shared = {t.dims[0] for t in shape.tensors if t.name.endswith("ffn_up_shexp.weight")}
    assert {config.d_shared} - {0} == shared
