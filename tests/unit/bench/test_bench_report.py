"""The HTML report: self-contained, escaped, well-formed, and with the result's numbers in it."""

import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from bench_sample import EXPERTS, LAYERS, sample_load, sample_result, sample_served, sample_suite
from motley.bench.report import charts
from motley.bench.report.curves import Curves, Point, Series, curves_svg
from motley.bench.report.page import render, write_report
from motley.bench.report.series import curves_of
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


def only_loads(result: Result) -> Result:
    return msgspec.structs.replace(bare(result), results=(), loads=(sample_load(),))


PAGES = {
    "full": sample_result(),
    "bare": bare(sample_result()),
    "suite": sample_suite(),
    "loads": only_loads(sample_result()),
    "server": sample_served(),
}


@pytest.mark.parametrize("name", PAGES)
def test_page_is_well_formed_and_fetches_nothing(name: str) -> None:
    page = render(PAGES[name])
    outline = Outline(page)
    assert not re.search(r"(src|href|srcset)=|@import|url\(", page)
    assert name == "server" or not re.search(r"https?:", page)
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


def test_a_suite_is_drawn_and_every_number_of_it_is_in_a_table() -> None:
    suite = sample_suite()
    found = {chart.title: chart for chart in curves_of(suite)}
    assert list(found) == [
        "Reading a prompt",
        "Generating, by depth: tg64",
        "All sequences together: tg32 @ d128",
        "Experts that a step reads in a layer: tg32 @ d128",
        "Throughput: 128 tokens in, 64 out",
        "TTFT: 128 tokens in, 64 out",
        "Between tokens: 128 tokens in, 64 out",
    ]
    text = Outline(render(suite)).text
    for chart in found.values():
        assert chart.title in text
        for series in chart.series:
            assert [p.x for p in series.points] == sorted(p.x for p in series.points)
            assert all(number(p.y) in text for p in series.points)
    experts_read = found["Experts that a step reads in a layer: tg32 @ d128"]
    assert [series.dashed for series in experts_read.series] == [False, True]
    for load in suite.loads:
        assert f"{number(load.ttft_ms.p50)} / {number(load.ttft_ms.p90)}" in text
    assert "pp8192" in text


def test_one_place_is_no_curve() -> None:
    assert curves_of(only_loads(sample_result())) == []


def test_a_curve_is_spoken_and_drawn_inside_its_frame() -> None:
    high = Series("high", [Point(0, 3.0, 1.0, 7.0), Point(512, 5.0, 4.0, 6.0), Point(8192, 0.5, 0.0, 1.0)])
    chart = Curves("Speed", "depth", "tokens/s", [high], linear=True)
    drawn = ElementTree.fromstring(str(curves_svg(chart)))
    assert drawn.get("aria-label") == "Speed, tokens/s over depth. high: 3 at 0, 0.5 at 8192"
    (line,) = [e.get("d") or "" for e in drawn.iter("path") if e.get("class") == "curve s0"]
    places = [tuple(map(float, place.split())) for place in line[1:].split("L")]
    assert all(0 < x < 440 and 0 < y < 230 for x, y in places)
    assert places[0][0] < places[1][0] < places[2][0]
    assert places[1][1] < places[0][1] < places[2][1]  # higher is less far down
    assert (places[1][0] - places[0][0]) / (places[2][0] - places[0][0]) == pytest.approx(512 / 8192, abs=0.01)
    assert [t.text for t in drawn.iter("title")] == ["high, 0: 3", "high, 512: 5", "high, 8192: 0.5"]
    labels = [t.text for t in drawn.iter("text")]
    assert labels[:5] == ["0", "2", "4", "6", "8"]  # not below the band's 7
    assert chart.at(high, 512) == "5 (4-6)"


def test_a_flagged_page_says_so_with_remedies() -> None:
    assert "Flagged" not in Outline(render(sample_suite())).text
    text = Outline(render(msgspec.structs.replace(sample_suite(), check=None))).text
    assert "not for publication" in text
    assert "run it without --no-check" in text


def test_a_servers_page_says_whose_figures_they_are() -> None:
    text = Outline(render(sample_served())).text
    for needed in ("olmoe-1b-7b", "llama.cpp", "http://127.0.0.1:8080/v1", "ignore_eos", "TTFT", "can't be filled"):
        assert needed in text


def test_foreign_text_of_a_server_stays_text() -> None:
    evil = '"><script>alert(1)</script>'
    result = sample_served()
    server = msgspec.structs.replace(result.server, model=evil, software=evil, url=evil, extras=(evil,))
    loads = (msgspec.structs.replace(result.loads[0], errors={evil: 1}), *result.loads[1:])
    outline = Outline(render(msgspec.structs.replace(result, server=server, loads=loads, command=evil, suite=evil)))
    assert outline.text.count("<script>") >= 5
    assert "script" not in {tag for tag, _ in outline.tags}


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
