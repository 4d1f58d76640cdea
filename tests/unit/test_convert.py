"""`convert`: what it writes equals encoding each tensor whole; bounded memory; nothing half done."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from hf_folders import bf16, f32, write_folder
from hf_golden import FOLDERS, GOLDEN, golden_config, golden_state
from hf_tokenizers import STRINGS, engine, write_tokenizer
from motley.cli.main import main
from motley.errors import UnsupportedError
from motley.formats import convert as module
from motley.formats.checkpoint import open_checkpoint
from motley.formats.convert import convert
from motley.formats.encode import encode
from motley.formats.gguf_writer import write_gguf
from motley.formats.tokenizer import Tokenizer
from motley.shape.quant import Quant
from tiny_models import tiny_shape, write_tiny


def golden_folder(folder: Path, family: str = "qwen3moe", tokenizer: str = "") -> Path:
    config = golden_config(family)
    tensors = {name: f32(values) for name, values in golden_state(family).items()}
    if tokenizer:
        write_tokenizer(folder, tokenizer)
        size = engine(tokenizer).get_vocab_size()
        rows = np.random.default_rng(1).standard_normal((size, 64))
        tensors |= {"model.embed_tokens.weight": f32(rows), "lm_head.weight": f32(rows / 8)}
        config["vocab_size"] = size
    return write_folder(folder, config, tensors)


@pytest.mark.parametrize("family", ["olmoe", "qwen3moe", "mixtral"])
def test_a_folder_becomes_the_same_gguf(tmp_path: Path, family: str) -> None:
    """As llama.cpp's converter made of the checkpoint."""
    out = tmp_path / "x.gguf"
    assert convert(open_checkpoint(golden_folder(tmp_path / "m", family)), out) == []
    ours, golden = open_checkpoint(out), open_checkpoint(GOLDEN / f"{family}.gguf")
    for name, tensor in golden.tensors.items():
        assert np.array_equal(ours.tensors[name].decode(), tensor.decode()), name
    for key, value in golden.metadata.items():
        if key.startswith(f"{golden.architecture}."):
            assert ours.metadata[key] == pytest.approx(value), key
    assert (ours.metadata["general.file_type"], ours.metadata["general.quantization_version"]) == (0, 2)


@pytest.mark.parametrize("quant", ["q8_0", "q4_0", "q4_k", "q6_k", "bf16", "mxfp4"])
def test_every_precision_is_that_of_the_whole_tensor(
    tmp_path: Path, quant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 30_000)  # so that tensors come in several pieces
    source = open_checkpoint(write_tiny(tmp_path, "qwen3moe", "f32"))
    out = tmp_path / "x.gguf"
    assert convert(source, out, quant, threads=3) == []
    wanted = {t.name: t.quant for t in tiny_shape("qwen3moe", quant).tensors}
    written = open_checkpoint(out).tensors
    assert {t.name: t.quant for t in written.values()} == wanted
    for name, tensor in source.tensors.items():
        assert np.array_equal(written[name].data, encode(tensor.decode(), wanted[name])), name


@pytest.mark.parametrize(
    ("family", "quant"), [*((f, None) for f in sorted(FOLDERS)), ("qwen35moe", "q8_0"), ("gemma4", "q8_0")]
)
def test_what_llama_cpp_keeps_in_float32_stays_so(tmp_path: Path, family: str, quant: str | None) -> None:
    """Of a folder in bfloat16: what its converter writes in float32 when it writes matrices in float16."""
    state = {name: bf16(values) for name, values in golden_state(family).items()}
    out = tmp_path / "x.gguf"
    convert(open_checkpoint(write_folder(tmp_path / "m", golden_config(family), state)), out, quant)
    written = open_checkpoint(out).tensors
    for tensor in open_checkpoint(GOLDEN / f"{family}.gguf").tensors.values():
        kept = written[tensor.name].quant is Quant.F32
        assert kept == (tensor.quant is Quant.F32), tensor.name


def test_matrices_stay_and_vectors_and_router_become_f32(tmp_path: Path) -> None:
    state = golden_state("qwen3moe")
    folder = write_folder(tmp_path / "m", golden_config("qwen3moe"), {n: bf16(v) for n, v in state.items()})
    source = open_checkpoint(folder)
    assert convert(source, tmp_path / "x.gguf") == []
    for tensor in open_checkpoint(tmp_path / "x.gguf").tensors.values():
        small = len(tensor.dims) == 1 or "gate_inp" in tensor.name
        assert tensor.quant is (Quant.F32 if small else Quant.BF16)
        assert np.array_equal(tensor.decode(), source.tensors[tensor.name].decode())


def test_rows_that_do_not_fill_blocks_are_said(tmp_path: Path) -> None:
    source = open_checkpoint(golden_folder(tmp_path / "m"))
    (note,) = convert(source, tmp_path / "x.gguf", "q4_k")
    assert "tensors have rows that do not fill the blocks of q4_k, and are stored as Q8_0 (first: " in note
    assert open_checkpoint(tmp_path / "x.gguf").tensors["blk.0.ffn_up_exps.weight"].quant is Quant.Q8_0


