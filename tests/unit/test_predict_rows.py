"""`motley predict --rows`: an answer for every row, what is refused before the work, and the summary."""

import csv
from pathlib import Path

import pytest

from motley.cli.main import main
from motley.cli.published import kind_of, summary
from motley.predict.published.rows import ANSWER, Answer, Row

COLUMNS = (
    "row_id",
    "model",
    "quant",
    "engine",
    "hardware",
    "hw_key",
    "n_devices",
    "mode",
    "gen_tokens",
    "tokens_per_s",
)
KNOWN = ("a", "gpt-oss-20b", "MXFP4", "llama.cpp", "NVIDIA RTX 4090", "rtx_4090", "1", "tg", "128", "240")
ROWS = (
    KNOWN,
    ("b", "nobody-knows-this-1b", "Q4_K_M", "llama.cpp", "NVIDIA RTX 4090", "rtx_4090", "1", "tg", "128", "100"),
    ("c", "gpt-oss-120b", "MXFP4", "llama.cpp", "NVIDIA RTX 4090", "rtx_4090", "1", "tg", "128", "100"),
    ("d", "gpt-oss-20b", "MXFP4", "llama.cpp", "NVIDIA RTX 4090", "rtx_4090", "1", "dance", "128", ""),
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.csv", COLUMNS, *ROWS)


def write(path: Path, *lines: tuple[str, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


def test_every_row_has_an_answer(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    assert main(["predict", "--rows", str(rows), "-o", str(out)]) == 0
    with out.open(newline="") as file:
        table = csv.DictReader(file)
        assert tuple(table.fieldnames or ()) == ANSWER
        found = {line["row_id"]: line for line in table}
    assert list(found) == [row[0] for row in ROWS]
    speeds = [float(found["a"][f"predicted_p{p}"]) for p in (10, 50, 90)]
    assert speeds == sorted(speeds)
    assert speeds[0] > 0
    for name in "bcd":
        assert found[name]["predicted_p50"] == ""
        assert found[name]["reason"]
    said = capsys.readouterr().out
    assert "1 of 4 rows predicted, 3 refused" in said
    assert f"answers: {out}" in said
    assert "does not fit" in said


def test_a_row_is_predicted_without_its_measurement(tmp_path: Path) -> None:
    """The answer must not depend on what was measured."""
    answers = []
    for i, measured in enumerate(("240", "1", "")):
        rows = write(tmp_path / f"{i}.csv", COLUMNS, (*KNOWN[:-1], measured))
        assert main(["predict", "--rows", str(rows), "-o", str(tmp_path / "out.csv")]) == 0
        answers.append((tmp_path / "out.csv").read_text())
    assert len(set(answers)) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "needs -o"),
        (["-o", "{rows}"], "is the table itself"),
        (["olmoe-1b-7b", "-o", "{out}"], "leave MODEL"),
        (["--explain", "-o", "{out}"], "leave MODEL"),
        (["--step-tokens", "2048", "-o", "{out}"], "--step-tokens out"),
    ],
)
def test_wrong_use_is_refused_before_the_work(
    words: list[str], sentence: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = rows.read_text(), tmp_path / "out.csv"
    assert main(["predict", "--rows", str(rows), *(w.format(rows=rows, out=out) for w in words)]) == 2
    assert sentence in capsys.readouterr().err
    assert rows.read_text() == before
    assert not out.exists()


@pytest.mark.parametrize("place", ["", "nowhere/out.csv"])
def test_a_place_that_cannot_be_written_is_refused(place: str, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--rows", str(rows), "-o", str(tmp_path / place)])
    assert ended.value.code == 2


def test_a_table_that_cannot_be_read_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    for path in (tmp_path / "nowhere.csv", write(tmp_path / "bare.csv", ("row_id", "model"))):
        assert main(["predict", "--rows", str(path), "-o", str(out)]) == 2
        said = capsys.readouterr().err
        assert str(path) in said
        assert said.count("\n") == 1
        assert not out.exists()


def test_without_a_model_or_rows_it_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["olmoe-1b-7b"], ["--lab", "rtx-4090"]):
        assert main(["predict", *words]) == 2
        assert "name a model and a lab" in capsys.readouterr().err
    assert main(["predict", "olmoe-1b-7b", "--lab", "rtx-4090", "-o", "x.csv"]) == 2
    assert "--json" in capsys.readouterr().err


def test_summary_counts_reasons_and_hits() -> None:
    rows = [_row(str(i), speed) for i, speed in enumerate((100.0, 130.0, None, 50.0, None))]
    answers = [
        Answer("0", 90.0, 110.0, 120.0),
        Answer("1", 90.0, 100.0, 120.0),
        Answer("2", 1.0, 2.0, 3.0),
        Answer("3", reason="does not fit: this"),
        Answer("4", reason="does not fit: that"),
    ]
    said = list(summary(rows, answers))
    assert said[0] == "3 of 5 rows predicted, 2 refused"
    assert said[1] == "beside the measured speeds: median error 17 %, 50 % inside p10 to p90"
    assert said[2].split() == ["2", "does", "not", "fit"]
    assert len(said) == 3


def test_many_kinds_of_reasons_are_cut_short() -> None:
    said = list(summary([], [Answer(str(i), reason=f"reason {'abcdefghijkl'[i]}") for i in range(12)]))
    assert said[-1].split()[0] == "4"
    assert len(said) == 1 + 8 + 1


@pytest.mark.parametrize(
    ("reason", "want"),
    [
        ("does not fit: x needs 12 GB", "does not fit"),
        ("the model 'x' is not known", "the model '...' is not known"),
        ("28 of 64 layers on the card: which", "n of n layers on the card"),
        ("the number of devices (4 (2+2)) is not one number", "the number of devices is not one number"),
        ("the number of devices (1-4) is not one number", "the number of devices is not one number"),
    ],
)
def test_kinds_of_reasons(reason: str, want: str) -> None:
    assert kind_of(reason) == want


def _row(row_id: str, speed: float | None) -> Row:
    return Row(row_id, "m", "q", "e", "h", "tg", tokens_per_s=speed)
