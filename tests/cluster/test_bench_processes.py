"""`motley bench` as a user runs it: processes, sockets, files; and what it leaves behind when it is interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from motley.bench.result import load_result
from two_devices import small_and_big

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
# small can't hold the model
LAB = small_and_big(103_100_000)
SHORT = ["--pp", "16", "--tg", "4", "--repeat", "2"]


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    path = tmp_path / "lab.toml"
    path.write_text(LAB)
    return path


def motley(*words: str | Path, data: Path) -> list[str]:
    os.environ["MOTLEY_DATA"] = str(data)
    return [sys.executable, "-m", "motley", *map(str, words)]


def test_experts_apart_are_measured_and_checked(tmp_path: Path, lab: Path) -> None:
    out, page = tmp_path / "result.json", tmp_path / "report.html"
    command = motley(
        "bench", GOLDEN / "qwen3moe.gguf", "--lab", lab, *SHORT, "--json", out, "--html", page, data=tmp_path
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = load_result(out)
    raw = json.loads(out.read_text())
    assert {d["name"] for d in raw["lab"]["devices"]} == {"small", "big"}
    assert {layer.home for layer in result.placement.layers} == {"small"}
    assert {d for layer in result.placement.layers for d in layer.experts} == {"small", "big"}
    assert [t["test"] for t in raw["results"]] == ["pp16", "tg4"]
    assert raw["check"]["max_abs_logit_diff"] == 0.0
    assert raw["check"]["greedy_tokens_equal"] == raw["check"]["greedy_tokens_compared"] > 0
    assert raw["results"][1]["predicted_tokens_per_s"]["p50"] > 0
    assert "</html>" in page.read_text()
    listed = subprocess.run(motley("report", data=tmp_path), capture_output=True, text=True, timeout=60)
    assert "golden-qwen3moe" in listed.stdout


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_head(tmp_path: Path, lab: Path, end: signal.Signals) -> None:
    head, said = measuring_head(tmp_path, lab)
    children = children_of(head.pid)
    assert children
    head.send_signal(end)
    head.wait(30)
    said.close()
    if end is signal.SIGINT:
        assert head.returncode == 130
    deadline = time.monotonic() + 15
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if alive(pid)]


def test_a_node_that_dies_is_named_with_how_it_ended(tmp_path: Path, lab: Path) -> None:
    head, said = measuring_head(tmp_path, lab)
    (node,) = children_of(head.pid)
    os.kill(node, signal.SIGKILL)
    words = said.read()
    assert head.wait(30) == 2
    said.close()
    assert "motley bench: node big is gone: it ended with status -9" in words


def measuring_head(tmp_path: Path, lab: Path) -> tuple["subprocess.Popen[str]", IO[str]]:
    """A bench that is in the middle of its samples, and what it says from now on."""
    command = motley(
        "bench", GOLDEN / "qwen3moe.gguf", "--lab", lab, "--pp", "0", "--tg", "50", "--repeat", "5000", data=tmp_path
    )
    head = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert head.stderr
    for line in head.stderr:
        if "tg50" in line:
            break
    return head, head.stderr


def children_of(pid: int) -> list[int]:
    parents = {int(p.name): stat_fields(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdecimal()}
    return [child for child, fields in parents.items() if fields and int(fields[1]) == pid]


def stat_fields(pid: int) -> list[str]:
    """state, parent, ... of a process; empty if it is gone"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    fields = stat_fields(pid)
    return bool(fields) and fields[0] != "Z"
