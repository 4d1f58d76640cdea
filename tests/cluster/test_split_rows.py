"""The output matrix and layers' projections split by rows over devices: the bits of one device, prompts and decoding,
remembered steps too."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from in_process import three_devices
from motley.cluster import messages
from motley.cluster.assignment import Assignment
from motley.engine.assign import assignments
from motley.engine.local import LocalRunner
from motley.engine.parts import ranges_of
from motley.engine.placed import PlacedRunner, Site
from motley.errors import ClusterError, LinkError, UsageError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.lab import Device, Kernel, Lab, Link
from motley.lab.placement import LayerPlacement, Placement, RowsPart
from motley.models.rows import cuts
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch
from motley.plan.plan import Plan
from motley.plan.rows import ROWS, with_rows_split
from motley.plan.search import find_placement
from motley.plan.show import placement_json
from motley.predict.cost import CostModel
from motley.predict.explain import explain
from motley.predict.memory import kernels_of, memory_needed, packed_bytes
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
    return Placement(layers, tuple(RowsPart(*part) for part in parts))


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


def in_thirds(parts: str, n_rows: int) -> tuple[RowsPart, ...]:
    """The devices of `parts`, the first with more than its share, and no edge where a group or a head ends."""
    ends = [n_rows // len(parts) * (i + 1) + 5 for i in range(len(parts) - 1)] + [n_rows]
    return tuple(RowsPart(d, first, end) for d, first, end in zip(parts, [0, *ends], ends))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("homes", ["aa", "ab"])
def test_projections_in_rows_give_the_bits_of_one_device(tmp_path: Path, site: Site, family: str, homes: str) -> None:
    path = write_tiny(tmp_path, family, "q4_0")
    checkpoint = open_checkpoint(path)
    shape = shape_of(checkpoint)
    whole = LocalRunner(checkpoint, NativeOps(threads=1), n_slots=4, context=32)
    plain = placement(homes, (homes[1], 0, 200), ("c", 200, 320))
    split = []
    for i, layer in enumerate(plain.layers):
        projections = shape.projections(i)
        assert projections
        others = "".join(d for d in "abc" if d != layer.home)
        split.append(replace(layer, projections=in_thirds(layer.home + others[i:], projections.n_rows)))
    placed = PlacedRunner(str(path), replace(plain, layers=tuple(split)), site, n_slots=4, context=32)
    prompt = Batch([5, 6, 7, 8, 9], range(5), [1] * 5, [1, 4])
    np.testing.assert_array_equal(placed.step(prompt), whole.step(prompt))
    for i in range(12):  # the first is remembered, the next ones come from memory; later as two halves
        batch = Batch([20 + i, 9], [5 + i, i], [1, 0], [0, 1])
        np.testing.assert_array_equal(placed.step(batch), whole.step(batch))
    assert sum(x.count for x in placed.exchanges()) >= 3 * 13
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
        site.runtime.rows(None, np.ones((1, 64), np.float32))
    with pytest.raises(ClusterError, match="no rows of the projections of layer 1 are here"):
        site.runtime.rows(1, np.ones((1, 64), np.float32))
    placed.close()


@pytest.mark.parametrize("layer", [None, 0, 7])
def test_hostile_calls(layer: int | None) -> None:
    call = b"".join(bytes(p) for p in messages.rows_call(layer, np.ones((2, 3), np.float32)))
    assert messages.read_rows_call(memoryview(call)).layer == layer
    assert messages.read_rows_call(memoryview(call)).h.shape == (2, 3)
    for wrong in (call[:-1], call + b"\0", call[:7], b"\0" * 12, b"\xff" * len(call), b"\xfe" + b"\xff" * 3 + call[4:]):
        with pytest.raises(LinkError, match="malformed rows call"):
            messages.read_rows_call(memoryview(wrong))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"head_rows": (5, 5)}, "are none"),
        ({"head_elsewhere": {"b": (0, 5)}}, "no address"),
        ({"head_elsewhere": {"b": (9, 5)}, "peers": {"b": ("h", 1)}}, "are none"),
        ({"projections": {0: (5, 5)}}, "are none"),
        ({"projections": {-1: (0, 5)}}, "must ascend"),
        ({"projections_elsewhere": {0: {"b": (0, 5)}}, "projections": {0: (5, 9)}}, "whose home is not here"),
        ({"projections_elsewhere": {0: {"b": (5, 9)}}, "projections": {0: (0, 5)}, "home_layers": (0,)}, "no address"),
        ({"projections_elsewhere": {0: {"b": (6, 9)}}, "projections": {0: (0, 5)}, "home_layers": (0,)}, "must follow"),
        ({"projections_elsewhere": {0: {"b": (0, 9)}}, "home_layers": (0,)}, "some of them here"),
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


def lab(rtt_us: float = 30.0, gb_s: float = 2.0) -> Lab:
    def device(name: str, reads: float) -> Device:
        return Device(name, name, "cpu", 1 << 40, 1, reads, int8_gops=500.0, f32_gflops=100.0, op_overhead_us=2.0)

    return Lab((device("x", 20.0), device("y", 10.0)), (Link("x", "y", "tcp", rtt_us, gb_s),))


@cache
def planned(there: Lab, name: str = "olmoe-1b-7b", objective: str | None = None) -> Plan:
    shape = ModelShape.named(name, quant="q4_0")
    options = {"split_rows": True, "copies": True, "objective": objective}
    found = find_placement(shape, there, Workload(), None, 512, 1, "x", ["x"], **options)  # type: ignore[arg-type]
    again = predict(shape, there, found.placement, Workload(), head="x")
    assert objective or again.ms_per_step == pytest.approx(found.prediction.ms_per_step)
    told = explain(shape, there, found.placement, Workload(), head="x")
    assert sum(line.ms for line in told.lines) == pytest.approx(again.ms_per_step)
    return found


def test_the_planner_splits_where_it_pays() -> None:
    plan = planned(lab())
    assert sum("split by rows" in reason for reason in plan.reason) == 2
    for parts in (plan.placement.head, *(layer.projections for layer in plan.placement.layers)):
        assert [part.device for part in parts] == ["x", "y"]
        assert parts[0].end - parts[0].first > parts[1].end - parts[1].first  # x reads twice as fast
        assert parts[0].end % ROWS == 0
    assert '"projections": [{"device": "x", "first": 0' in json.dumps(placement_json(plan.placement))


def test_a_slow_link_leaves_all_whole() -> None:
    found = planned(lab(rtt_us=20_000)).placement
    assert found.head == ()
    assert not any(layer.projections for layer in found.layers)


def test_a_link_may_be_fast_enough_for_the_head_alone() -> None:
    """The head is asked once a step, and is as large as the projections of six layers."""
    found = planned(lab(rtt_us=600)).placement
    assert found.head
    assert not any(layer.projections for layer in found.layers)


def test_a_thin_link_leaves_prompts_projections_at_home() -> None:
    """There and back goes more of a prompt than one device takes to multiply: decoding gains, the prompt would lose."""
    thin = lab(gb_s=0.12)
    assert planned(thin).placement.layers[0].projections
    assert not planned(thin, objective="ttft").placement.layers[0].projections


def test_latent_attention_stays_whole() -> None:
    assert not any(layer.projections for layer in planned(lab(), "deepseek-v2-lite").placement.layers)


@pytest.mark.parametrize("room_mb", [0, 40])
def test_memory_bounds_the_rows_elsewhere(room_mb: int) -> None:
    shape = ModelShape.named("olmoe-1b-7b", quant="q4_0")
    plain = planned(lab()).placement
    bare = replace(plain, head=(), layers=tuple(replace(layer, projections=()) for layer in plain.layers))
    room = memory_needed(shape, bare, 512)["y"].total + (room_mb << 20)
    small = Lab(tuple(replace(d, memory_bytes=room) if d.name == "y" else d for d in lab().devices), lab().links)
    split = with_rows_split([(CostModel(shape, small, Workload(), head="x"), 1.0)], bare, 512, 1)
    assert memory_needed(shape, split, 512)["y"].total <= room
    assert (split == bare) == (room_mb == 0)


@pytest.mark.parametrize("kind", ["cpu", "mlx"])
def test_memory_is_of_the_weights_as_they_are_kept(kind: str) -> None:
    """Q6_K takes more in MLX's layout than in the file."""
    shape = ModelShape.named("olmoe-1b-7b", quant="q6_k")
    plain = planned(lab()).placement
    bare = replace(plain, head=(), layers=tuple(replace(layer, projections=()) for layer in plain.layers))
    kernels = tuple(Kernel(quant, 600.0, ((2**13, 10.0),)) for quant in ("q6_k", "f32"))
    x, y = (replace(device, kernels=kernels) for device in lab().devices)
    y = replace(y, kind=kind)

    def kept(placement: Placement) -> int:
        need = memory_needed(shape, placement, 512)["y"]
        return need.total - need.weights + packed_bytes(shape, need.weights, kernels_of(y))

    room = kept(bare) + (40 << 20)
    small = Lab((x, replace(y, memory_bytes=room)), lab().links)
    split = with_rows_split([(CostModel(shape, small, Workload(), head="x"), 1.0)], bare, 512, 1)
    assert split != bare
    assert kept(split) <= room


