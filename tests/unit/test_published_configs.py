"""config.json as publishers ship it (tools/golden/published_configs.py): the catalogue's tensors, to the last one, and
metadata that the family takes."""

import json
from pathlib import Path

import pytest

from motley.models.registry import config_of
from motley.shape.catalogue import find
from motley.shape.hf import family_of
from motley.shape.model import ModelShape

CONFIGS = json.loads((Path(__file__).parents[1] / "golden" / "published_configs.json").read_text())
# What the catalogue does not state, as GGUF files of these models have it.
ALSO = {
    "deepseek-ai--DeepSeek-V3": {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 40.0,
        "rope.scaling.original_context_length": 4096,
        "rope.scaling.yarn_log_multiplier": 0.1,
        "expert_weights_scale": 2.5,
        "expert_weights_norm": True,
        "expert_group_count": 8,
        "expert_group_used_count": 4,
        "expert_gating_func": 2,
        "leading_dense_block_count": 3,
    },
    "moonshotai--Kimi-K2-Instruct": {"rope.freq_base": 50000.0, "rope.scaling.yarn_beta_fast": 1.0},
    "openai--gpt-oss-20b": {"attention.sliding_window": 128, "rope.scaling.factor": 32.0, "rope.freq_base": 150000.0},
    "MiniMaxAI--MiniMax-M2.5": {"rope.dimension_count": 64, "rope.freq_base": 5e6, "expert_gating_func": 2},
    "Qwen--Qwen3.5-35B-A3B": {"rope.dimension_count": 64, "rope.freq_base": 1e7, "full_attention_interval": 4},
    "google--gemma-4-26B-A4B": {"rope.freq_base": 1e6, "rope.freq_base_swa": 1e4, "final_logit_softcapping": 30.0},
    "meta-llama--Llama-4-Maverick-17B-128E-Instruct": {"interleave_moe_layer_step": 2, "rope.freq_base": 5e5},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_config_is_the_catalogue_s_model(name: str) -> None:
    shape = ModelShape.from_hf_config(CONFIGS[name], "bf16")
    known = find(name.partition("--")[2])
    assert known
    catalogue = ModelShape.named(known, "bf16")
    assert shape.architecture == family_of(CONFIGS[name]).architecture == catalogue.architecture
    factors = "rope_freqs.weight"  # the catalogue leaves Llama's out: a few bytes
    assert [t for t in shape.tensors if t.name != factors] == [t for t in catalogue.tensors if t.name != factors]
    assert shape.mixers == catalogue.mixers
    assert shape.context == catalogue.context
    config = config_of(shape.architecture, {"general.architecture": shape.architecture, **shape.attrs})
    assert config.n_layers == shape.n_layers
    assert {f"{shape.architecture}.{k}": v for k, v in ALSO.get(name, {}).items()}.items() <= shape.attrs.items()
