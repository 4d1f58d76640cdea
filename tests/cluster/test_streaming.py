"""Experts that a home computes in large steps although another device of its process holds them: the same answers as
without, in bounded memory, and only where a step has the tokens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from motley.cli.options import Offered
from motley.cli.session import Seat, Session
from motley.engine.local import LocalRunner
from motley.engine.placed import PlacedRunner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.placement import LayerPlacement, Placement, Streaming
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch
from tiny_models import FAMILIES, write_tiny

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
CONTEXT, FROM = 96, 20
TOKENS = [int(t) for t in np.random.default_rng(5).integers(0, 300, 61)]


def streamed(path: Path, home: str, holder: str, at_once: int = 2, own: int = 2) -> Placement:
    """Of each layer's experts the home has the first `own`, the holder the others."""
    shape, layers = shape_of(open_checkpoint(path)), []
    for i in range(shape.n_layers):
        owners = tuple(home if e < own else holder for e in range(shape.experts_in(i)))
        layers.append(LayerPlacement(home, owners, streaming=Streaming((holder,), FROM, at_once) if owners else None))
    return Placement(tuple(layers))


def asked(placement: Placement) -> Placement:
    """The same without."""
    return replace(placement, layers=tuple(replace(layer, streaming=None) for layer in placement.layers))


def logits_of(runner: Any, tokens: list[int], chunk: int) -> np.ndarray:
    parts = []
    for first in range(0, len(tokens), chunk):
        share = tokens[first : first + chunk]
        n = len(share)
        parts.append(np.array(runner.step(Batch(share, range(first, first + n), [0] * n, range(n)))))
    return np.concatenate(parts)


@contextmanager
def two_of(*specs: str) -> Iterator[Session]:
    with Session.local([Seat("a", 1, 0, tuple(map(Offered, specs)))]) as session:
        yield session


def run(session: Session, path: Path, placement: Placement, work: Callable[[PlacedRunner], Any]) -> Any:
    with session.placed(str(path), placement, slots=1, context=CONTEXT) as runner:
        return work(runner)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with two_of("cpu", "cpu") as found:
        yield found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quant", ["f16", "q8_0", "q4_k", "mxfp4"])
def test_the_bits_are_those_of_one_device(session: Session, tmp_path: Path, family: str, quant: str) -> None:
    path = write_tiny(tmp_path, family, quant)
    one = LocalRunner(open_checkpoint(path), NativeOps(threads=1), n_slots=1, context=CONTEXT)
    want = logits_of(one, TOKENS, len(TOKENS))
    one.close()
    for at_once in (1, 3, 4):
        placement = streamed(path, "a", "a.cpu", at_once)
        for chunk in (len(TOKENS), 24):

            def both(runner: PlacedRunner, chunk: int = chunk) -> tuple[np.ndarray, int, float]:
                logits = logits_of(runner, TOKENS, chunk)
                return logits, sum(x.count for x in runner.exchanges()), runner.times().upload

            got, exchanges, upload = run(session, path, placement, both)
            np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))
            assert upload > 0
            small = sum(n < FROM for n in [len(TOKENS[i : i + chunk]) for i in range(0, len(TOKENS), chunk)])
            layers = sum(map(bool, (layer.experts for layer in placement.layers)))
            assert exchanges <= small * layers  # a step with few tokens asks whoever holds them
            twin, exchanges, upload = run(session, path, asked(placement), both)
            np.testing.assert_array_equal(twin.view(np.uint32), want.view(np.uint32))
            assert upload == 0
            assert exchanges > 0


def test_biases_travel_with_their_experts(session: Session) -> None:
    """gpt-oss's, whose golden file has float weights."""
    path, golden = GOLDEN / "gpt-oss.gguf", np.load(GOLDEN / "gpt-oss.npz")
    tokens, placement = golden["prompt"].tolist(), streamed(GOLDEN / "gpt-oss.gguf", "a", "a.cpu", 3)
    got = run(session, path, placement, lambda runner: logits_of(runner, tokens, len(tokens)))
    twin = run(session, path, asked(placement), lambda runner: logits_of(runner, tokens, len(tokens)))
    np.testing.assert_array_equal(got.view(np.uint32), twin.view(np.uint32))
    assert np.abs(got - golden["logits"]).max() < 1e-3 * np.abs(golden["logits"]).max()


def test_another_node_is_still_asked(tmp_path: Path) -> None:
    """One layer's experts on three devices: the home's, its neighbour's in the same process, and another process's."""
    path = write_tiny(tmp_path, "qwen3moe", "q8_0")
    stream = Streaming(("a.cpu",), FROM, 1)
    names = ("a", "a.cpu", "b", "a.cpu", "b", "a")
    placement = Placement(tuple(LayerPlacement("a", names, streaming=stream) for _ in range(2)))
    one = LocalRunner(open_checkpoint(path), NativeOps(threads=1), n_slots=1, context=CONTEXT)
    want = logits_of(one, TOKENS, len(TOKENS))
    one.close()
    with Session.local([Seat("a", 1, 0, (Offered("cpu"), Offered("cpu"))), Seat("b", 1, 0)]) as session:

        def both(runner: PlacedRunner) -> tuple[np.ndarray, dict[str, int]]:
            return logits_of(runner, TOKENS, len(TOKENS)), {x.b: x.count for x in runner.exchanges()}

        got, counts = run(session, path, placement, both)
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))
    assert counts == {"b": 2}


@pytest.mark.parametrize("spec", ["mlx:cpu", "tinygrad:CPU"])
@pytest.mark.parametrize("name", ["qwen3moe", "gpt-oss"])
def test_other_devices_as_homes(spec: str, name: str) -> None:
    """Against the golden logits, as docs/devices.md and docs/gpus.md promise: with float weights 1e-4, and the half
    precision of the cache. The prompt comes three times: a device that remembers prompts does so the second time."""
    pytest.importorskip({"mlx:cpu": "mlx.core", "tinygrad:CPU": "tinygrad"}[spec], reason=f"{spec} is not installed")
    path, golden = GOLDEN / f"{name}.gguf", np.load(GOLDEN / f"{name}.npz")
    tokens, size = golden["prompt"].tolist(), np.abs(golden["logits"]).max()
    with two_of(spec, "cpu") as session:
        placement = streamed(path, "a", "a.cpu", 4)

        def thrice(runner: PlacedRunner) -> tuple[list[np.ndarray], float]:
            answers = []
            for at in (0, 1, 0):
                batch = Batch(tokens[at:], range(len(tokens) - at), [0] * (len(tokens) - at), range(len(tokens) - at))
                answers.append(np.array(runner.step(batch)))
            return answers, runner.times().upload

        got, upload = run(session, path, placement, thrice)
        twin, none = run(session, path, asked(placement), thrice)
    assert upload > 0
    assert none == 0
    for answer, same in zip(got, twin, strict=True):
        assert np.abs(answer - same).max() < 1e-3 * size
    for i in (0, 2):
        assert np.abs(got[i] - golden["logits"]).max() < 1e-3 * size
