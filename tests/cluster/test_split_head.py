"""The output matrix split by rows over devices: the bits of one device, prompts and decoding, remembered steps too."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from in_process import three_devices
from motley.cluster import messages
from motley.cluster.assignment import Assignment
from motley.engine.assign import assignments
from motley.engine.local import LocalRunner
from motley.engine.placed import PlacedRunner, Site
from motley.errors import ClusterError, LinkError, UsageError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.lab import Device, Lab, Link
from motley.lab.placement import HeadPart, LayerPlacement, Placement
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch
from motley.plan.search import find_placement
from motley.predict.memory import memory_needed
from motley.predict.predict import predict
from motley.predict.workload import Workload
from motley.shape.model import ModelShape
from tiny_models import FAMILIES, write_tiny

E, LAYERS = 6, 2


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with three_devices(lambda name: NativeOps(threads=1)) as devices:
        yield devices


def placement(homes: str, *parts: tuple[str, int, int]) -> Placement:
    layers = tuple(LayerPlacement(home, tuple("abc"[e % 3] for e in range(E))) for home in homes)
    return Placement(layers, tuple(HeadPart(*part) for part in parts))


SPLITS = {
    "evenly": [("a", 0, 160), ("b", 160, 320)],
    "unevenly, rows of no group": [("a", 0, 301), ("b", 301, 318), ("c", 318, 320)],
    "little at home": [("a", 0, 1), ("c", 1, 320)],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("quant", ["q4_k", "f32"])
def test_bits_are_those_of_one_device(tmp_path: Path, site: Site, family: str, name: str, quant: str) -> None:
    path = write_tiny(tmp_path, family, quant)
    checkpoint = open_checkpoint(path)
    shape = shape_of(checkpoint)
    assert (shape.vocab_size, shape.n_layers, shape.n_experts) == (320, LAYERS, E)
    whole = LocalRunner(checkpoint, NativeOps(threads=1), n_slots=2, context=32)
    placed = PlacedRunner(str(path), placement("aa", *SPLITS[name]), site, n_slots=2, context=32)
    prompt = Batch([5, 6, 7, 8, 9], range(5), [1] * 5, [1, 4])
    np.testing.assert_array_equal(placed.step(prompt), whole.step(prompt))
    for i in range(4):  # the first is remembered, the next ones come from memory
        batch = Batch([20 + i], [5 + i], [1], [0])
        np.testing.assert_array_equal(placed.step(batch), whole.step(batch))
    assert (placed.routes() == whole.routes()).all()
    placed.close()
    whole.close()


def test_head_away_from_the_head_process(tmp_path: Path, site: Site) -> None:
    """The last home is b, which asks a and c."""
    path = write_tiny(tmp_path, "olmoe", "q8_0")
    whole = LocalRunner(open_checkpoint(path), NativeOps(threads=1), context=16)
    placed = PlacedRunner(str(path), placement("ab", ("b", 0, 100), ("a", 100, 200), ("c", 200, 320)), site, context=16)
    for i in range(3):
        batch = Batch([9 + i], [i], [0], [0])
        np.testing.assert_array_equal(placed.step(batch), whole.step(batch))
    placed.close()
    whole.close()


def test_rows_that_are_not_there_are_refused_in_words(tmp_path: Path, site: Site) -> None:
    path = write_tiny(tmp_path, "olmoe", "q8_0")
    placed = PlacedRunner(str(path), placement("aa"), site, context=16)
    with pytest.raises(ClusterError, match="no rows of the head are here"):
        site.runtime.head(np.ones((1, 64), np.float32))
    placed.close()


def test_hostile_head_calls() -> None:
    call = b"".join(bytes(p) for p in messages.head_call(np.ones((2, 3), np.float32)))
    assert messages.read_head_call(memoryview(call)).shape == (2, 3)
    for wrong in (call[:-1], call + b"\0", call[:7], b"\0" * 8, b"\xff" * len(call)):
        with pytest.raises(LinkError, match="malformed head call"):
            messages.read_head_call(memoryview(wrong))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"head_rows": (5, 5)}, "are none"),
        ({"head_elsewhere": {"b": (0, 5)}}, "no address"),
        ({"head_elsewhere": {"b": (9, 5)}, "peers": {"b": ("h", 1)}}, "are none"),
    ],
)
def test_impossible_assignments(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Assignment("a", "m", "h", 1, 1, **fields)  # type: ignore[arg-type]


def test_everybody_is_told_their_rows() -> None:
    split = placement("ab", ("b", 0, 100), ("a", 100, 200), ("c", 200, 320))
    addresses = dict.fromkeys("abc", ("h", 1))
    told = assignments(split, model="m", file_hash="x", context=1, slots=1, addresses=addresses)
    assert {name: a.head_rows for name, a in told.items()} == {"a": (100, 200), "b": (0, 100), "c": (200, 320)}
    assert {name: a.head_elsewhere for name, a in told.items()} == {
        "a": {},
        "b": {"a": (100, 200), "c": (200, 320)},
        "c": {},
    }


def lab(memory: int = 1 << 40, rtt_us: float = 30.0) -> Lab:
    def device(name: str, gb_s: float) -> Device:
        return Device(name, name, "cpu", memory, 1, gb_s, int8_gops=500.0, f32_gflops=100.0, op_overhead_us=2.0)

    return Lab((device("x", 20.0), device("y", 10.0)), (Link("x", "y", "tcp", rtt_us, 2.0),))


def planned(there: Lab) -> Placement:
    shape = ModelShape.named("olmoe-1b-7b", quant="q4_0")
    found = find_placement(shape, there, Workload(), None, 512, 1, "x", ["x"], split_head=True, copies=True)
    again = predict(shape, there, found.placement, Workload(), head="x")
    assert again.ms_per_step == pytest.approx(found.prediction.ms_per_step)
    return found.placement


def test_the_planner_splits_where_it_pays() -> None:
    found = planned(lab())
    assert [part.device for part in found.head] == ["x", "y"]
    assert found.head[0].end - found.head[0].first > found.head[1].end - found.head[1].first  # x reads twice as fast


def test_a_slow_link_leaves_it_whole() -> None:
    assert planned(lab(rtt_us=20_000)).head == ()


def test_memory_counts_the_rows_where_they_are() -> None:
    shape = ModelShape.named("olmoe-1b-7b", quant="q4_0")
    split = planned(lab())
    whole = replace(split, head=())
    a, b = (memory_needed(shape, p, 512) for p in (split, whole))
    moved = b["x"].weights - a["x"].weights
    assert moved == pytest.approx(a["y"].weights - b["y"].weights, abs=2)
    assert 0 < moved < shape.head_bytes


@pytest.mark.parametrize(
    "parts",
    [
        [("x", 0, 10), ("y", 11, 50304)],
        [("y", 0, 10), ("x", 10, 50304)],
        [("x", 0, 10), ("y", 10, 50000)],
        [("x", 0, 10), ("x", 10, 50304)],
        [("x", 0, 10), ("z", 10, 50304)],
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: list[tuple[str, int, int]]) -> None:
    shape = ModelShape.named("olmoe-1b-7b", quant="q4_0")
    wrong = replace(planned(lab()), head=tuple(HeadPart(*part) for part in parts))
    with pytest.raises(UsageError, match=r"head|part"):
        predict(shape, lab(), wrong, Workload(), head="x")
