"""Files of random weights of the families beyond the first three: metadata and tensors are what the family reads."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.synth import synthesize
from motley.models.registry import config_of
from motley.ops.protocol import Batch
from motley.ops.reference import ReferenceOps
from motley.shape.model import ModelShape
from motley.shape.reader import read_spec

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


@pytest.mark.parametrize(
    "name", ["deepseek-v2-lite", "kimi-k2", "glm-4.7-flash", "deepseek-moe-16b", "hunyuan-a13b", "ernie-4.5-21b-a3b"]
)
def test_the_catalogue_s_numbers_are_the_family_s(name: str) -> None:
    shape = ModelShape.named(name, "q4_0")
    config = config_of(shape.architecture, shape.attrs)
    assert (config.n_layers, config.d_model, config.n_experts) == (shape.n_layers, shape.d_model, shape.n_experts)
    assert (config.d_expert, config.vocab_size) == (shape.d_expert, shape.vocab_size)
    dense = [i for i in range(shape.n_layers) if not shape.experts_in(i)]
    assert config.dense_layers == frozenset(dense)
    shared = {t.dims[0] for t in shape.tensors if t.name.endswith("ffn_up_shexp.weight")}
    assert {config.d_shared} - {0} == shared
