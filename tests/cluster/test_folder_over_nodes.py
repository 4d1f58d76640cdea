"""A Hugging Face folder over two local nodes: each reads its own part of it, and the answer is one device's."""

import json
from pathlib import Path

import pytest

from hf_folders import f32, golden_config, golden_state, write_folder
from motley.cli.main import main


def test_experts_apart_from_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTLEY_DATA", str(tmp_path / "data"))
    tensors = {name: f32(values) for name, values in golden_state("qwen3moe", True).items()}
    folder = write_folder(tmp_path / "m", golden_config("qwen3moe"), tensors)
    out = tmp_path / "out.json"
    words = ["bench", str(folder), "--nodes", "2", "--pp", "16", "--tg", "4", "--repeat", "1", "--json", str(out)]
    assert main(words) == 0
    result = json.loads(out.read_text())
    assert result["check"]["greedy_tokens_equal"] == result["check"]["greedy_tokens_compared"] > 0
    assert result["check"]["max_abs_logit_diff"] == 0
    assert result["model"]["file"] == "m"
    assert "node1" in {device for layer in result["placement"]["layers"] for device in layer["experts"]}