@pytest.mark.parametrize("what", ["head", "projections"])
def test_memory_counts_the_rows_where_they_are(what: str) -> None:
    shape = ModelShape.named("olmoe-1b-7b", quant="q4_0")
    split = planned(lab()).placement
    bare = tuple(replace(layer, projections=()) for layer in split.layers)
    whole = replace(split, head=()) if what == "head" else replace(split, layers=bare)
    a, b = (memory_needed(shape, p, 512) for p in (split, whole))
    moved = b["x"].weights - a["x"].weights
    assert moved == pytest.approx(a["y"].weights - b["y"].weights, abs=2)
    every = [shape.projections(i) for i in range(shape.n_layers)]
    assert 0 < moved < (shape.head_bytes if what == "head" else sum(p.n_bytes for p in every if p))


def test_only_the_rows_that_are_here_are_fetched(tmp_path: Path) -> None:
    path = write_tiny(tmp_path, "olmoe", "q4_0")
    file, shape = (found := open_checkpoint(path)), shape_of(found)
    row = file.tensors["blk.0.attn_q.weight"].n_bytes // 256
    assert [file.tensors[f"blk.0.attn_{x}.weight"].dims[0] for x in "qkv"] == [256] * 3
    alone = LayerPlacement("a", ("a",) * E)
    layers = (
        replace(alone, projections=(RowsPart("a", 0, 200), RowsPart("b", 200, 600), RowsPart("c", 600, 768))),
        alone,
    )
    bytes_of = {}
    for name, of in (("split", layers), ("whole", (alone, alone))):
        addresses = dict.fromkeys("abc", ("h", 1))
        told = assignments(Placement(of), model="m", file_hash="x", context=1, slots=1, addresses=addresses)
        bytes_of[name] = {d: sum(end - at for at, end in ranges_of(file, a, shape.n_layers)) for d, a in told.items()}
    assert bytes_of["split"]["a"] == bytes_of["whole"]["a"] - 568 * row
    assert (bytes_of["split"]["b"], bytes_of["split"]["c"]) == (400 * row, 168 * row)


