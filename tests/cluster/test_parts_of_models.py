"""What a node fetches of split sets and folders: of every file what its part is made of, and no more."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cluster.sources import source_of
from hf_folders import f32, write_folder
from hf_golden import FOLDERS, golden_config, golden_state, mxfp4_experts, packed
from motley.bundled import model_path
from motley.cluster.assignment import Assignment
from motley.cluster.kept import Kept
from motley.cluster.ranges import Range, total
from motley.cluster.weights import Layout, Served
from motley.engine.assign import assignments
from motley.engine.node import NodeRuntime
from motley.engine.parts import ranges_of
from motley.formats.checkpoint import open_checkpoint
from motley.formats.gguf_writer import write_gguf
from motley.formats.shape_of import role_of, shape_of
from motley.formats.tensor import Checkpoint, QuantTensor
from motley.lab.placement import LayerPlacement, Placement
from motley.models.loader import EXPERT_PARTS
from motley.ops.protocol import Batch
from motley.ops.reference import ReferenceOps
from motley.progress import silent
from unit.test_folder import CASES, quantised


def split(folder: Path) -> Path:
    """The bundled model in three files, cut in the middle of its layers."""
    folder.mkdir()
    source = open_checkpoint(model_path())
    tensors = [(t, t.data) for t in source.tensors.values()]
    cuts = [0, len(tensors) // 3, len(tensors) // 2, len(tensors)]
    for no, (first, end) in enumerate(pairwise(cuts)):
        keys = {"split.no": no, "split.count": 3, "split.tensors.count": len(tensors)}
        metadata = {**(source.metadata if no == 0 else {}), **keys}
        write_gguf(folder / f"a model-{no + 1:05}-of-00003.gguf", metadata, tensors[first:end])
    return folder / "a model-00001-of-00003.gguf"


def folder_of(family: str, n_files: int = 1) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        tensors = [(name, f32(values)) for name, values in golden_state(family).items()]
        shards = [dict(tensors[i::n_files]) for i in range(n_files)]
        return write_folder(folder, golden_config(family), *shards)

    return write


def packed_folder(folder: Path) -> Path:
    tensors = {name: f32(values) for name, values in packed(golden_state("qwen3moe")).items()}
    return write_folder(folder, golden_config("qwen3moe"), tensors)


def quantised_folder(family: str, case: str) -> Callable[[Path], Path]:
    how, quantization, _ = CASES[case]
    return lambda folder: write_folder(folder, golden_config(family) | quantization, quantised(family, how))


def mxfp4_folder(folder: Path) -> Path:
    return write_folder(folder, *mxfp4_experts())


MODELS: dict[str, Callable[[Path], Path]] = {
    "a file": lambda folder: model_path(),
    "a split set": split,
    **{family: folder_of(family) for family in FOLDERS},
    "several files": folder_of("qwen3moe", 3),
    "packed experts": packed_folder,
    "int4": quantised_folder("qwen3moe", "int4"),
    "fp8": quantised_folder("mixtral", "fp8"),
    "mxfp4": mxfp4_folder,
}


def copied(checkpoint: Checkpoint, store: Path, ranges: list[Range]) -> Path:
    """The model with nothing but these bytes and its headers."""
    served = Served.of(checkpoint)
    kept = Kept.open(store, checkpoint.hash, served.layout)
    for start, end in served.layout.pieces([*served.layout.identity(), *ranges]):
        file, at = served.layout.find(start, end)
        with (kept.folder / served.layout.files[file].name).open("r+b") as out:
            out.seek(at)
            out.write(served.piece(start, end))
    return kept.path


def parts_of(checkpoint: Checkpoint, told: Assignment) -> list[tuple[str, QuantTensor]]:
    """What the assignment says, tensor by tensor: the slow obvious way."""
    found = []
    for name, tensor in checkpoint.tensors.items():
        _, layer = role_of(name)
        if layer is None:
            continue
        part = name.removeprefix(f"blk.{layer}.").removesuffix(".weight")
        if part in EXPERT_PARTS:
            found += [(f"{name} {e}", tensor.part(e)) for e in told.experts.get(layer, ())]
        elif layer in told.home_layers and "_exps" not in part:
            found.append((name, tensor))
    return found


@pytest.mark.parametrize("model", MODELS)
def test_a_part_is_made_of_what_is_fetched_for_it(tmp_path: Path, model: str) -> None:
    """The last layer at home but for its experts, and one expert of all where there are some."""
    checkpoint = open_checkpoint(MODELS[model](tmp_path / "m"))
    shape = shape_of(checkpoint)
    last, n = shape.n_layers - 1, shape.n_experts
    told = Assignment("b", "m", checkpoint.hash, 16, 1, home_layers=(last,), experts={last: (1, n - 1)} if n else {})
    ranges = ranges_of(checkpoint, told, shape.n_layers)
    copy = open_checkpoint(copied(checkpoint, tmp_path / "store", ranges))
    assert copy.hash == checkpoint.hash
    right, ours = parts_of(checkpoint, told), dict(parts_of(copy, told))
    assert len(right) == len(ours) > 5
    for name, tensor in right:
        assert np.array_equal(ours[name].data, tensor.data), name
    size = Layout(Served.of(checkpoint).layout.files).size
    assert total(ranges) < size
    only = msgspec.structs.replace(told, home_layers=(), experts={last: (1,)} if n else {})
    if n and "_exps" in "".join(checkpoint.tensors):
        one = [t for name, t in checkpoint.tensors.items() if role_of(name)[1] == last and "_exps." in name]
        slices = sum(data.nbytes for t in one if t.name.endswith("weight") for data in t.sources(1))
        biases = sum(data.nbytes for t in one if t.name.endswith("bias") for data in t.sources())
        assert 0 < total(ranges_of(checkpoint, only, shape.n_layers)) <= slices + biases < size / 4


def test_what_is_brought_is_fetched_too(tmp_path: Path) -> None:
    """A home that computes a neighbour's experts at times has their bytes beside its own."""
    checkpoint = open_checkpoint(model_path())
    shape = shape_of(checkpoint)
    asks = Assignment(
        *("a", "m", checkpoint.hash, 16, 1),
        home_layers=(0,),
        experts={0: (0,)},
        elsewhere={0: {"b": (1, 3), "c": (2,)}},
        peers=dict.fromkeys("bc", ("h", 1)),
    )
    brings = msgspec.structs.replace(asks, streams={0: (64, 2, ("b",))})
    has_all = msgspec.structs.replace(asks, experts={0: (0, 1, 3)}, elsewhere={})
    few, more, most = (ranges_of(checkpoint, told, shape.n_layers) for told in (asks, brings, has_all))
    assert more == most
    assert total(more) == total(few) + 2 * shape.expert_bytes(0)


