"""`motley models` says what is so: every family that runs is proven, by errors that are measured again here."""

import json
from pathlib import Path

import pytest

from golden_errors import architecture, digest, goldens, measured
from hf_golden import FOLDERS
from motley.cli.main import main
from motley.eval.families import coverage, proofs
from motley.models.registry import FAMILIES
from motley.shape.catalogue import names
from motley.shape.model import ModelShape

GOAL = 1e-4
AGAIN = "run: PYTHONPATH=src:tests python tools/golden/record_proofs.py"
FOLDERS_OF = {architecture(name) for name in FOLDERS}  # tests/parity/test_huggingface_folders.py
RECORDED = {proof.golden: proof for proof in proofs()}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_that_runs_has_a_proof(family: str) -> None:
    assert family in {proof.architecture for proof in proofs()}, f"{family} has none; make golden logits, then {AGAIN}"


def test_the_proofs_are_of_the_golden_files_that_are_there() -> None:
    assert sorted(RECORDED) == goldens(), AGAIN
    for name, proof in RECORDED.items():
        assert (proof.architecture, proof.sha256) == (architecture(name), digest(name)), f"{name} changed; {AGAIN}"


@pytest.mark.parametrize("name", goldens())
def test_no_error_is_far_above_the_recorded_one(name: str) -> None:
    """Another processor adds in another order: a factor of 3, or 1e-6 where there is next to none."""
    tokens, error = measured(name)
    proof = RECORDED[name]
    assert tokens == proof.tokens
    assert 0 < proof.max_rel_error < GOAL
    assert error < min(max(3 * proof.max_rel_error, 1e-6), GOAL)


def test_the_table_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The form that the design promises to scripts."""
    assert main(["models", "--json", str(tmp_path / "models.json")]) == 0
    found = json.loads((tmp_path / "models.json").read_text())
    families = {family["name"]: family for family in found["families"]}
    assert {name for name, f in families.items() if f["status"] == "runs"} == set(FAMILIES)
    for family in families.values():
        assert {"name", "status", "formats", "proof", "max_rel_error"} <= set(family)
        assert family["status"] in ("runs", "predicted only")
        if family["status"] == "runs":
            assert family["formats"] == ["GGUF", "folder"]
            assert family["name"] in FOLDERS_OF, "says that it reads folders, but no golden folder shows it"
            assert "Q8_0" in family["precisions"]
            assert family["proof"]
            assert 0 < family["max_rel_error"] < GOAL
        else:
            assert (family["formats"], family["proof"], family["max_rel_error"]) == ([], None, None)
    assert [shape["name"] for shape in found["shapes"]] == names()
    assert {shape["architecture"] for shape in found["shapes"]} <= set(families)
    assert {s["name"] for s in found["shapes"] if s["status"] == "runs"} == {
        name for name in names() if ModelShape.named(name).runs
    }
    said = capsys.readouterr().out
    for name in families:
        assert any(line.startswith(f"{name} ") for line in said.splitlines())
    assert "NOT PROVEN" not in said


def test_a_family_without_a_proof_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "newone", FAMILIES["olmoe"])
    family = next(f for f in coverage().families if f.name == "newone")
    assert (family.status, family.proof, family.max_rel_error) == ("runs", None, None)
