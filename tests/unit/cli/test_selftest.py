"""`motley selftest`: what is right passes and what is broken is found, named, and ends with status 1."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest

from motley.cli import selftest
from motley.cli.main import main
from motley.ops.checks import checks
from motley.ops.native import NativeOps
from motley.shape.quant import Quant


@pytest.fixture(autouse=True)
def few_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "checks", lambda: checks([Quant.F32, Quant.Q4_K]))


def test_a_sound_device_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--device", "cpu", "--threads", "1", "--json", str(tmp_path / "self.json")]) == 0
    text = (tmp_path / "self.json").read_text()
    found = json.loads(text)
    assert found["ok"]
    assert platform.node() not in text
    (device,) = found["devices"]
    assert {c["operation"] for c in device["checks"]} >= {"linear", "experts", "attention", "router", "delta_net"}
    assert device["speed"]["answer_tokens_s"] > 0
    assert found["split"]["max_rel_error"] < found["split"]["limit"]
    out = capsys.readouterr().out
    assert "All right." in out
    assert "A tiny model over cpu: right" in out


def test_a_broken_operation_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = NativeOps.rms_norm
    monkeypatch.setattr(NativeOps, "rms_norm", lambda *args: np.float32(1.01) * right(*args))

    def raises(*args: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(NativeOps, "softcap", raises)
    assert main(["selftest", "--device", "cpu", "--threads", "1"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "FAILED on native" in out
    assert "rms_norm, one group and three: off by 1.0e-02, and 1e-04 is allowed" in out
    assert "RuntimeError: no such kernel" in out
    assert "A tiny model over cpu: WRONG" in out
