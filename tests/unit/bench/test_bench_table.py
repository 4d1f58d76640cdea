"""The terminal's words: the numbers that matter are on the screen."""

from io import StringIO

import pytest
from rich.console import Console, RenderableType

from bench_sample import sample_result
from motley.bench.store import Row
from motley.bench.table import list_view, result_view, side_by_side
from motley.bench.words import size
from motley.predict.show import number


def printed(view: RenderableType, width: int = 160) -> str:
    out = StringIO()
    Console(file=out, width=width).print(view)
    return out.getvalue()


def test_a_result_shows_measured_beside_predicted_and_the_check() -> None:
    result = sample_result()
    text = printed(result_view(result))
    tg = result.results[2]
    for needed in (
        "tg64", "pp512", "tg64 @ d512", "tg64 x 4", number(tg.tokens_per_s.median), "1,010", "828-1,212",
        "11%", "Check passed", "128 of 128 greedy tokens equal", "llama.cpp, repack on *", "its best",
        "small - big (tcp)", "61.2", "22.8", "16.8",
    ):  # fmt: skip
        assert needed in text, needed


def test_runs_side_by_side_compare_with_the_first() -> None:
    text = printed(side_by_side([("1", sample_result(0)), ("2", sample_result(0, speed=1.5))]))
    (row,) = [line for line in text.splitlines() if line.startswith("tg64 @ d512")]
    assert "(1.00x)" in row
    assert "(1.50x)" in row


def test_list() -> None:
    row = Row(3, "2026-11-23T02:10:00Z", "tales", "q8_0", 2, 910.0, False)
    assert "FAILED" in printed(list_view([row]))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (12345.6, "12,346"),
        (123.4, "123"),
        (99.96, "100"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.01234, "0.012"),
        (1e-7, "1.0e-07"),
    ],
)
def test_numbers_have_three_digits(value: float, words: str) -> None:
    assert number(value) == words


def test_sizes() -> None:
    assert [size(n) for n in (12, 9_400_000, 4.2e9)] == ["12 B", "9.4 MB", "4.2 GB"]


def test_a_result_fits_80_columns() -> None:
    """Nothing is cut off, and no table breaks a row in two."""
    text = printed(result_view(sample_result()), width=80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for test in sample_result().results:
        (row,) = [
            line
            for line in text.splitlines()
            if line.startswith(f"{test.label}  ") and "(" in line and "llama" not in line
        ]
        assert row.rstrip()[-1] in "-%"
