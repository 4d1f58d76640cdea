"""The catalogue's entries beside their totals: where they come from, and what people call them."""

import pytest

from motley.shape.catalogue import find, lookup, names
from motley.shape.model import ModelShape
from motley.shape.reader import read_spec


def test_every_entry_says_where_it_was_seen() -> None:
    for name in names():
        spec = lookup(name)
        assert spec.status.startswith(("config seen", "config not seen: ")), name
        assert spec.source.startswith(("https://", "transformers ", "config.json ", "knowledge: ", "src/")), name
        assert spec.source.startswith("knowledge: ") == ("from memory" in spec.status), name


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Qwen_Qwen3.5-9B-Q4_K_M.gguf", "qwen3.5-9b"),
        ("nvidia_Nemotron-Cascade-2-30B-A3B-GGUF", "nemotron-3-nano-30b-a3b"),
        ("qwen3.6:35b-mlx", "qwen3.6-35b-a3b"),
        ("hf.co/unsloth/Qwen3.6-27B-MTP-GGUF:UD-Q4_K_XL", "qwen3.6-27b"),
        ("Mistral-Small-3.2-24B-Instruct-2506-4bit", "mistral-small-3.1-24b"),
        ("DeepSeek-R1", "deepseek-v3"),
        ("gpt-oss-20b-MXFP4-Q4", "gpt-oss-20b"),
        ("GLM-4.6", "glm-4.5"),
        ("Qwen3-Coder-Next", "qwen3-next-80b-a3b"),
        ("Llama-3-60B", None),
        ("Q4_K_M.gguf", None),
        ("", None),
    ],
)
def test_names_as_people_write_them(said: str, meant: str | None) -> None:
    assert find(said) == meant


def test_a_name_alone_is_found_whatever_its_spelling() -> None:
    for name in names():
        assert find(name.upper()) == name == find(f"someone/{name.replace('.', '_')}-Instruct-GGUF")


# --- parts that one model alone has


def _spec(**mixer: object) -> ModelShape:
    head = {
        "name": "t",
        "architecture": "t",
        "n_layers": 2,
        "d_model": 64,
        "vocab_size": 10,
        "context": 8,
        "source": "-",
    }
    return ModelShape.from_spec(read_spec({**head, "mixer": {"F": mixer}}, "t"), "f32")


def test_a_delta_attention_gate_of_full_rank() -> None:
    kda = {"kind": "kda", "heads": 4, "head_dim": 16, "conv": 4}
    low_rank = 16 * 64 + 64 * 16  # d_model -> head_dim -> heads x head_dim
    assert _spec(**kda, gate="element").n_params - _spec(**kda).n_params == 2 * (64 * 64 - low_rank)


def test_a_shared_index_is_not_computed_again() -> None:
    mla = {"kind": "mla", "heads": 2, "head_dim": 16, "kv_lora_rank": 8, "rope_dim": 4}
    own = {**mla, "top_k": 4, "index_heads": 2, "index_dim": 8}
    shared = _spec(**own, shares_index=True)
    assert shared.n_params == _spec(**mla).n_params < _spec(**own).n_params
    assert [m.elements_read(100) for m in shared.mixers] == [4 * 12] * 2  # the latents of four positions
    assert [m.elements_read(100) for m in _spec(**own).mixers] == [4 * 12 + 100 * 8] * 2
