"""What if: one outcome a change, what does not fit included."""

import json
import re
from pathlib import Path

import pytest

from motley.cli.main import main
from motley.errors import UsageError
from motley.lab.changes import Change
from motley.lab.labs import find_lab
from motley.plan.objective import Objective
from motley.plan.search import find_placement
from motley.plan.whatif import Question, what_if, what_if_json, what_if_text
from motley.predict.predict import predict
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
    text = what_if_text([base, added], QUESTION)
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
    assert added.first_token_s is not None


@pytest.mark.parametrize(
    ("aim", "head"),
    [
        (Objective.parse("tg64"), "tokens/s of tg64  first token after pp600"),
        (Objective.parse("tg64", "ttft", prompt=600), "tokens/s of pp600  first token after pp600"),
        (Objective.parse("pp512+tg64"), "tokens/s of pp512  time of pp512+tg64  first token after pp600"),
    ],
)
def test_the_lab_as_it_is_has_the_plans_own_numbers(aim: Objective, head: str) -> None:
    shape, lab = ModelShape.named("olmoe-1b-7b"), find_lab("rtx-3090 + pi5 @1gbe").lab
    question = Question(shape, aim.workload, 600, objective=aim)
    plan = find_placement(shape, lab, objective=aim)
    base, _ = found = what_if(question, lab, [Change("drop", "pi5")])
    assert base.plan is not None
    assert base.plan.seconds == plan.seconds
    assert base.plan.prediction == plan.prediction
    text = what_if_text(found, question)
    assert head in re.sub("   +", "  ", text.splitlines()[0])
    assert ("--objective ttft places for them" in text) == (aim.name != "ttft")
    if aim.first_token:
        assert base.first_token_s == plan.seconds
    else:
        ttft = Objective.parse("pp600", "ttft")
        own = [n * predict(shape, lab, plan.placement, w).ms_per_step / 1e3 for w, n in ttft.parts]
        assert base.first_token_s is not None
        assert base.first_token_s[1] == pytest.approx(sum(own))


def test_a_home_that_is_gone_is_said() -> None:
    question = Question(SHAPE, Workload(), homes=["rtx-5090", "m3-ultra"], seconds=0.1)
    lab = find_lab("rtx-5090 + m3-ultra @10gbe").lab
    changes = [Change("drop", "rtx-5090"), Change("drop", "m3-ultra")]
    _, card_gone, _, none = what_if(question, lab, [changes[0], changes[1], Change("add", "pi5 @1gbe")])[:4]
    assert card_gone.notes == ("--home rtx-5090 is gone: attention is on m3-ultra",)
    assert none.notes == ()


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
        (["--lab", "gb10", "--add", ""], "--add is empty"),
        (["--lab", "gb10", "--prompt", "100"], "--prompt is for --objective ttft"),
        (["--lab", "gb10", "--workload", "pp512", "--objective", "ttft", "--prompt", "100"], "leave out --prompt"),
        (["--lab", "gb10", "--workload", "tg0"], "the workload tg0: it takes at least one token"),
        (["--lab", "gb10", "--workload", "tg64@d9000"], "9,064 positions, the model was made for 4,096"),
        (["--lab", "gb10", "--drop", "gb10", "--prompt", "5000"], "pp5000: 5,000 positions, the model was made"),
        (["--lab", "gb10", "--workload", "pp4097", "--objective", "ttft"], "pp4097: 4,097 positions"),
        (["--lab", "gb10", "--json", "/dev/full"], "/dev/full was not written: No space left"),
        (["--lab", "gb10", "--quant", "q4_kk"], "did you mean q4_k"),
        (["--lab", "gb10 + pi5 @1gbe", "--drop", "pi5", "--home", "gb11"], "no device 'gb11'"),
    ],
)
def test_bad_input_exits_with_a_sentence(args: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "olmoe-1b-7b", *args]) == 2
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("./x.gguf", "cannot read ./x.gguf: it is not there"),
        ("olmoe-1b-7b.gguf", "cannot read olmoe-1b-7b.gguf: it is not there"),
        ("/nowhere/x", "cannot read /nowhere/x: it is not there"),
        ("/tmp/", "is a folder"),
        ("", "name is empty"),
        ("zzzzzzz", "unknown model shape 'zzzzzzz': `motley plan --shapes` lists them"),
        ("a" * 5000, "lists them"),
    ],
)
def test_a_model_that_is_not_there(name: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", name, "--lab", "gb10"]) == 2
    said = capsys.readouterr().err
    assert what in said
    assert len(said) < 300


def test_context_beyond_the_models_is_capped_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["plan", "allenai/OLMoE-1B-7B", "--lab", "gb10", "--context", "1000000", "--engine", "LLAMA.CPP"]
    assert main(args) == 0
    assert "--context 1,000,000: olmoe-1b-7b was made for 4,096 positions" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--html", "--save-lab"])
def test_a_dash_is_no_file(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "olmoe-1b-7b", "--lab", "gb10", option, "-"])
    assert "- is no file here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "has"),
    [("--devices", "m3-ultra"), ("--links", "tb5-rdma"), ("--labs", "2tb-egpu-rdma"), ("--engines", "motley")],
)
def test_the_catalogues_are_listed(option: str, has: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", option])
    assert ended.value.code == 0
    assert has in capsys.readouterr().out
