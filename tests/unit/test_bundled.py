"""The bundled model's files: present, small, of the catalogue's shape, and the trace really uneven."""

import numpy as np
import pytest

from motley.bundled import heldout_path, model_path, routes_path
from motley.formats.checkpoint import open_checkpoint
from motley.shape.model import ModelShape

SHAPE = ModelShape.named("motley-8m", "q8_0")
LIMITS = {model_path: 10_000_000, routes_path: 300_000, heldout_path: 200_000}


@pytest.mark.parametrize("path", LIMITS, ids=lambda path: path.__name__)
def test_size(path) -> None:
    assert LIMITS[path] // 10 < path().stat().st_size < LIMITS[path]


def test_the_file_has_the_catalogues_shape() -> None:
    checkpoint = open_checkpoint(model_path())
    found = [(t.name, t.dims, t.quant) for t in checkpoint.tensors.values()]
    assert found == [(t.name, t.dims, t.quant) for t in SHAPE.tensors]
    stated = {
        key: value for key, value in SHAPE.attrs.items() if not key.endswith(".expert_gating_func")
    }  # the default
    assert {key: checkpoint.metadata[key] for key in stated} == {k: pytest.approx(v) for k, v in stated.items()}


def test_the_weights_are_trained_numbers() -> None:
    for tensor in open_checkpoint(model_path()).tensors.values():
        values = tensor.decode()
        assert np.isfinite(values).all(), tensor.name
        assert values.std() > 1e-3 or "norm" in tensor.name, tensor.name


def test_tokenizer_metadata_is_whole() -> None:
    metadata = open_checkpoint(model_path()).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == len(set(tokens)) == SHAPE.vocab_size == len(metadata["tokenizer.ggml.token_type"])
    assert tokens[metadata["tokenizer.ggml.eos_token_id"]] == "<|endoftext|>"
    known = set(tokens)
    for merge in metadata["tokenizer.ggml.merges"]:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= known, merge


def test_the_trace_is_whole_and_uneven() -> None:
    with np.load(routes_path()) as trace:
        experts, tokens, domain, names = (trace[k] for k in ("experts", "tokens", "domain", "domain_names"))
        assert int(trace["n_experts"]) == SHAPE.n_experts
    assert experts.shape == (SHAPE.n_layers, len(tokens), SHAPE.n_experts_used)
    assert experts.dtype == domain.dtype == np.uint8
    assert experts.max() < SHAPE.n_experts
    assert set(domain) == set(range(len(names)))
    assert (np.diff(np.sort(experts, axis=-1), axis=-1) > 0).all(), "an expert is chosen twice for a token"
    share = np.stack([np.bincount(layer.ravel(), minlength=SHAPE.n_experts) for layer in experts])
    share = share / share.mean(axis=1, keepdims=True)
    assert share.min() > 0.02, "a dead expert"
    assert share.max() > 1.3, "every expert is as popular as the next"


def test_the_held_out_text_has_the_traces_domains() -> None:
    with np.load(routes_path()) as trace:
        names = [str(name) for name in trace["domain_names"]]
    heads = [line.strip("= ") for line in heldout_path().read_text().splitlines() if line.startswith("=== ")]
    assert heads == names
