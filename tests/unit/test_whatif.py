"""What if: one outcome a change, what does not fit included."""

import json
from pathlib import Path

import pytest

from motley.cli.main import main
from motley.errors import UsageError
from motley.lab.changes import Change
from motley.lab.labs import find_lab
from motley.plan.whatif import Question, what_if, what_if_json, what_if_text
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

SHAPE = ModelShape.named("mixtral-8x7b", "q8_0")  # 50 GB
QUESTION = Question(SHAPE, Workload("decode", 64), seconds=0.2)


def test_a_row_for_each_change_and_one_for_all() -> None:
    lab = find_lab("rtx-5090 + pi5 @1gbe").lab
    changes = [Change("add", "m3-ultra-96 @10gbe"), Change("drop", "pi5")]
    base, added, dropped, together = what_if(QUESTION, lab, changes)
    assert [o.name for o in (base, added, dropped, together)] == [
        "as it is",
        *(c.name for c in changes),
        "all together",
    ]
    assert base.plan is None
    assert "missing" in base.missing
    assert added.plan is not None
    assert together.plan is not None
    assert dropped.plan is None
    low, middle, high = added.first_token_s or (0, 0, 0)
    assert 0 < low < middle < high
    assert added.watts == (575 + 12 + 250, 0)
    assert added.price_usd == (1999 + 5499, 1), "what a Raspberry Pi costs is not in the catalogue"
    text = what_if_text([base, added], 512)
    assert "as it is" in text
    assert "no " in text
    row = what_if_json([added])[0]
    assert row["fits"]
    assert row["prediction"]["tokens_per_s"]["p50"] > 0
    assert row["limited_by"]


def test_every_change_is_checked_before_the_first_search() -> None:
    with pytest.raises(UsageError, match="did you mean pi5"):
        what_if(QUESTION, find_lab("rtx-5090 + pi5 @1gbe").lab, [Change("drop", "pi6")], pytest.fail)


def test_a_device_more_never_seems_to_make_it_slower() -> None:
    lab = find_lab("rtx-pro-6000 + 2x m3-ultra-256 @10gbe").lab
    question = Question(ModelShape.named("qwen3-235b-a22b", "q4_k"), Workload("decode", 64), seconds=0.05)
    base, added = what_if(question, lab, [Change("add", "pi5 @1gbe")])
    assert base.plan is not None
    assert added.plan is not None
    assert added.plan.prediction.ms_per_step <= base.plan.prediction.ms_per_step * 1.001
    assert added.prefill is not None


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, lab = tmp_path / "out.json", tmp_path / "lab.toml"
    args = ["plan", "olmoe-1b-7b", "--lab", "gb10 + pi5 @1gbe", "--drop", "pi5", "--swap", "1gbe->10gbe"]
    assert main([*args, "--json", str(file), "--save-lab", str(lab)]) == 0
    out = capsys.readouterr().out
    for row in ("as it is", "drop pi5", "swap 1gbe->10gbe", "all together"):
        assert row in out
    assert find_lab(str(lab)).lab == find_lab("gb10 + pi5 @1gbe").lab
    found = json.loads(file.read_text())["what_if"]
    assert len(found) == 4
    assert found[1]["devices"] == ["gb10"]
    assert found[3]["notes"] == ["swap 1gbe->10gbe: nothing is left for it to change"]


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["--lab", "gb11"], "did you mean gb10"),
        (["--lab", "gb10", "--engine", "vlm"], "did you mean"),
        (["--lab", "gb10", "--add", "gb10 @10gb"], "did you mean 10gbe"),
        (["--lab", "gb10", "--drop", "gb"], "did you mean gb10"),
        (["--lab", "gb10 + pi5 @1gbe", "--drop", "pi5", "--home", "gb11"], "no device 'gb11'"),
    ],
)
def test_bad_input_exits_with_a_sentence(args: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "olmoe-1b-7b", *args]) == 2
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "has"),
    [("--devices", "m3-ultra"), ("--links", "tb5-rdma"), ("--labs", "2tb-egpu-rdma"), ("--engines", "motley")],
)
def test_the_catalogues_are_listed(option: str, has: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", option])
    assert ended.value.code == 0
    assert has in capsys.readouterr().out
