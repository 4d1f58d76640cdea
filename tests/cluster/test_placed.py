"""A placed model answers what one device answers, over real sockets: experts apart from attention, layers split, and
mixtures of both, evenly and unevenly."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from in_process import three_devices
from motley.cluster.assignment import Assignment
from motley.cluster.remote import RemoteExperts, RemoteLoad, RemoteStage, ask
from motley.engine.local import LocalRunner
from motley.engine.placed import PlacedRunner, Site
from motley.errors import CapacityError, ClusterError, UsageError
from motley.formats.checkpoint import open_checkpoint
from motley.lab.placement import LayerPlacement, Placement
from motley.ops.protocol import Batch
from motley.ops.reference import ReferenceOps

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
E, LAYERS = 8, 3


@pytest.fixture
def site() -> Iterator[Site]:
    with three_devices(lambda name: ReferenceOps()) as devices:
        yield devices


def placement(homes: str, owner: Callable[[int, int], str]) -> Placement:
    return Placement(tuple(LayerPlacement(home, tuple(owner(i, e) for e in range(E))) for i, home in enumerate(homes)))


PLACEMENTS = {
    "experts apart": placement("aaa", lambda layer, e: "b"),
    "experts shared unevenly": placement("aaa", lambda layer, e: "abbcbbcc"[e]),
    "layers split": placement("abb", lambda layer, e: "abb"[layer]),
    "layers away from the head": placement("bbc", lambda layer, e: "bbc"[layer]),
    "mixture": placement("aab", lambda layer, e: "abc"[(layer + e) % 3]),
    "experts of another home on the head": placement("abc", lambda layer, e: "cab"[(layer * e) % 3]),
}


@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize("family", ["olmoe", "qwen3moe", "mixtral"])
def test_placed_equals_one_device(site: Site, family: str, name: str) -> None:
    path = GOLDEN / f"{family}.gguf"
    prompt = np.load(GOLDEN / f"{family}.npz")["prompt"]
    whole = LocalRunner(open_checkpoint(path), ReferenceOps(), n_slots=2, context=64)
    placed = PlacedRunner(str(path), PLACEMENTS[name], site, n_slots=2, context=64)
    for first, last in [(0, 11), (11, 12), (12, 37)]:
        n = last - first
        batch = Batch(prompt[first:last], range(first, last), [1] * n, range(n))
        a, b = whole.step(batch), placed.step(batch)
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()
    assert (placed.routes() == whole.routes()).all()
    assert placed.routes().sum() == 37 * 3 * LAYERS
    assert {x.transport for x in placed.exchanges()} == {"tcp"}
    assert all(0 < x.work_seconds < x.seconds for x in placed.exchanges())
    placed.close()


def test_experts_that_are_not_there_are_refused_in_words(site: Site) -> None:
    placed = PlacedRunner(str(GOLDEN / "olmoe.gguf"), PLACEMENTS["layers split"], site, context=64)
    link = site.connect(*site.addresses["b"])
    experts = RemoteExperts(link)
    x = np.zeros((1, 32), np.float32)
    experts.start(0, x, np.zeros((1, 2), np.int32), np.zeros((1, 2), np.float32))
    with pytest.raises(ClusterError, match=r"b: no experts of layer 0 are here \(layers: 1, 2\)"):
        experts.finish()
    link.close()
    placed.close()


def test_scattered_home_layers_are_refused(site: Site) -> None:
    with pytest.raises(UsageError, match="contiguous"):
        PlacedRunner(str(GOLDEN / "olmoe.gguf"), placement("aba", lambda layer, e: "a"), site)


def test_a_part_too_large_for_its_node_is_refused_before_loading(site: Site) -> None:
    site.runtime._memory_bytes = 96 << 20
    with pytest.raises(CapacityError, match=r"needs 10\d MB"):
        PlacedRunner(str(GOLDEN / "olmoe.gguf"), PLACEMENTS["experts apart"], site, context=64)
    link = site.connect(*site.addresses["b"])
    with pytest.raises(ClusterError, match="no model is loaded"):  # b had room, but its part is of no use now
        ask(link, "routes")
    link.close()


def test_a_load_that_was_replaced_is_not_served(site: Site) -> None:
    """What a process that had stopped finds in its sockets when it goes on: an old step, and an old load."""
    path, split = str(GOLDEN / "olmoe.gguf"), PLACEMENTS["layers split"]
    old = PlacedRunner(path, split, site, context=64)
    new = PlacedRunner(path, split, site, context=64)
    stage = RemoteStage(old._links["b"])
    stage.start(Batch([1], [0], [0], [0]), np.zeros((1, 32), np.float32))
    with pytest.raises(ClusterError, match="b: this call was meant for a load that was replaced"):
        stage.finish()
    load = RemoteLoad(old._links["b"])
    load.start(Assignment("b", path, "", context=64, slots=1, epoch=1))
    with pytest.raises(ClusterError, match="b: a newer load came before this one"):
        load.finish()
    assert new.step(Batch([1], [0], [0], [0])).shape[0] == 1
    new.close()
    old.close()
