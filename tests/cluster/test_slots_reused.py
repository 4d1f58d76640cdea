"""A slot that is taken up again gives the same bits as one that begins anew: each kind of layer, whole and placed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from in_process import three_devices
from motley.engine.engine import Engine, Stream
from motley.engine.local import LocalRunner
from motley.engine.placed import PlacedRunner, Site
from motley.engine.reuse import Reuse
from motley.engine.runner import Runner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.placement import LayerPlacement, Placement
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
CONTEXT = 700


class Recorded:
    """A runner whose logits are kept."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self.rows = runner, list[np.ndarray]()
        self.n_slots, self.context, self.reuse = runner.n_slots, runner.context, runner.reuse
        self.times, self.routes, self.exchanges = runner.times, runner.routes, runner.exchanges

    def step(self, batch: Batch) -> np.ndarray:
        logits = self._runner.step(batch)
        self.rows += [row.view(np.uint32).copy() for row in logits]
        return logits


def ran(engine: Engine, prompt: list[int], n: int) -> tuple[Stream, list[np.ndarray]]:
    assert isinstance(engine.runner, Recorded)
    engine.runner.rows = []
    stream = engine.submit(prompt, n)
    while engine.busy:
        engine.step()
    return stream, engine.runner.rows


def conversation(runner: Runner, long: int) -> list[int]:
    """Three turns, each held against the same prompt in a slot that begins anew: how many tokens each one reused."""
    text = np.random.default_rng(5).integers(3, 90, long).tolist()
    engine = Engine(Recorded(runner))
    first, _ = ran(engine, text, 12)
    everything = first.prompt + first.answer
    reused = []
    for prompt in ([*everything, 7, 8, 9], [*everything, 7, 8, 4, 4, 4], [*everything[: long - 60], 5, 6]):
        stream, rows = ran(engine, prompt, 5)
        anew, want = ran(Engine(Recorded(runner)), prompt, 5)
        assert (anew.reused, anew.answer) == (0, stream.answer)
        np.testing.assert_array_equal(rows, want)
        reused.append(stream.reused)
        engine = Engine(Recorded(runner))  # the other one wrote into its slots
        ran(engine, text, 12)
    return reused


LONG = 420  # beyond the windows and the 256 positions that are kept beside them
# The second turn differs from the first in its last tokens, the third from 60 tokens before the first answer on.
FAMILIES = {
    "llama": (431, 431, 360),
    "deepseek2-lite": (431, 431, 360),
    "gpt-oss": (431, 431, 360),
    "gemma4": (431, 431, 360),
    "llama4": (431, 431, 360),
    "qwen3next": (431, 431, 0),
    "qwen35moe": (431, 431, 0),
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with three_devices(lambda name: NativeOps(threads=1)) as devices:
        yield devices


@pytest.mark.parametrize("family", FAMILIES)
def test_on_one_device(family: str) -> None:
    runner = LocalRunner(open_checkpoint(GOLDEN / f"{family}.gguf"), NativeOps(threads=1), n_slots=1, context=CONTEXT)
    assert tuple(conversation(runner, LONG)) == FAMILIES[family]
    runner.close()


@pytest.mark.parametrize("family", ["llama", "gpt-oss", "qwen3next"])
def test_over_two_devices(site: Site, family: str) -> None:
    path = GOLDEN / f"{family}.gguf"
    shape = shape_of(open_checkpoint(path))
    layers = tuple(
        LayerPlacement("ab"[i * 2 // shape.n_layers], tuple("ba"[e % 2] for e in range(shape.experts_in(i))))
        for i in range(shape.n_layers)
    )
    runner = PlacedRunner(str(path), Placement(layers), site, n_slots=1, context=CONTEXT)
    assert tuple(conversation(runner, LONG)) == FAMILIES[family]
    runner.close()


def test_what_a_window_left_behind_is_not_reused() -> None:
    runner = LocalRunner(open_checkpoint(GOLDEN / "gpt-oss.gguf"), NativeOps(threads=1), n_slots=1, context=CONTEXT)
    assert runner.reuse.window + runner.reuse.rewind < 400
    engine = Engine(Recorded(runner))
    first, _ = ran(engine, list(range(3, 93)) * 6, 4)
    second, rows = ran(engine, first.prompt[:100], 4)
    anew, want = ran(Engine(Recorded(runner)), first.prompt[:100], 4)
    assert (second.reused, second.answer) == (0, anew.answer)
    np.testing.assert_array_equal(rows, want)
    runner.close()


def test_each_device_says_what_its_layers_keep(site: Site) -> None:
    path = GOLDEN / "gpt-oss.gguf"
    shape = shape_of(open_checkpoint(path))
    apart = Placement(tuple(LayerPlacement("ab"[i % 2], ("c",) * shape.experts_in(i)) for i in range(2)))
    runner = PlacedRunner(str(path), apart, site, n_slots=1, context=CONTEXT)
    assert runner.reuse == Reuse.of(shape.mixers, 256)
    runner.close()
