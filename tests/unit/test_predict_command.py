"""`motley predict`: several workloads of one placement, what is refused and why, and what programs read."""

import json
from pathlib import Path

import pytest
from labs import device, lab

from motley.cli.main import main
from motley.cli.predict import batched, workloads
from motley.predict.show import number

TWO = lab(device("fast", 3e9, speed=4), device("big", 64e9))


@pytest.fixture
def lab_file(tmp_path: Path) -> str:
    TWO.save(tmp_path / "lab.toml")
    return str(tmp_path / "lab.toml")


def test_every_workload_has_a_line(lab_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    words = ["predict", "olmoe-1b-7b", "--lab", lab_file, "--json", str(out)]
    assert main([*words, "--workload", "tg64,tg64@d1024,pp512", "--batch", "1,4"]) == 0
    said = capsys.readouterr().out
    document = json.loads(out.read_text())
    names = [p["workload"] for p in document["predictions"]]
    assert names == ["tg64", "tg64x4", "tg64@d1024", "tg64@d1024x4", "pp512"]
    for found in document["predictions"]:
        speeds = found["tokens_per_s"]
        assert 0 < speeds["p10"] < speeds["p50"] < speeds["p90"]
        assert sum(t["ms"] for t in found["terms"]) == pytest.approx(found["ms_per_step"])
        line = next(row for row in said.splitlines() if row.split()[:1] == [found["workload"]])
        assert number(speeds["p50"]) in line
        assert number(found["ms_per_step"]) in line
    assert len(document["placement"]["layers"]) == 16


def test_the_first_workload_is_the_plans_own(lab_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motley.plan.search._SECONDS", 60.0)  # cut off, equal questions may have different answers
    for command, out in (("plan", tmp_path / "plan.json"), ("predict", tmp_path / "predict.json")):
        words = [command, "olmoe-1b-7b", "--lab", lab_file, "--workload", "tg64@d512", "--json", str(out)]
        assert main(words) == 0
    plan, predicted = (json.loads((tmp_path / f"{c}.json").read_text()) for c in ("plan", "predict"))
    assert predicted["predictions"][0]["tokens_per_s"] == plan["prediction"]["tokens_per_s"]
    assert predicted["placement"] == plan["placement"]


def test_explained_sums_are_printed_and_kept(lab_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    words = ["predict", "olmoe-1b-7b", "--lab", lab_file, "--json", str(out), "--workload", "tg64,pp512", "--explain"]
    assert main(words) == 0
    said = capsys.readouterr().out
    for found in json.loads(out.read_text())["predictions"]:
        assert sum(line["ms"] for line in found["sum"]) == pytest.approx(found["ms_per_step"])
        assert f"a step of {found['workload']}" in said
        assert all(note in said for note in found["notes"])


def test_what_does_not_fit_is_said_and_not_predicted(
    lab_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    words = ["predict", "olmoe-1b-7b", "--lab", lab_file, "--json", str(out)]
    assert main([*words, "--workload", "tg64,tg64@d4000x256,tg64@d40000"]) == 0
    first, crowded, long = json.loads(out.read_text())["predictions"]
    assert "tokens_per_s" in first
    assert "tokens_per_s" not in crowded
    assert "missing" in crowded["reason"]
    assert "tokens_per_s" not in long
    assert "4,096" in long["reason"]
    assert crowded["reason"] in capsys.readouterr().out


def test_batches_multiply_decoding_of_one_sequence_only() -> None:
    found = batched(workloads("tg64,tg8x2,pp512"), [1, 16])
    assert [w.name for w in found] == ["tg64", "tg64x16", "tg8x2", "pp512"]
    assert batched(workloads("pp512,pp512"), []) == workloads("pp512")


@pytest.mark.parametrize(("text", "sentence"), [("tg64,walk", "walk"), ("", "unknown workload")])
def test_an_unknown_workload_is_named(
    text: str, sentence: str, lab_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "olmoe-1b-7b", "--lab", lab_file, "--workload", text]) == 2
    assert sentence in capsys.readouterr().err


def test_the_size_of_steps_is_said_to_programs(tmp_path: Path) -> None:
    """Only where it is another than usual."""
    lab_file, ms = str(tmp_path / "lab.toml"), {}
    lab(device("big", 64e9)).save(tmp_path / "lab.toml")
    for n in (512, 2048):
        for command, *changes in (["plan"], ["plan", "--add", "rtx-4090 @10gbe"], ["predict"]):
            out = tmp_path / f"{command}.json"
            words = [command, "olmoe-1b-7b", "--lab", lab_file, "--workload", "pp2048", "--step-tokens", str(n)]
            assert main([*words, *changes, "--json", str(out)]) == 0
            assert json.loads(out.read_text()).get("step_tokens", 512) == n
            assert ("step_tokens" in json.loads(out.read_text())) == (n != 512)
        ms[n] = json.loads((tmp_path / "predict.json").read_text())["predictions"][0]["ms_per_step"]
    assert ms[2048] > 2 * ms[512]


@pytest.mark.parametrize("command", ["bench", "run", "serve", "plan", "predict"])
@pytest.mark.parametrize("steps", ["0", "-5", "8193", "many", "1.5", ""])
def test_steps_of_no_size_are_one_sentence(command: str, steps: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["olmoe-1b-7b", "--lab", "x"] if command in ("plan", "predict") else []
    assert status([command, *words, f"--step-tokens={steps}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--step-tokens" in said
    assert "give 1 to 8,192" in said or "must be a whole number" in said


def status(arguments: list[str]) -> object:
    try:
        return main(arguments)
    except SystemExit as error:
        return error.code
