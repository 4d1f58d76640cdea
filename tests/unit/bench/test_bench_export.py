"""Exports: rows for a spreadsheet and the block to paste, of every kind of result, with other people's text in it."""

import csv
import io
import re

import pytest
from msgspec import structs

from bench_sample import sample_result, sample_served, sample_suite
from motley.bench.export import COLUMNS, cell, csv_text
from motley.bench.markdown import markdown
from motley.bench.result import Result
from motley.bench.served import AnyResult

RESULTS: dict[str, AnyResult] = {"old": sample_result(), "suite": sample_suite(), "server": sample_served()}
EVIL = '=cmd|"/c calc"!A1 **x** <b>y</b> [z](http://evil) `w` |\n# row'


def rows(result: AnyResult) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(result), newline="")))


@pytest.mark.parametrize("name", RESULTS)
def test_a_row_for_each_test_and_load(name: str) -> None:
    result = RESULTS[name]
    found = rows(result)
    assert list(found[0]) == list(COLUMNS)
    assert [row["test"] for row in found] == [
        *(t.test for t in result.results),
        *(f"{x.prompt_tokens}+{x.output_tokens}" for x in result.loads),
    ]
    assert {row["command"] for row in found} == {result.command}


def test_what_a_row_holds() -> None:
    suite = sample_suite()
    test, load = suite.results[-1], suite.loads[-1]
    deep, last = rows(suite)[len(suite.results) - 1], rows(suite)[-1]
    assert test.experts_activated
    assert float(deep["experts_activated"]) == test.experts_activated.measured
    assert float(deep["tokens_per_s_mean"]) == pytest.approx(sum(test.tokens_per_s.samples) / 5)
    assert (deep["batch"], deep["depth"], deep["check"], deep["flags"]) == ("16", "128", "passed", "")
    assert load.tpot_ms
    assert float(last["tpot_ms_p99"]) == load.tpot_ms.p99
    assert (last["concurrency"], last["batch"], last["failed_requests"]) == ("16", "", "0")


def test_steps_of_another_size_are_said() -> None:
    """Where measured here: a server keeps its own to itself."""
    usual, larger, served = sample_suite(), structs.replace(sample_suite(), step_tokens=2048), sample_served()
    assert [{row["step_tokens"] for row in rows(x)} for x in (usual, larger, served)] == [{"512"}, {"2048"}, {""}]
    assert "a step carries up to 2,048 tokens, not 512" in markdown(larger)
    assert "a step carries" not in markdown(usual) + markdown(served)


def flagged() -> Result:
    suite = sample_suite()
    loads = (structs.replace(suite.loads[0], errors={"HTTP 500": 2}), *suite.loads[1:])
    return structs.replace(suite, check=None, loads=loads)


def test_flags_stand_at_their_rows() -> None:
    found = rows(flagged())
    assert {row["flags"] for row in found[: len(flagged().results)]} == {"not-checked"}
    assert found[len(flagged().results)]["flags"] == "not-checked failed-requests"


def test_a_spreadsheet_computes_nothing_that_others_wrote() -> None:
    result = sample_result()
    hostile = structs.replace(result, command=EVIL, model=structs.replace(result.model, name=EVIL))
    (row, *_) = rows(hostile)
    assert row["command"] == row["model"] == f"'{EVIL}"


@pytest.mark.parametrize(
    "text", ["=1", "+1", "-1", "@x", " =1", "\n=1", "\t=1", "\r\n +1", "\xa0@x", "\u3000=1", "\x00-1"]
)
def test_a_formula_is_text_whatever_space_stands_before_it(text: str) -> None:
    assert cell(text).startswith("'")
    assert cell(text).endswith(text.lstrip("\0").strip())
    assert (cell(-1.5), cell(None), cell("a = 1")) == (-1.5, "", "a = 1")


def test_the_table_is_llama_benchs() -> None:
    head, rule, first, *_ = markdown(sample_result()).splitlines()
    assert head.startswith("| model | size | params | backend | threads | test | t/s |")
    assert rule.startswith("| --- | ---: | ---: | --- | ---: | ---: | ---: |")
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[:6] == ["qwen3moe motley-tales-10m q8\\_0", "8.96 MiB", "10.30 M", "CPU", "3", "pp128"]
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", cells[6])


@pytest.mark.parametrize("name", RESULTS)
def test_a_block_says_where_it_comes_from(name: str) -> None:
    result = RESULTS[name]
    text = markdown(result)
    for needed in (result.command, result.commit or "", "at least 5 samples", "8488C"):
        assert needed in text
    for load in result.loads:
        assert f"| {load.concurrency} | {load.prompt_tokens} + {load.output_tokens} |" in text
    for line in text.splitlines():
        assert line.count("|") == 0 or line.startswith("|")
    widths = {
        block: {line.count("|") for line in block.splitlines()} for block in text.split("\n\n") if block[0] == "|"
    }
    assert all(len(counts) == 1 for counts in widths.values())


def test_a_flagged_result_says_so_first() -> None:
    text = markdown(flagged())
    assert text.startswith("**Flagged: not for publication.**\n")
    assert "`failed-requests` 128+64 c1: 2 requests failed (2 x HTTP 500). Remedy:" in text
    assert "Flagged" not in markdown(sample_suite())


def test_markup_of_others_stays_text() -> None:
    result = sample_served()
    hostile = structs.replace(result, command=EVIL, server=structs.replace(result.server, model=EVIL, software=EVIL))
    text = markdown(hostile)
    plain = re.sub(r"\\.", "", text.replace("``", ""))  # what is escaped, and the fence of the command
    table = "\n".join(line for line in plain.splitlines() if line.startswith("|"))
    assert not re.search(r"[<>`\[\]*]", table)
    assert {line.count("|") for line in table.splitlines()[:3]} == {5}
    assert not any(line.startswith("#") for line in text.splitlines())
