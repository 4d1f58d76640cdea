"""`motley eval` as a user runs it: a placement is judged by the very numbers of one device; Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from perplexity_models import write_variant
from two_devices import small_and_big

# experts on both
LAB = small_and_big(125_000_000)


def started(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "motley", "eval", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "MOTLEY_DATA": str(folder)}, **pipes)


def motley(folder: Path, *arguments: str, status: int = 0) -> str:
    process = started(folder, *arguments)
    said, complained = process.communicate(timeout=180)
    assert process.returncode == status, complained
    assert "Traceback" not in complained
    return said + complained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a reference of three windows of the bundled model."""
    path = tmp_path_factory.mktemp("eval")
    motley(path, "perplexity", "--chunks", "3", "--save-logits", "reference", "--json", "one.json")
    return path


def result(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / name).read_text()))


def test_two_nodes_give_the_very_same_number(folder: Path) -> None:
    (folder / "lab.toml").write_text(LAB)
    said = motley(folder, "perplexity", "--chunks", "3", "--lab", "lab.toml", "--json", "two.json")
    one, two = result(folder, "one.json"), result(folder, "two.json")
    assert "big" in two["where"]
    assert one["where"] == "one device"
    assert two["where"] in said
    same = ("perplexity", "perplexity_error", "mean_nll", "windows", "context", "complete", "text", "model")
    assert {key: one[key] for key in same} == {key: two[key] for key in same}
    assert one["text"]["tokens_scored"] == 3 * 255


def test_the_same_file_is_apart_by_nothing_and_another_by_little(folder: Path) -> None:
    said = motley(folder, "kl", "--reference", "reference", "--json", "kl.json")
    assert "the same, to the last bit" in said
    assert result(folder, "kl.json")["identical"]
    write_variant(folder, "f32")
    motley(folder, "kl", "motley-8m-f32.gguf", "--reference", "reference", "--chunks", "2", "--json", "kl.json")
    found = result(folder, "kl.json")
    assert found["windows"] == 2
    assert 0 < found["mean_kl"] < 1e-2
    assert found["same_top"] > 0.9
    assert found["reference"]["model"]["name"] == "Motley 8M"
    assert found["perplexity_ratio"] == pytest.approx(1, abs=0.01)


def test_ctrl_c_prints_what_there_is(folder: Path) -> None:
    process = started(folder, "perplexity", "--save-logits", "part", "--json", "part.json")
    while not (folder / "part").exists() or (folder / "part").stat().st_size < 10_000_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    found = result(folder, "part.json")
    assert not found["complete"]
    assert 0 < found["windows"] < 54
    assert f"{found['windows']} windows of 54, interrupted" in said
    assert "the same, to the last bit" in motley(folder, "kl", "--reference", "part", "--chunks", "2")
