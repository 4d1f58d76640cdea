"""Each family split over devices: the logits are those of one device, for layers and experts split evenly and unevenly,
in whole prompts, chunks, and remembered single steps."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from in_process import three_devices
from motley.engine.local import LocalRunner
from motley.engine.placed import PlacedRunner, Site
from motley.engine.runner import Runner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.placement import LayerPlacement, Placement
from motley.models.registry import FAMILIES
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch
from motley.shape.attrs import RUNS
from motley.shape.model import ModelShape

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
FILES = sorted(path.stem for path in GOLDEN.glob("*.gguf"))
CONTEXT = 64


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with three_devices(lambda name: NativeOps(threads=1, kv="f32")) as devices:
        yield devices


def evenly(shape: ModelShape) -> Placement:
    """Layers by halves; experts by turns."""
    half = shape.n_layers / 2
    return Placement(
        tuple(
            LayerPlacement("a" if i < half else "b", tuple("ab"[e % 2] for e in range(shape.experts_in(i))))
            for i in range(shape.n_layers)
        )
    )


def unevenly(shape: ModelShape) -> Placement:
    """The last layer apart, and five of eight experts on a device without layers."""
    return Placement(
        tuple(
            LayerPlacement(
                "b" if i == shape.n_layers - 1 else "a", tuple("ccbcaccb"[e % 8] for e in range(shape.experts_in(i)))
            )
            for i in range(shape.n_layers)
        )
    )


def logits_of(runner: Runner, tokens: list[int]) -> np.ndarray:
    """Twenty tokens at once, seven, the rest one by one: float32 [tokens, V]."""
    cuts = [0, 20, 27, *range(28, len(tokens) + 1)]
    parts = []
    for first, end in pairwise(cuts):
        batch = Batch(tokens[first:end], range(first, end), [1] * (end - first), range(end - first))
        parts.append(np.array(runner.step(batch)))
    return np.concatenate(parts)


@pytest.mark.parametrize("family", FILES)
@pytest.mark.parametrize("placement", [evenly, unevenly])
def test_split_agrees_with_whole(site: Site, family: str, placement: object) -> None:
    path = GOLDEN / f"{family}.gguf"
    golden = np.load(GOLDEN / f"{family}.npz")
    tokens = golden["prompt"].tolist()
    whole = LocalRunner(open_checkpoint(path), NativeOps(threads=2, kv="f32"), n_slots=2, context=CONTEXT)
    want = logits_of(whole, tokens)
    whole.close()
    assert np.abs(want - golden["logits"]).max() < 1e-4 * np.abs(golden["logits"]).max()
    split = PlacedRunner(str(path), placement(shape_of(open_checkpoint(path))), site, n_slots=2, context=CONTEXT)  # type: ignore[operator]
    got = logits_of(split, tokens)
    split.close()
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("family", ["llama", "gpt-oss", "deepseek2-v3", "qwen3next"])
def test_split_agrees_with_whole_where_the_cache_is_q8_0(site: Site, family: str) -> None:
    path = GOLDEN / f"{family}.gguf"
    golden = np.load(GOLDEN / f"{family}.npz")
    tokens = golden["prompt"].tolist()
    whole = LocalRunner(open_checkpoint(path), NativeOps(threads=2), n_slots=2, context=CONTEXT, cache="q8_0")
    want = logits_of(whole, tokens)
    whole.close()
    typical = np.median(np.abs(want - golden["logits"])) / np.abs(golden["logits"]).max()
    assert 1e-5 < typical < 0.01  # it is rounded, which makes a few tokens choose other experts
    shape = shape_of(open_checkpoint(path))
    split = PlacedRunner(str(path), unevenly(shape), site, n_slots=2, context=CONTEXT, cache="q8_0")
    got = logits_of(split, tokens)
    split.close()
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


def test_what_is_said_to_run_has_a_family() -> None:
    assert set(FAMILIES) == RUNS
