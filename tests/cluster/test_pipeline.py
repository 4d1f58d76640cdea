"""Long prompts over split layers, in chunks that are under way at the same time: the bits of one device."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from in_process import three_devices
from motley.engine import pipeline
from motley.engine.local import LocalRunner
from motley.engine.placed import PlacedRunner, Site
from motley.formats.checkpoint import open_checkpoint
from motley.lab.placement import LayerPlacement, Placement, RowsPart
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch
from tiny_models import write_tiny

N = 301


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with three_devices(lambda name: NativeOps(threads=1)) as devices:
        yield devices


def split(homes: str, experts: str, *parts: tuple[str, int, int]) -> Placement:
    layers = tuple(LayerPlacement(home, tuple(experts[e % len(experts)] for e in range(6))) for home in homes)
    return Placement(layers, tuple(RowsPart(*part) for part in parts))


PLACEMENTS = {
    "here and there": split("ab", "ab"),
    "both elsewhere": split("bc", "abc"),
    "with a head in rows": split("ab", "c", ("b", 0, 100), ("a", 100, 320)),
}


@pytest.mark.parametrize("name", PLACEMENTS)
def test_bits_are_those_of_one_device(tmp_path: Path, site: Site, name: str) -> None:
    path = write_tiny(tmp_path, "olmoe", "q4_k")
    whole = LocalRunner(open_checkpoint(path), NativeOps(threads=1), n_slots=3, context=320)
    placed = PlacedRunner(str(path), PLACEMENTS[name], site, n_slots=3, context=320)
    tokens = np.random.default_rng(3).integers(0, 320, N)
    some_rows = [N - 1, 0, 64, 63, 200, 5]  # in no order, and none of some chunks
    for rows in (some_rows, [N - 1], []):
        batch = Batch(tokens, range(N), [1] * N, rows)
        np.testing.assert_array_equal(placed.step(batch), whole.step(batch))
    two = Batch(tokens[:200], [*range(150), *range(50)], [0] * 150 + [2] * 50, [149, 199])  # two sequences
    np.testing.assert_array_equal(placed.step(two), whole.step(two))
    after = Batch([7], [N], [1], [0])
    np.testing.assert_array_equal(placed.step(after), whole.step(after))
    assert (placed.routes() == whole.routes()).all()
    assert all(seconds >= 0 for part, seconds in placed.times().parts().items() if part != "python")
    placed.close()
    whole.close()


@pytest.mark.parametrize("n", [1, 127, 128, 129, 512, 1000])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_chunks_cover_a_batch_once(n: int, stages: int) -> None:
    rows = list(range(0, n, 7))
    chunks = pipeline.chunks_of(Batch(range(n), range(n), [0] * n, rows), stages)
    assert np.concatenate([chunk.tokens for chunk in chunks]).tolist() == list(range(n))
    assert np.concatenate([chunk.tokens[chunk.rows] for chunk in chunks]).tolist() == rows
    assert (len(chunks) > 1) == (stages > 1 and n >= 2 * pipeline.LEAST)


class Slow:
    """A stage that adds 1, and notes what is under way when."""

    def __init__(self, here: bool, under_way: list[int]) -> None:
        self.here, self.under_way = here, under_way
        self.most = 0

    def start(self, batch: Batch, x: np.ndarray | None) -> None:
        self.given = batch.tokens[:, None].astype(np.float32) if x is None else x
        self.under_way.append(1)
        self.most = max(self.most, len(self.under_way))

    def finish(self) -> np.ndarray:
        self.under_way.pop()
        return self.given + 1


def test_all_stages_are_under_way_at_once() -> None:
    under_way: list[int] = []
    stages = [Slow(True, under_way), Slow(False, under_way), Slow(False, under_way)]
    batch = Batch(range(512), range(512), [0] * 512, range(512))
    logits = pipeline.run(stages, batch, pipeline.chunks_of(batch, 3))
    np.testing.assert_array_equal(logits[:, 0], np.arange(512) + 3)
    assert max(stage.most for stage in stages) == 3
