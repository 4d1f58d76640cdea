"""The HTML report: self-contained, escaped, well-formed, and with the result's numbers in it."""

import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from bench_sample import EXPERTS, LAYERS, sample_result

from motley.bench.report import charts
from motley.bench.report.page import render, write_report
from motley.bench.result import Result
from motley.page import experts
from motley.page.svg import element
from motley.predict.show import number
from pages import Outline


def bare(result: Result) -> Result:
    """Nothing optional."""
    tests = tuple(
        msgspec.structs.replace(t, predicted_tokens_per_s=None, bandwidth_fraction=None) for t in result.results
    )
    return msgspec.structs.replace(
        result, results=tests, check=None, routes=None, exchanges=(), peers=(), commit=None, reasons=()
    )


@pytest.mark.parametrize("result", [sample_result(), bare(sample_result())], ids=["full", "bare"])
def test_page_is_well_formed_and_fetches_nothing(result: Result) -> None:
    page = render(result)
    outline = Outline(page)
    assert not re.search(r"https?:|@import|url\(", page)
    assert not {tag for tag, _ in outline.tags} & {"script", "link", "img", "iframe"}
    assert {"main", "h1", "h2"} <= {tag for tag, _ in outline.tags}
    assert all(
        attrs.get("aria-label") or attrs.get("aria-hidden")
        for tag, attrs in outline.tags
        if tag == "svg" and "overflow" not in attrs
    )


def test_page_says_what_was_measured() -> None:
    result = sample_result()
    text = Outline(render(result)).text
    for test in result.results:
        assert test.label in text
        assert number(test.tokens_per_s.median) in text
        assert test.predicted_tokens_per_s
        assert number(test.predicted_tokens_per_s.p50) in text
    for needed in (result.command, "e9710f1a2b3c", "8488C", "128 of 128", "tcp", "16.8", "61.2", "22.8", "repack off"):
        assert needed in text


def test_foreign_text_stays_text() -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    result = sample_result()
    lab = msgspec.convert(
        msgspec.json.decode(msgspec.json.encode(result.lab).replace(b'"big"', msgspec.json.encode(evil))),
        type(result.lab),
    )
    placed = msgspec.json.encode(result.placement).replace(b'"big"', msgspec.json.encode(evil))
    hostile = msgspec.structs.replace(
        result,
        command=evil,
        commit=evil,
        reasons=(evil,),
        lab=lab,
        placement=msgspec.json.decode(placed, type=type(result.placement)),
        model=msgspec.structs.replace(result.model, name=evil, source=evil, file=evil),
        peers=tuple(msgspec.structs.replace(p, peer=evil, settings={evil: evil}) for p in result.peers),
    )
    outline = Outline(render(hostile))
    assert "<script>alert(1)</script>" in outline.text
    assert not {tag for tag, _ in outline.tags} & {"script", "img"}
    assert not any(name.startswith("on") for _, attrs in outline.tags for name in attrs)


def test_map_draws_every_expert_once() -> None:
    result = sample_result()
    svg = re.search(r'<svg[^>]*class="map".*?</svg>', render(result), re.DOTALL)
    assert svg
    cells = [p for p in ElementTree.fromstring(svg.group()).iter("path") if "cell" in p.attrib["class"]]
    assert sum(p.attrib["d"].count("M") for p in cells) == LAYERS * EXPERTS


def test_large_models_make_a_small_map() -> None:
    layers, n = 60, 384
    svg = experts.expert_map([[e % 3 for e in range(n)]] * layers, [0] * layers, [[1] * n] * layers, "x")
    assert len(svg) < 1_500_000
    assert svg.count("<path") <= 3 * 8


@pytest.mark.parametrize(
    ("count", "want"), [(0, 0), (1, 1), (25, 2), (50, 3), (100, 4), (150, 5), (200, 6), (399, 6), (400, 7)]
)
def test_popularity_is_against_an_even_share(count: int, want: int) -> None:
    assert experts.popularity_class(count, row_total=1000, n_experts=10) == want


def test_no_choices_at_all_is_never() -> None:
    assert experts.popularity_class(0, row_total=0, n_experts=8) == 0


def test_ratio_axis_is_logarithmic_and_holds_everything() -> None:
    axis = charts.RatioAxis.over([0.5, 2.0])
    assert axis.fraction(1.0) - axis.fraction(0.5) == pytest.approx(axis.fraction(2.0) - axis.fraction(1.0))
    assert 0 < axis.fraction(0.5) < axis.fraction(2.0) < 1
    assert {0.7, 1, 1.5} <= set(axis.ticks())
    assert 1 in charts.RatioAxis.over([]).ticks()


def test_stacked_bar_fills_its_width() -> None:
    svg = charts.stacked_bar({"a": 1.0, "b": 0.0, "c": 3.0}, 4.0, "label")
    widths = [float(w) for w in re.findall(r' width="([\d.]+)%"', svg)]
    assert widths == [25.0, 75.0]


def test_cells_differ_in_shape_and_stay_in_their_square() -> None:
    outlines = {experts.cell_path(0, 0, device) for device in range(experts.N_COLOURS)}
    assert len(outlines) == experts.N_COLOURS
    for outline in outlines:
        x, y = map(float, re.findall(r"M([-\d.]+) ([-\d.]+)", outline)[0])
        for dx, dy in re.findall(r"l([-\d.]+) ([-\d.]+)", outline):
            x, y = x + float(dx), y + float(dy)
            assert -0.01 <= x <= experts.SIDE + 0.01
            assert -0.01 <= y <= experts.SIDE + 0.01


def test_elements_escape() -> None:
    assert element("t", "<&>", a='"') == '<t a="&#34;">&lt;&amp;&gt;</t>'


def test_write(tmp_path: Path) -> None:
    write_report(sample_result(), tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
