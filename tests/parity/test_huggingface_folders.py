"""The golden models as Hugging Face directories: the same logits as from GGUF, which are transformers' own."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import motley
from hf_folders import bf16, f32, write_folder
from hf_golden import FOLDERS, GOLDEN, Values, golden_config, golden_state, packed
from motley.engine.local import LocalRunner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.convert import convert
from motley.formats.shape_of import shape_of
from motley.formats.tensor import AssembledTensor
from motley.ops.protocol import Batch
from motley.ops.reference import ReferenceOps
from motley.shape.model import ModelShape
from motley.shape.quant import Quant

FAMILIES = sorted(FOLDERS)
OUR_OWN = {  # what llama.cpp's converter writes otherwise
    "ernie4_5-moe.expert_shared_feed_forward_length": "the dense width by the key/value heads: right by chance",
}


def folder_of(tmp_path: Path, family: str, state: Values | None = None) -> Path:
    state = state or golden_state(family)
    names = list(state)
    halves = [{name: f32(state[name]) for name in half} for half in (names[::2], names[1::2])]
    return write_folder(tmp_path / family, golden_config(family), *halves)


def logits(path: Path, tokens: np.ndarray) -> np.ndarray:
    whole = range(len(tokens))
    runner = LocalRunner(open_checkpoint(path), ReferenceOps(), context=64)
    return runner.step(Batch(tokens, whole, [0] * len(whole), whole))


def relative(logits: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(logits - right).max() / np.abs(right).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_folder_and_converted_file_give_the_golden_logits(tmp_path: Path, family: str) -> None:
    golden = np.load(GOLDEN / f"{family}.npz")
    folder, file = folder_of(tmp_path, family), tmp_path / "x.gguf"
    convert(open_checkpoint(folder), file)
    right = logits(GOLDEN / f"{family}.gguf", golden["prompt"])
    assert relative(right, golden["logits"]) < 1e-4
    for path in (folder, file):
        assert relative(logits(path, golden["prompt"]), right) < 1e-5  # one exponential of the delta rule; else 0
    with motley.load(folder, threads=1, context=64) as model:
        assert list(model.generate(golden["prompt"].tolist(), 16)) == golden["ids"].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_and_metadata_equal_the_gguf(tmp_path: Path, family: str) -> None:
    """As llama.cpp's converter made of the checkpoint, but for the matrices' float16."""
    ours, gguf = open_checkpoint(folder_of(tmp_path, family)), open_checkpoint(GOLDEN / f"{family}.gguf")
    assert sorted(ours.tensors) == sorted(gguf.tensors)
    for name, tensor in gguf.tensors.items():
        got = ours.tensors[name].decode()
        assert got.shape[-1:] == tensor.dims[-1:]
        np.testing.assert_allclose(got.reshape(tensor.dims), tensor.decode(), 1e-6 if name.endswith("ssm_a") else 0)
    for key, value in gguf.metadata.items():
        if key.startswith(f"{gguf.architecture}.") and key not in OUR_OWN:
            assert ours.metadata[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    assert shape_of(ours).n_params == shape_of(gguf).n_params
    from_config = ModelShape.from_hf_config(golden_config(family), "f32")
    assert from_config.tensors == tuple(replace(t, quant=Quant.F32) for t in shape_of(ours).tensors)
    assert from_config.mixers == shape_of(gguf).mixers


VARIANTS = json.loads((GOLDEN.parent / "hf_variants.json").read_text())
WITHOUT = {"GLM-4.5-Air": "_norm.weight", "without biases": "_proj.bias", "plain Llama": "lm_head.weight"}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_settings_of_a_family(tmp_path: Path, name: str) -> None:
    """The golden weights under another config, by transformers (make_models.py --variants): rotation stretched in each
    way, norms, biases or a head that are not there, groups of experts, scores that are not normalised."""
    family, config = VARIANTS[name]["family"], VARIANTS[name]["config"]
    state = {n: f32(v) for n, v in golden_state(family).items() if not n.endswith(WITHOUT.get(name, "-"))}
    golden = np.load(GOLDEN.parent / "hf_variants.npz")[name]
    prompt = np.load(GOLDEN / f"{family}.npz")["prompt"]
    assert relative(golden, np.load(GOLDEN / f"{family}.npz")["logits"]) > 1e-2  # it does make a difference
    folder = write_folder(tmp_path / "m", config, state)
    convert(open_checkpoint(folder), file := tmp_path / "x.gguf")
    for path in (folder, file):
        assert relative(logits(path, prompt), golden) < 1e-4


@pytest.mark.parametrize("family", ["qwen3moe", "mixtral", "glm4moe", "qwen35moe"])
def test_experts_as_transformers_packs_them_are_the_same(tmp_path: Path, family: str) -> None:
    ours = open_checkpoint(folder_of(tmp_path, family, packed(golden_state(family))))
    gguf = open_checkpoint(GOLDEN / f"{family}.gguf")
    for name in (name for name in gguf.tensors if "_exps" in name):
        assert np.array_equal(ours.tensors[name].decode(), gguf.tensors[name].decode()), name


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
