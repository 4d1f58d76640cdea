"""The bundled model in Motley: its trace, its tokens, and llama.cpp's greedy answers."""

import re
from collections.abc import Iterator

import numpy as np
import pytest

from motley.bundled import heldout_path, model_path, routes_path
from motley.engine.local import LocalRunner, Model
from motley.formats.checkpoint import open_checkpoint
from motley.formats.tokenizer import Tokenizer
from motley.ops.reference import ReferenceOps

PROMPTS = ("It was a cold morning, and", "In those days the king", "def read_file(path):\n", "The function returns")


@pytest.fixture
def model() -> Iterator[Model]:
    with Model(LocalRunner(open_checkpoint(model_path()), ReferenceOps(), context=256)) as model:
        yield model


def test_the_traces_tokens_are_the_held_out_text() -> None:
    tokenizer = Tokenizer.from_metadata(open_checkpoint(model_path()).metadata)
    sections = re.split(r"(?m)^=== \w+ ===\n", heldout_path().read_text())[1:]
    with np.load(routes_path()) as trace:
        tokens, domain = trace["tokens"], trace["domain"]
    for index, section in enumerate(sections):
        assert tokenizer.encode(section.removesuffix("\n")) == tokens[domain == index].tolist()


def test_the_trace_is_what_the_router_chooses(model: Model) -> None:
    n = 128
    with np.load(routes_path()) as trace:
        tokens, experts = trace["tokens"][:n].tolist(), trace["experts"][:, :n]
    model.logits(tokens)
    found = model.runner.routes()  # [layers, experts], counts
    traced = np.stack([np.bincount(layer.ravel(), minlength=found.shape[1]) for layer in experts])
    assert found.sum() == traced.sum()
    assert np.abs(found - traced).sum() <= 4, "more than two choices differ: not rounding at a tie"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_are_llama_cpps(model: Model, prompt: str) -> None:
    """llama.cpp rounds activations to 8 bits: where it chose otherwise, the two candidates must be a near tie."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp as a peer: pip install 'motley-moe[peers]'")
    llama = llama_cpp.Llama(str(model_path()), n_ctx=128, n_threads=1, logits_all=True, verbose=False)
    ids = llama.tokenize(prompt.encode(), add_bos=False, special=False)
    llama.eval(ids)
    past = list(ids)
    for _ in range(64):
        past.append(int(np.asarray(llama.scores[len(past) - 1]).argmax()))
        llama.eval(past[-1:])
    logits = model.logits(past)[len(ids) - 1 : -1]  # [64, V]: what Motley says of the same past
    gaps = logits.max(axis=1) - logits[np.arange(64), past[len(ids) :]]
    assert gaps.max() < 0.25, f"llama.cpp's token is {gaps.max():.3f} below Motley's at token {gaps.argmax()}"
    assert (gaps == 0).sum() >= 60