@pytest.mark.parametrize("what", ["head", "projections"])
@pytest.mark.parametrize(
    "parts",
    [
        [("x", 0, 10), ("y", 11, None)],
        [("y", 0, 10), ("x", 10, None)],
        [("x", 0, 10), ("y", 10, 6000)],
        [("x", 0, 10), ("x", 10, None)],
        [("x", 0, 10), ("z", 10, None)],
    ],
)
def test_parts_that_do_not_fit_are_refused(what: str, parts: list[tuple[str, int, int | None]]) -> None:
    shape = ModelShape.named("olmoe-1b-7b", quant="q4_0")
    wrong, n_rows = planned(lab()).placement, shape.vocab_size if what == "head" else 6144
    rows = tuple(RowsPart(device, first, end or n_rows) for device, first, end in parts)
    first = replace(wrong.layers[0], projections=rows)
    wrong = replace(wrong, head=rows) if what == "head" else replace(wrong, layers=(first, *wrong.layers[1:]))
    with pytest.raises(UsageError, match=what):
        predict(shape, lab(), wrong, Workload(), head="x")


def test_projections_of_latent_attention_are_refused() -> None:
    shape = ModelShape.named("deepseek-v2-lite", quant="q4_0")
    layers = [LayerPlacement("x", ("x",) * shape.experts_in(i)) for i in range(shape.n_layers)]
    layers[1] = replace(layers[1], projections=(RowsPart("x", 0, 10), RowsPart("y", 10, 20)))
    with pytest.raises(UsageError, match="no q, k and v"):
        predict(shape, lab(), Placement(tuple(layers)), Workload())


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (range(0, 12), [(0, 0, 6), (1, 0, 2), (2, 0, 4)]),
        (range(0, 6), [(0, 0, 6)]),
        (range(5, 9), [(0, 5, 6), (1, 0, 2), (2, 0, 1)]),
        (range(8, 12), [(2, 0, 4)]),
    ],
)
def test_rows_are_counted_from_one_matrix_to_the_next(rows: range, found: list[tuple[int, int, int]]) -> None:
    assert list(cuts((6, 2, 4), rows)) == found