def logits(runtime: NodeRuntime) -> np.ndarray:
    whole = range(5)
    return runtime.stage(Batch([5, 9, 2, 77, 31], whole, [0] * 5, whole), None)[0]


@pytest.mark.parametrize("model", ["a split set", "several files", "packed experts", "int4", "mxfp4"])
def test_a_node_without_it_answers_as_one_with_it(tmp_path: Path, model: str) -> None:
    """All of it, over sockets, and then again from what is kept; a further node takes what it can from the first."""
    path = MODELS[model](tmp_path / "m")
    shape = shape_of(open_checkpoint(path))
    head = NodeRuntime("a", ReferenceOps(), lambda host, port: pytest.fail("the head asks nobody"))
    layers = (LayerPlacement("b", ("b",) * shape.n_experts),) * shape.n_layers
    links: dict[Any, Any] = {}
    first, further = (
        NodeRuntime("b", ReferenceOps(), lambda *at: links[at](), store=tmp_path / name) for name in ("1", "2")
    )
    with source_of(head) as a, source_of(first) as b:
        links |= {a.address: a.connect, b.address: b.connect}
        told = assignments(
            Placement(layers),
            model=str(path),
            file_hash=head.serve_file(str(path)),
            context=16,
            slots=1,
            addresses={"b": ("127.0.0.1", 1)},
            source=a.address,
        )["b"]
        head.load(told, silent)
        right = logits(head)
        away = msgspec.structs.replace(told, model="/nowhere/model", holders=(b.address,))
        said: list[str] = []
        first.load(msgspec.structs.replace(away, holders=()), lambda what, fraction: said.append(what))
        assert any(words.startswith("fetching: ") for words in said)
        np.testing.assert_array_equal(logits(first), right)
        said.clear()
        first.load(msgspec.structs.replace(away, epoch=1), lambda what, fraction: said.append(what))
        assert not any(words.startswith("fetching: ") for words in said)
        further.load(away, silent)
        np.testing.assert_array_equal(logits(further), right)
    for runtime in (head, first, further):
        runtime.close()
