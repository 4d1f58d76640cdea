"""`benchmarks/gpu/run.py` ends in its time, and its JSON says what did not."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tinygrad", reason="tinygrad is not installed (extra [tinygrad])")

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu" / "run.py"


def test_when_the_time_is_up_what_runs_is_ended(tmp_path: Path) -> None:
    """Copying 4 million numbers takes tinygrad's PYTHON minutes."""
    out = tmp_path / "gpu.json"
    options = ["--small", "--device", "PYTHON", "--only", "copy", "matmul", "--minutes", "0.02", "--json", out]
    run = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=100)
    assert run.returncode == 1, run.stderr
    results = json.loads(out.read_text())
    assert results["copy"]["timed_out"] == results["matmul"]["skipped"] == "0.02 minutes were over"


def test_a_program_that_takes_too_long_is_ended_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("gpu_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.syspath_prepend(SCRIPT.parent)  # and the script's own additions are taken back
    spec.loader.exec_module(run := importlib.util.module_from_spec(spec))
    monkeypatch.setitem(run.LIMITS, "golden", 0.1)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["run.py", "--device", "CPU", "--only", "golden", "--json", str(out)])
    assert run.main() == 1
    result = json.loads(out.read_text())["golden"]
    assert "tinygrad_families.py --device CPU olmoe qwen3moe gpt-oss: 0.1 s were over" in result["timed_out"]