def test_what_is_quantised_already_is_copied_or_said(tmp_path: Path) -> None:
    source = open_checkpoint(write_tiny(tmp_path, "olmoe", "q8_0"))
    assert convert(source, tmp_path / "same.gguf", "q8_0") == []
    same = open_checkpoint(tmp_path / "same.gguf").tensors
    assert all(np.array_equal(same[name].data, tensor.data) for name, tensor in source.tensors.items())
    (note,) = convert(source, tmp_path / "x.gguf", "q4_k")
    assert "were quantised before (token_embd.weight: Q8_0) and are quantised again" in note


@pytest.mark.parametrize("quant", ["iq2_xxs", "fp8", "q4_x"])
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path: Path, quant: str) -> None:
    source = open_checkpoint(write_tiny(tmp_path, "olmoe", "f32"))
    with pytest.raises(UnsupportedError, match="(?i)" + quant):
        convert(source, tmp_path / "x.gguf", quant)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-olmoe-f32.gguf"]


def test_a_split_set_becomes_one_file(tmp_path: Path) -> None:
    source = open_checkpoint(write_tiny(tmp_path, "olmoe", "f32"))
    tensors = [(t, t.data) for t in source.tensors.values()]
    for no, part in enumerate((tensors[:5], tensors[5:])):
        keys = {"split.no": no, "split.count": 2, "split.tensors.count": len(tensors)}
        write_gguf(tmp_path / f"s-{no + 1:05}-of-00002.gguf", {**(source.metadata if no == 0 else {}), **keys}, part)
    convert(open_checkpoint(tmp_path / "s-00001-of-00002.gguf"), tmp_path / "x.gguf")
    whole = open_checkpoint(tmp_path / "x.gguf")
    assert whole.metadata == source.metadata
    assert list(whole.tensors) == list(source.tensors)


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "qwen2", "llama"])
def test_the_gguf_has_the_folders_tokenizer(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = golden_folder(tmp_path / "m", tokenizer=kind)
    assert main(["convert", str(folder), "-o", str(tmp_path / "x.gguf"), "--quant", "q8_0"]) == 0
    assert "x.gguf: 0.00 GB in " in capsys.readouterr().err
    ours = Tokenizer.from_metadata(open_checkpoint(tmp_path / "x.gguf").metadata)
    theirs = Tokenizer.from_metadata(open_checkpoint(folder).metadata)
    composed = [text for text in STRINGS if kind != "qwen2" or engine(kind).normalizer.normalize_str(text) == text]
    assert len(composed) > 0.9 * len(STRINGS)
    for text in composed:  # GGUF has no name for the NFC that qwen2's tokenizer.json begins with
        assert ours.encode_prompt(text, special=True) == theirs.encode_prompt(text, special=True), text
    assert (ours.eos, ours.bos, ours.vocab_size) == (theirs.eos, theirs.bos, theirs.vocab_size)


def test_a_tokenizer_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="cuts text in a way that has no name"):
        convert(open_checkpoint(golden_folder(tmp_path / "m", tokenizer="digits")), tmp_path / "x.gguf")


def test_memory_stays_at_one_expert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 experts of 3 x 256 KB in bfloat16 a layer: a layer's stack alone is 12 MB."""
    monkeypatch.setattr(module, "PIECE", 1 << 14)
    config = golden_config("qwen3moe") | {
        "hidden_size": 512,
        "moe_intermediate_size": 256,
        "num_local_experts": 16,
        "num_hidden_layers": 1,
        "head_dim": 16,
    }
    values = np.random.default_rng(2).standard_normal((512, 512)).astype(np.float32)
    attention = {"q": (64, 512), "k": (32, 512), "v": (32, 512), "o": (512, 64)}
    tensors = {
        "model.embed_tokens.weight": bf16(values[:160]),
        "lm_head.weight": bf16(values[:160]),
        "model.norm.weight": bf16(values[0]),
        **{f"model.layers.0.{n}_layernorm.weight": bf16(values[1]) for n in ("input", "post_attention")},
        **{f"model.layers.0.self_attn.{p}_norm.weight": bf16(values[0, :16]) for p in "qk"},
        **{f"model.layers.0.self_attn.{p}_proj.weight": bf16(values[:r, :c]) for p, (r, c) in attention.items()},
        "model.layers.0.mlp.gate.weight": bf16(values[:16]),
    }
    for e in range(16):
        stem = f"model.layers.0.mlp.experts.{e}."
        tensors |= {f"{stem}{p}_proj.weight": bf16(values[:256]) for p in ("gate", "up")}
        tensors |= {f"{stem}down_proj.weight": bf16(values[:, :256])}
    source = open_checkpoint(write_folder(tmp_path / "m", config, tensors))
    stack = source.tensors["blk.0.ffn_up_exps.weight"].n_bytes
    assert stack == 16 * 256 * 512 * 2
    tracemalloc.start()
    convert(source, tmp_path / "x.gguf", "q8_0")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < stack / 2


def test_an_interrupt_leaves_what_was_there(tmp_path: Path) -> None:
    source = open_checkpoint(write_tiny(tmp_path, "olmoe", "f32"))
    out = tmp_path / "x.gguf"
    out.write_bytes(b"older")

    def interrupt(what: str, fraction: float) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, out, "q8_0", interrupt)
    assert out.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-olmoe-f32.gguf", "x.gguf"]
