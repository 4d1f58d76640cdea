"""A suite that is interrupted loses nothing: it goes on with the same question, and with no other."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from bench_fakes import FakeRunner
from test_bench_run import SETTINGS, subject

from bench_sample import sample_lab, sample_placement
from motley.bench.journal import Journal, Placed
from motley.bench.result import SCHEMA, from_json, to_json
from motley.bench.run import asked_workloads, run_bench
from motley.bench.suite import Load
from motley.cli.unfinished import kept_when_interrupted, open_journal, require_same_nodes
from motley.errors import UsageError
from motley.ops.protocol import Batch

QUESTION = ("1.0", "model", "tg8")
PLACED = Placed(lab=sample_lab(), placement=sample_placement(), stored=("big",), reasons=("because",))
SUITE = replace(SETTINGS, suite="mine", workloads=asked_workloads([16], [8], [0, 4, 9000]), loads=[Load(16, 4, 2)])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOTLEY_DATA", str(tmp_path))
    return tmp_path / "unfinished"


class Interrupted(FakeRunner):
    """Ctrl-C at a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def step(self, batch: Batch):  # type: ignore[no-untyped-def]
        if len(self.batches) == self.at:
            raise KeyboardInterrupt
        return super().step(batch)


def test_an_interrupted_suite_goes_on_where_it_was(folder: Path) -> None:
    journal = Journal.fresh("mine", QUESTION, "monday")
    journal.begin(PLACED)
    broken = replace(subject(), open_placed=lambda progress: closing(Interrupted(at=100)))
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), kept_when_interrupted(journal, len(SUITE.units), said.append):
        run_bench(broken, SUITE, journal=journal)
    assert "--resume" in said[0]
    assert 0 < journal.n_done < len(SUITE.units)

    again = Journal.resumed("mine", QUESTION, "tuesday")
    assert again.placed == PLACED
    assert again.n_done == journal.n_done
    runner = FakeRunner()
    result = run_bench(replace(subject(), open_placed=lambda progress: closing(runner)), SUITE, journal=again)
    assert result.sessions == ("monday", "tuesday")
    assert [t.label for t in result.results] == ["pp16", "pp16 @ d4", "tg8", "tg8 @ d4"]
    assert [load.label for load in result.loads] == ["16+4 c2"]
    assert from_json(to_json(result)) == result
    first = again.get("pp16")
    assert first is not None
    assert first.result == result.results[0]
    again.finish()
    assert list(folder.iterdir()) == []


def test_a_suite_skips_what_does_not_fit_and_says_so() -> None:
    result = run_bench(subject(), SUITE)
    assert [s.test for s in result.skipped] == ["pp16@d9000", "tg8@d9000"]
    assert "trained for 4096" in result.skipped[0].why
    assert (result.suite, result.schema) == ("mine", SCHEMA)
    assert result.energy_why


def test_a_suite_of_loads_alone_has_a_result_too() -> None:
    result = run_bench(subject(), replace(SUITE, workloads=[]))
    assert from_json(to_json(result)) == result
    assert (result.results, result.routes, result.exchanges) == ((), None, ())


def test_where_nothing_fits_it_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing was measured"):
        run_bench(subject(), replace(SUITE, workloads=asked_workloads([], [8], [9000]), loads=[]))


@pytest.mark.parametrize("question", [("1.1", "model", "tg8"), ("1.0", "other", "tg8"), ()])
def test_another_question_has_nothing_to_resume(question: tuple[str, ...]) -> None:
    journal = Journal.fresh("mine", QUESTION, "monday")
    run_bench(subject(), SUITE, journal=journal)
    with pytest.raises(UsageError, match="nothing to resume"):
        Journal.resumed("mine", question, "tuesday")


def test_a_damaged_journal_is_none() -> None:
    journal = Journal.fresh("mine", QUESTION, "monday")
    run_bench(subject(), SUITE, journal=journal)
    assert journal.path
    journal.path.write_text(journal.path.read_text()[:-9])
    with pytest.raises(UsageError, match="nothing to resume"):
        Journal.resumed("mine", QUESTION, "tuesday")


def test_a_node_that_left_is_named() -> None:
    require_same_nodes(PLACED.lab, ["a", "b", "c"])
    with pytest.raises(UsageError, match="begun with b, which is not here"):
        require_same_nodes(PLACED.lab, ["a", "c"])


def test_what_an_earlier_run_left_is_told_before_it_is_replaced() -> None:
    said: list[str] = []
    run_bench(subject(), SUITE, journal=open_journal("mine", QUESTION, False, said.append))
    assert said == []
    open_journal("mine", QUESTION, False, said.append)
    assert "7 tests" in said[0]
    assert open_journal("mine", QUESTION, True, said.append).n_done == 7
