"""`motley bench` as scripts use it: real processes, a real (tiny) model, and the design's JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from motley.bench.result import SCHEMA, load_result
from motley.bench.served import ServedResult, load_any
from openai_stand_in import stand_in
from tiny_models import write_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench")
    write_tiny(path, "qwen3moe", "q8_0").rename(path / "tiny.gguf")
    return path


def motley(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "MOTLEY_DATA": str(folder / "data"), "MOTLEY_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "motley", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180)


@pytest.fixture(scope="module")
def bench(folder: Path) -> "subprocess.CompletedProcess[str]":
    return motley(folder, "bench", "tiny.gguf", "--pp", "8,16", "--tg", "4", "--depth", "0,8", "--json", "out.json")


@pytest.fixture(scope="module")
def found(folder: Path, bench: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert bench.returncode == 0, bench.stderr
    return dict(json.loads((folder / "out.json").read_text()))


def test_json_holds_every_test_with_samples_and_predictions(found: dict[str, Any], folder: Path) -> None:
    tests = [(t["test"], t["depth"], t["batch"]) for t in found["results"]]
    assert sorted(tests) == sorted((t, d, 1) for t in ("pp8", "pp16", "tg4") for d in (0, 8))
    for test in found["results"]:
        assert len(test["tokens_per_s"]["samples"]) >= 5
        assert test["predicted_tokens_per_s"]["p10"] < test["predicted_tokens_per_s"]["p90"]
        assert sum(test["time"].values()) == pytest.approx(test["ms_per_step"], rel=0.05)
    assert load_result(folder / "out.json").model.file == "tiny.gguf"


def test_two_unequal_nodes_share_the_experts(found: dict[str, Any]) -> None:
    a, b = found["lab"]["devices"]
    assert a["memory_bytes"] < b["memory_bytes"]
    holders = {device for layer in found["placement"]["layers"] for device in layer["experts"]}
    assert holders == {a["name"], b["name"]}
    assert found["lab"]["links"][0]["rtt_us"] > 0
    (exchange,) = found["exchanges"]
    assert exchange["transport"] in ("local", "tcp")  # as it was measured
    assert exchange["count"] > 0
    assert 0 < found["peak_memory_bytes"][b["name"]] < b["memory_bytes"]


def test_the_answer_equals_one_devices(found: dict[str, Any]) -> None:
    check = found["check"]
    assert check["max_rel_logit_diff"] < 1e-4
    assert check["greedy_tokens_equal"] == check["greedy_tokens_compared"] > 0


def test_routes_count_every_choice(found: dict[str, Any]) -> None:
    """Per layer: tokens of all samples times the experts that each uses."""
    tokens = sum(int(t["test"][2:]) * len(t["tokens_per_s"]["samples"]) for t in found["results"])
    assert [sum(row) for row in found["routes"]] == [tokens * found["model"]["n_experts_used"]] * 2


def test_terminal_and_page_and_store(folder: Path, bench: "subprocess.CompletedProcess[str]", found: Any) -> None:
    assert "tg4 @ d8" in bench.stdout
    assert "Check passed" in bench.stdout
    (page,) = (folder / "data").glob("*.html")
    assert found["command"] in page.read_text()
    listed = motley(folder, "report")
    assert listed.returncode == 0
    assert "tiny-qwen3moe" in listed.stdout
    both = motley(folder, "report", "1", "out.json")
    assert both.returncode == 0
    assert "(1.00x)" in both.stdout


SUITE = """
about = "of this test"
repeat = 5
[[speed]]
tg = [4]
batch = [2]
[[speed]]
pp = [9000]
[[load]]
prompt = 8
output = 4
concurrency = [2]
tpot_ms = 60000
"""


def test_a_suite_is_measured_and_written_in_every_form(folder: Path) -> None:
    (folder / "mine.toml").write_text(SUITE)
    files = ("--json", "s.json", "--csv", "s.csv", "--markdown", "s.md")
    done = motley(folder, "bench", "tiny.gguf", "--nodes", "1", "--suite", "mine.toml", *files)
    assert done.returncode == 0, done.stderr
    result = load_result(folder / "s.json")
    assert (result.suite, result.schema, len(result.sessions)) == ("mine", SCHEMA, 1)
    assert [t.label for t in result.results] == ["tg4 x 2"]
    assert [load.concurrency for load in result.loads] == [2]
    assert all(len(load.requests) == 5 * 2 * load.concurrency for load in result.loads)
    assert all(load.goodput and load.goodput.share == 1.0 for load in result.loads)
    assert [s.test for s in result.skipped] == ["pp9000"]
    assert all(t.clock and t.clock.before > 0 for t in result.results)
    seen = result.results[0].experts_activated
    assert seen
    assert result.model.n_experts_used <= seen.measured <= 2 * result.model.n_experts_used
    assert result.model.n_experts_used < seen.uniform < 2 * result.model.n_experts_used
    assert (folder / "s.csv").read_text().count("\n") == 1 + len(result.results) + len(result.loads)
    assert "| tg4 x 2 |" in (folder / "s.md").read_text()
    assert not list((folder / "data" / "unfinished").iterdir())


def test_a_server_is_benched_by_the_same_suite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httpx2", reason="needs httpx2 (extra `endpoint`)")
    (folder / "mine.toml").write_text(SUITE)
    monkeypatch.setenv("THEIR_KEY", "secret")
    with stand_in(key="secret") as server:
        there = ("--endpoint", server.url, "--api-key-env", "THEIR_KEY")
        done = motley(folder, "bench", *there, "--suite", "mine.toml", "--json", "e.json")
    assert done.returncode == 0, done.stderr
    result = load_any(folder / "e.json")
    assert isinstance(result, ServedResult)
    assert [t.label for t in result.results] == ["pp9000"]
    assert [load.concurrency for load in result.loads] == [2]
    assert "secret" not in (folder / "e.json").read_text()
    assert [s.test for s in result.skipped] == ["tg4x2"]
    pasted = motley(folder, "report", "e.json", "--markdown")
    assert "| stand-in | stand-in/1 | pp9000 |" in pasted.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "none.gguf"], "none.gguf"),
        (["bench", "--shape", "olmo-1b", "--quant", "q4_k"], "olmo"),
        (["bench", "tiny.gguf", "--pp", "9999", "--tg", "0"], "trained for 256"),
        (["bench", "tiny.gguf", "--pp", "0", "--tg", "0"], "--pp"),
        (["report", "12345"], "12345"),
    ],
)
def test_wrong_use_is_one_sentence_and_status_2(folder: Path, arguments: list[str], words: str) -> None:
    done = motley(folder, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
