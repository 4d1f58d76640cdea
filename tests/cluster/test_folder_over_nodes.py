"""A Hugging Face folder over two local nodes: each reads its own part of it, and the answer is one device's."""

import json
from pathlib import Path

import pytest

from hf_folders import f32, write_folder
from hf_golden import golden_config, golden_state, packed
from motley.cli.main import main
from two_devices import small_and_big

LAB = small_and_big(103_250_000)  # small can't hold the model


def test_experts_apart_from_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTLEY_DATA", str(tmp_path / "data"))
    tensors = {name: f32(values) for name, values in packed(golden_state("qwen3moe")).items()}
    folder = write_folder(tmp_path / "m", golden_config("qwen3moe"), tensors)
    out, lab = tmp_path / "out.json", tmp_path / "lab.toml"
    lab.write_text(LAB)
    words = ["bench", str(folder), "--lab", str(lab), "--pp", "16", "--tg", "4", "--repeat", "1", "--json", str(out)]
    assert main(words) == 0
    result = json.loads(out.read_text())
    assert result["check"]["greedy_tokens_equal"] == result["check"]["greedy_tokens_compared"] > 0
    assert result["check"]["max_abs_logit_diff"] == 0
    assert result["model"]["file"] == "m"
    assert "big" in {device for layer in result["placement"]["layers"] for device in layer["experts"]}
