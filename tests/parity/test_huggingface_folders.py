"""The golden models as Hugging Face directories: the same logits as from GGUF, which are transformers' own."""

from pathlib import Path

import numpy as np
import pytest

import motley
from hf_folders import GOLDEN, bf16, f32, golden_config, golden_state, write_folder
from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.tensor import AssembledTensor
from motley.ops.protocol import Batch
from motley.ops.reference import ReferenceOps
from motley.shape.quant import Quant

FAMILIES = ["olmoe", "qwen3moe", "mixtral"]


def folder_of(tmp_path: Path, family: str, packed: bool = False) -> Path:
    state = golden_state(family, packed)
    names = list(state)
    halves = [{name: f32(state[name]) for name in half} for half in (names[::2], names[1::2])]
    return write_folder(tmp_path / family, golden_config(family), *halves)


@pytest.mark.parametrize(("family", "packed"), [*((f, False) for f in FAMILIES), ("qwen3moe", True), ("mixtral", True)])
def test_logits_equal_transformers(tmp_path: Path, family: str, packed: bool) -> None:
    golden = np.load(GOLDEN / f"{family}.npz")
    folder = folder_of(tmp_path, family, packed)
    whole = range(len(golden["prompt"]))
    runner = LocalRunner(open_checkpoint(folder), ReferenceOps(), context=64)
    logits = runner.step(Batch(golden["prompt"], whole, [0] * len(whole), whole))
    assert np.abs(logits - golden["logits"]).max() / np.abs(golden["logits"]).max() < 1e-4
    with motley.load(folder, threads=1, context=64) as model:
        native = model.logits(golden["prompt"].tolist())
        answer = list(model.generate(golden["prompt"].tolist(), 16))
    assert np.abs(native - golden["logits"]).max() / np.abs(golden["logits"]).max() < 2e-3  # keys and values are f16
    assert answer == golden["ids"].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_and_metadata_equal_the_gguf(tmp_path: Path, family: str) -> None:
    """As llama.cpp's converter made of the checkpoint, but for the matrices' float16."""
    ours, gguf = open_checkpoint(folder_of(tmp_path, family)), open_checkpoint(GOLDEN / f"{family}.gguf")
    assert sorted(ours.tensors) == sorted(gguf.tensors)
    for name, tensor in gguf.tensors.items():
        assert ours.tensors[name].dims == tensor.dims
        assert np.array_equal(ours.tensors[name].decode(), tensor.decode()), name
    for key, value in gguf.metadata.items():
        assert not key.startswith(f"{gguf.architecture}.") or ours.metadata[key] == pytest.approx(value), key
    assert shape_of(ours).n_params == shape_of(gguf).n_params


def test_bfloat16_stays_and_one_expert_is_read_alone(tmp_path: Path) -> None:
    state = golden_state("qwen3moe")
    folder = write_folder(tmp_path / "bf16", golden_config("qwen3moe"), {n: bf16(v) for n, v in state.items()})
    tensors = open_checkpoint(folder).tensors
    assert {t.quant for t in tensors.values()} == {Quant.BF16}
    embedding = tensors["token_embd.weight"]
    assert not isinstance(embedding, AssembledTensor)  # a view of the mapped file
    experts = tensors["blk.1.ffn_down_exps.weight"]
    assert isinstance(experts, AssembledTensor)
    assert experts.by_parts
    asked: list[int | None] = []
    assemble = experts._assemble
    object.__setattr__(experts, "_assemble", lambda part: asked.append(part) or assemble(part))
    some = experts.read([2, 5])
    assert asked == [2, 5]
    for e in (2, 5):
        want = bf16(state[f"model.layers.1.mlp.experts.{e}.down_proj.weight"])[1]
        assert np.array_equal(some.part(e).data.view(np.uint16), want.reshape(-1))
        assert np.array_equal(experts.part(e).decode(), some.part(e).decode())
