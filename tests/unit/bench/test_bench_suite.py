"""Suites: the files that come with Motley, and what is said about a wrong one."""

from pathlib import Path

import pytest

from motley.bench.load import Objectives
from motley.bench.suite import Load, Suite, names, parse
from motley.errors import UsageError
from motley.predict.workload import Workload


def test_the_suites_of_the_design_are_there() -> None:
    assert names() == ["concurrency", "moe-depth", "prefill", "quick", "soak", "standard"]


@pytest.mark.parametrize("name", names())
def test_each_takes_enough_samples_of_different_things(name: str) -> None:
    suite = Suite.load(name)
    assert suite.about
    assert suite.repeat >= 5
    assert len({unit.name for unit in suite.units}) == len(suite.units) >= 1


def test_a_table_means_every_combination_and_each_load_once(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        """
        about = "mine"
        repeat = 7
        [[speed]]
        pp = [64, 0]
        tg = [8]
        depth = [0, 32]
        [[load]]
        prompt = 16
        output = 4
        concurrency = [1, 2, 2]
        tpot_ms = 50
        """
    )
    suite = Suite.load(str(tmp_path / "mine.toml"))
    assert (suite.name, suite.repeat) == ("mine", 7)
    assert [unit.name for unit in suite.units] == ["pp64", "pp64@d32", "tg8", "tg8@d32", "16+4c1", "16+4c2"]
    assert suite.units[3] == Workload("decode", 8, 32)
    assert suite.units[5] == Load(16, 4, 2, objectives=Objectives(tpot_ms=50))


SAME_SIZES = """
about = 'x'
[[load]]
prompt = 16
output = 4
concurrency = [1, 2]
tpot_ms = 50
[[load]]
prompt = 16
output = 4
concurrency = [2]
per_slot = 3
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("about = 1", "about"),
        ("about = 'x'\n[[speed]]\npp = ['a']", r"speed\[0\].pp\[0\]"),
        ("about = 'x'\n[[speed]]\npp = [1]\nquant = 'q4_k'", "quant"),
        ("about = 'x'\n[[load]]\nprompt = 0\noutput = 1\nconcurrency = [1]", r"load\[0\].prompt"),
        ("about = 'x'\n[[load]]\nprompt = 1\noutput = 1\nconcurrency = [99999]", "concurrency"),
        ("about = 'x'", "nothing to measure"),
        ("about = 'x'\n[[speed]]\npp = [0]", "nothing to measure"),
        ("about = ", "no TOML"),
        (SAME_SIZES, r"per_slot = 2, tpot_ms = 50 and a load with per_slot = 3 are both called 16\+4c2"),
    ],
)
def test_a_wrong_suite_is_named_by_its_field(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse("wrong", text.encode())


@pytest.mark.parametrize(("name", "words"), [("fast", "concurrency, moe-depth"), ("none/here.toml", "cannot read")])
def test_an_unknown_suite_says_what_there_is(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Suite.load(name)


def test_a_load_is_over_after_its_runs_and_its_time() -> None:
    load, soak = Load(16, 4, 2), Load(16, 4, 2, seconds=60)
    assert (load.requests, load.context) == (4, 20)
    assert [load.enough(n, 1.0, 5) for n in (4, 5)] == [False, True]
    assert [soak.enough(n, s, 5) for n, s in ((4, 70.0), (9, 59.0), (9, 60.0))] == [False, False, True]
    assert soak.done(5, 30.0, 5) == 0.5
