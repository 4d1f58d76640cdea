"""A result that took minutes to measure is never lost, wherever it can't be written."""

from pathlib import Path

import pytest

from bench_sample import sample_result
from motley.bench.journal import Done, Journal
from motley.bench.result import load_result
from motley.bench.store import Store
from motley.cli import bench
from motley.cli.keep import Places, keep
from motley.cli.main import build_parser


@pytest.fixture
def no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data folder can't be made: a file is in its place."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOTLEY_DATA", str(tmp_path / "file"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.mark.usefixtures("no_store")
def test_without_a_store_the_json_is_written_all_the_same(tmp_path: Path) -> None:
    _, lost = keep(sample_result(), Places(tmp_path / "r.json", tmp_path / "r.html"))
    assert load_result(tmp_path / "r.json") == sample_result()
    assert (tmp_path / "r.html").stat().st_size > 1000
    assert len(lost) == 1
    assert "MOTLEY_DATA" in lost[0]


@pytest.mark.usefixtures("no_store")
@pytest.mark.parametrize("json", [None, Path("nowhere/r.json")])
def test_without_any_place_it_goes_to_the_temporary_folder(tmp_path: Path, json: Path | None) -> None:
    kept, lost = keep(sample_result(), Places(json))
    (found,) = tmp_path.glob("motley-result-*.json")
    assert str(found) in kept[0]
    assert load_result(found) == sample_result()
    assert len(lost) == (1 if json is None else 2)


def test_a_suites_journal_is_there_until_its_result_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between the two costs nothing: --resume has it all."""
    monkeypatch.setenv("MOTLEY_DATA", str(tmp_path))
    journal = Journal.fresh("quick", ("question",), "monday")
    journal.add(Done(unit="tg8"))
    assert journal.path
    args = build_parser(only="bench").parse_args(["bench", "--suite", "quick"])
    monkeypatch.setattr("motley.cli.bench.measured", lambda args, progress, tell: (sample_result(), journal))
    monkeypatch.setattr("motley.cli.bench.keep", raises_interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run(args)
    monkeypatch.setattr("motley.cli.bench.keep", keep)
    assert journal.path.is_file()
    assert bench.run(args) == 0
    assert Store().get(1) == sample_result()
    assert not journal.path.exists()


def raises_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_page_that_cannot_be_written_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTLEY_DATA", str(tmp_path))
    kept, lost = keep(sample_result(), Places(tmp_path / "r.json", tmp_path))
    assert load_result(tmp_path / "r.json") == sample_result()
    assert kept == [f"Kept as result 1 in {tmp_path / 'results.sqlite'}"]
    assert len(lost) == 1
