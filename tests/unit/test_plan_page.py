"""The plan's page: self-contained, escaped, well-formed, and with the plan's figures in it."""

import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from labs import device, lab, placed, tiny_shape

from motley.cli.main import main
from motley.lab.lab import Lab, Link
from motley.lab.labs import find_lab
from motley.lab.placement import LayerPlacement, Placement
from motley.plan.objective import Objective
from motley.plan.picture import curves, layers, links, machines, timeline
from motley.plan.picture.facts import Asked, Held, class_name, group_of, groups
from motley.plan.picture.page import render
from motley.plan.search import find_placement
from motley.predict.cost import CostModel
from motley.predict.explain import explain
from motley.predict.memory import gigabytes
from motley.predict.predict import layer_costs, price
from motley.predict.published.nearest import nearest
from motley.predict.routes import Routes
from motley.predict.show import number
from motley.predict.workload import Workload
from motley.shape.model import ModelShape
from pages import Outline

OLMOE = ModelShape.named("olmoe-1b-7b", "q4_k")
PAIR = lab(device("fast", 3e9, speed=4), device("big", 64e9), rtt_us=10)
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def asked(shape: ModelShape = OLMOE, there: Lab = PAIR, workload: str = "tg64", **more: object) -> Asked:
    found = find_placement(shape, there, Workload.parse(workload), seconds=0.2)
    return Asked(shape, there, found, **more)  # type: ignore[arg-type]


def arranged(shape: ModelShape, there: Lab, placement: Placement, routes: Routes | None = None) -> Asked:
    """A plan with this placement, whatever the search would say."""
    one = asked(shape, there)
    model = CostModel(shape, one.laid_out, Workload(), routes)
    return replace(one, plan=replace(one.plan, placement=placement, prediction=price(model, placement)), routes=routes)


def two_stages(shape: ModelShape) -> Placement:
    rows = [LayerPlacement(("fast", "big")[i > 3], ("fast", "big") * (shape.n_experts // 2)) for i in range(16)]
    return Placement(tuple(rows))


CASES = ("one", "pair", "prompt", "stages", "copies")


@cache
def case(name: str) -> Asked:
    if name == "one":
        return asked(there=lab(device("alone")))
    if name == "copies":
        near = lab(*(device(n, 5e9, op_overhead_us=0.1, call_us=0.1) for n in ("left", "right")), rtt_us=5, gb_s=10)
        return Asked(OLMOE, near, find_placement(OLMOE, near, copies=True))
    if name == "stages":
        return arranged(OLMOE, PAIR, two_stages(OLMOE))
    return asked(workload="pp512" if name == "prompt" else "tg64")


@cache
def page_of(name: str) -> str:
    return render(case(name), notes=("tb5-rdma became tb4",))


@pytest.mark.parametrize("name", CASES)
def test_page_is_well_formed_and_fetches_nothing(name: str) -> None:
    page = page_of(name)
    outline = Outline(page)
    assert not re.search(r"@import|url\(", page)
    assert not {tag for tag, _ in outline.tags} & {"script", "link", "img", "iframe", "use"}
    assert not {key for _, attrs in outline.tags for key in attrs} & {"src", "href", "xlink:href"}
    assert "prefers-color-scheme: dark" in page
    pictures = re.findall(r'<svg role="img".*?</svg>(?=\s*<(?!/svg|circle|text|rect|line|path))', page, re.DOTALL)
    assert len(pictures) >= 6
    for text in pictures:
        ElementTree.fromstring(text)
    assert all(attrs.get("aria-label") for tag, attrs in outline.tags if tag == "svg" and attrs.get("role") == "img")


@pytest.mark.parametrize("name", CASES)
def test_page_holds_the_plans_figures(name: str) -> None:
    one = case(name)
    text = Outline(page_of(name)).text
    found = one.plan.prediction
    for value in (found.p50, found.p10, found.p90, found.ms_per_step):
        assert number(value) in text
    for reason in one.plan.reason:
        assert reason in text
    for group in groups(one):
        assert group.name in text
        assert gigabytes(group.held.of) in text
    for curve in curves.curves(one):
        for point in curve.points:
            assert point.workload.name in text
            if point.found:
                assert number(point.found.p50) in text
                assert number(point.found.p10) in text
            else:
                assert point.reason in text
    for line in explain(one.shape, one.laid_out, one.plan.placement, found.workload).lines:
        assert line.what in text
        assert line.rate in text
    for words in (one.shape.name, "motley", "tb5-rdma became tb4", "q4_k", "measured"):
        assert words in text.lower()


def test_an_objective_of_several_parts_shows_them_all() -> None:
    found = find_placement(OLMOE, PAIR, objective=Objective.parse("pp512+tg64"), seconds=0.2)
    text = Outline(render(Asked(OLMOE, PAIR, found))).text
    for one in found.predictions:
        assert number(one.p50) in text
    assert f"{number(found.seconds[1])} s" in text
    assert "pp512+tg64" in text


def test_foreign_text_stays_text() -> None:
    there = lab(device(EVIL, 3e9, speed=4), device("mac & <co>", 64e9))
    there = replace(there, links=tuple(replace(x, transport=EVIL, source=EVIL) for x in there.links))
    one = asked(replace(OLMOE, name=EVIL, source=EVIL), there)
    outline = Outline(render(replace(one, plan=replace(one.plan, reason=[EVIL])), notes=(EVIL,)))
    assert outline.text.count("<script>alert(1)</script>") > 5
    assert "mac & <co>" in outline.text
    assert not {tag for tag, _ in outline.tags} & {"script", "img"}
    assert not any(name.startswith("on") for _, attrs in outline.tags for name in attrs)


# -- what holds what


def test_a_few_devices_are_drawn_each_and_many_by_class() -> None:
    assert [g.name for g in groups(case("pair"))] == ["fast", "big"]
    names = [f"box{i:02}" for i in range(12)]
    many = lab(device("home", 64e9, speed=9), *(device(name, 1e9) for name in names))
    found = groups(asked(there=many))
    assert sorted(len(g.devices) for g in found if g.name != "home") == [12]
    assert len({g.number for g in found}) == len(found)
    assert group_of(found).keys() == {"home", *names}


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (["mac1"], "mac1"),
        (["mac1", "mac12"], "2 x mac*"),
        (["a", "b"], "a and 1 alike"),
        (["rack-1-gpu-0", "rack-1-gpu-1"], "2 x rack-1-gpu*"),
    ],
)
def test_names_of_classes(names: list[str], want: str) -> None:
    assert class_name(names) == want


def test_held_bytes_are_the_plans() -> None:
    one = case("pair")
    found = groups(one)
    whole = sum((g.held for g in found), Held())
    assert whole.home + whole.experts >= OLMOE.n_bytes
    assert whole.of == sum(d.memory_bytes for d in PAIR.devices)
    for group in found:
        assert group.held.total <= group.held.of
    assert sum(g.expert_share for g in found) == pytest.approx(1)
    assert sum(g.home_layers for g in found) == OLMOE.n_layers
    bar = ElementTree.fromstring(machines.memory_bar(found[0], machines.largest_memory(found)))
    assert 0 < sum(float(r.attrib["width"][:-1]) for r in bar if r.attrib["class"] != "room") <= 100


# -- time


@pytest.mark.parametrize("name", CASES)
def test_the_time_line_ends_with_the_step(name: str) -> None:
    one = case(name)
    line = timeline.time_line(one, groups(one))
    assert line.ms == pytest.approx(one.plan.prediction.ms_per_step)
    assert max(p.end for p in line.pieces) == pytest.approx(line.ms)
    assert max(p.end for p in line.layer_pieces) == pytest.approx(line.layer_ms)
    for lane in {(p.group, p.other) for p in line.pieces}:
        own = sorted((p for p in line.pieces if (p.group, p.other) == lane), key=lambda p: p.start)
        for before, after in pairwise(own):
            assert after.start >= before.end - 1e-9 * line.ms, (before, after)


def test_lanes_are_the_averages_of_what_each_device_does() -> None:
    shape = tiny_shape(n_experts=8, n_used=2)
    placement = placed(shape, "fast", "fast", "big")
    model = CostModel(shape, PAIR, Workload())
    costs, homes, sets = layer_costs(model, placement)
    owner = np.array([0, 1] * 4)
    home, away = model.lanes(0, homes[0], owner, sets)
    assert (home.device, away.device) == (0, 1)
    assert home.link_ms == 0
    assert home.asked == away.asked == pytest.approx(1 - 6 / 28)  # both choices on the other: C(4, 2) of C(8, 2)
    assert away.link_ms == pytest.approx(model.exchange(0, 1).ms * away.asked)
    spent = costs[0].attention.ms + costs[0].router.ms + costs[0].python.ms
    assert max(home.experts_ms, away.link_ms + away.experts_ms) < costs[0].ms - spent


@pytest.mark.parametrize(("most", "want"), [(1.0, 0.2), (949.0, 200.0), (0.07, 0.02), (5.0, 1.0), (61.0, 20.0)])
def test_ticks_are_round_and_few(most: float, want: float) -> None:
    found = timeline.ticks(most)
    assert found[0] == 0
    assert found[1] == pytest.approx(want)
    assert found[-1] <= most < found[-1] + want * 1.0001


# -- curves


def test_curves_stop_where_memory_or_context_does() -> None:
    batch, depth = curves.curves(case("pair"))
    assert [p.label for p in batch.points] == [str(n) for n in curves.BATCHES]
    assert depth.end is not None
    assert "4,096" in depth.end.reason or "missing" in depth.end.reason
    reached = [p.found is not None for p in depth.points]
    assert reached == sorted(reached, reverse=True)
    speeds = [p.found.p50 for p in batch.points if p.found]
    assert speeds[1] > speeds[0]
    svg = ElementTree.fromstring(curves.curve_picture(depth))
    assert sum(e.attrib.get("class") == "spot" for e in svg.iter()) == sum(reached)
    assert any(e.attrib.get("class") == "beyond" for e in svg.iter())


def test_shares_fill_their_columns() -> None:
    batch, _ = curves.curves(case("pair"))
    svg = ElementTree.fromstring(curves.shares_picture(batch))
    heights: dict[str, float] = {}
    for rect in svg.iter("rect"):
        heights[rect.attrib["x"]] = heights.get(rect.attrib["x"], 0.0) + float(rect.attrib["height"])
    assert len(heights) == len(batch.predicted)
    assert all(high == pytest.approx(60, abs=0.1) for high in heights.values())


# -- layers


def test_layers_show_homes_and_shares() -> None:
    one = case("stages")
    found = groups(one)
    svg = ElementTree.fromstring(layers.layers_picture(one, found))
    rects = [(r.attrib, r[0].text) for r in svg.iter("rect")]
    home = [float(a["width"][:-1]) for a, title in rects if title and "at home" in title]
    assert home == [25.0, 75.0]
    assert layers.shares_of(one, found) == [((0, 0.5), (1, 0.5))] * 16


def test_copies_are_held_and_drawn() -> None:
    one = case("copies")
    assert one.copies > 0
    found = groups(one)
    assert sum(g.expert_share for g in found) == pytest.approx(1 + one.copies / (16 * 64))
    heights: dict[str, float] = {}
    for rect in ElementTree.fromstring(layers.layers_picture(one, found)).iter("rect"):
        if "of the experts" in (rect[0].text or ""):
            heights[rect.attrib["x"]] = heights.get(rect.attrib["x"], 0.0) + float(rect.attrib["height"])
    assert list(heights.values()) == pytest.approx([130] * len(heights), abs=0.1)
    assert f"{one.copies:,} copies" in Outline(page_of("copies")).text
    explained = explain(OLMOE, one.laid_out, one.plan.placement, Workload())
    assert sum(line.ms for line in explained.lines) == pytest.approx(one.plan.prediction.ms_per_step)


def test_layers_without_experts_are_drawn_empty() -> None:
    one = asked(ModelShape.named("deepseek-v2-lite", "q4_k"), lab(device("alone")))
    svg = layers.layers_picture(one, groups(one))
    assert svg.count("none-held") == 1
    Outline(render(one))


def test_a_dense_model_has_a_page_too() -> None:
    one = asked(ModelShape.named("llama-3-8b", "q4_k"), lab(device("alone")))
    assert "32 layers, dense, width 4096" in Outline(render(one)).text


def test_devices_of_the_catalogue_stand_beside_what_others_measured() -> None:
    card = find_lab("rtx-4090", "motley").lab
    one = asked(there=card)
    text = Outline(render(one)).text
    rows = nearest(OLMOE, card, {card.devices[0].name}, Workload())
    assert rows
    for row in rows:
        assert row.model in text
        assert number(row.tokens_per_s) in text
    assert "What others measured" not in Outline(page_of("pair")).text


def test_choices_of_a_trace_are_counted() -> None:
    shape = tiny_shape(n_layers=2, n_experts=4, n_used=2)
    routes = Routes(np.tile(np.array([[[0, 2], [0, 2]]], np.int32), (10, 1, 1)), 4)
    one = arranged(shape, PAIR, placed(shape, "fast", "fast", "big"), routes)
    shares = {g.name: g.choice_share for g in groups(one)}
    assert shares == {"fast": 1.0, "big": 0.0}
    page = render(one)
    assert "of the choices" in Outline(page).text
    grid = re.search(r'<svg[^>]*class="map".*?</svg>', page, re.DOTALL)
    assert grid
    cells = [p for p in ElementTree.fromstring(grid[0]).iter("path") if "cell" in p.attrib["class"]]
    assert sum(p.attrib["d"].count("M") for p in cells) == 2 * 4
    assert {p.attrib["class"] for p in cells} == {"cell d0 p6", "cell d1 p0"}


# -- links


def test_links_alike_are_one_bus() -> None:
    macs = [device(f"mac{i}") for i in range(3)]
    there = Lab(
        (device("card", 9e9, speed=9), *macs),
        (Link("mac*", "mac*", "jaccl", 40, 9), Link("card", "mac*", "tcp", 100, 1.1)),
    )
    one = arranged(OLMOE, there, placed(OLMOE, "card", "card", "mac0"))
    found = groups(one)
    lines = links.buses(one, found, explain(OLMOE, there, one.plan.placement, Workload()))
    assert [(b.letter, b.transport) for b in lines] == [("A", "tcp"), ("B", "jaccl")]  # the busy one first
    names = [g.name for g in found]
    assert links.joins(lines[0], found).startswith("card to each of")
    assert links.joins(lines[1], found) == "all of " + ", ".join(n for n in names if n != "card")
    assert links.words(lines[0]) == "tcp, 100 us round trip, 1.1 GB/s"
    assert lines[0].exchanges > 0
    assert lines[1].ms == 0
    link = sum(t.ms for t in one.plan.prediction.terms if t.name == "link")
    assert lines[0].ms == pytest.approx(link)
    drawn = [ElementTree.fromstring(links.gutter(lines, i)) for i in range(len(found))]
    dots = [sum(1 for e in svg.iter("circle")) for svg in drawn]
    assert dots == [1 if name == "card" else 2 for name in names]


def test_measured_links_of_many_figures_are_drawn_by_transport() -> None:
    boxes = tuple(device(f"box{i}") for i in range(5))
    pairs = [(a.name, b.name) for i, a in enumerate(boxes) for b in boxes[i + 1 :]]
    there = Lab(boxes, tuple(Link(a, b, "tcp", 50 + i, 1 + i / 10) for i, (a, b) in enumerate(pairs)))
    one = asked(there=there)
    lines = links.buses(one, groups(one), explain(OLMOE, one.laid_out, one.plan.placement, Workload()))
    assert [links.words(b) for b in lines] == ["tcp, 50 to 59 us round trip, 1 to 1.9 GB/s"]


def test_devices_of_one_machine_have_no_bus() -> None:
    there = Lab((device("gpu", 3e9, speed=4, node="pc"), device("cpu", node="pc")))
    one = asked(there=there)
    assert links.buses(one, groups(one), explain(OLMOE, one.laid_out, one.plan.placement, Workload())) == []
    Outline(render(one))


# -- the command


def test_plan_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PAIR.save(tmp_path / "lab.toml")
    page = tmp_path / "plan.html"
    assert main(["plan", "olmoe-1b-7b", "--lab", str(tmp_path / "lab.toml"), "--html", str(page)]) == 0
    assert f"page: {page}" in capsys.readouterr().out
    assert "olmoe-1b-7b" in Outline(page.read_text()).text


def test_what_ifs_have_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "olmoe-1b-7b", "--lab", "rtx-4090", "--add", "rtx-4090 @10gbe", "--html", str(tmp_path / "x.html")]
    assert main(words) == 2
    assert "--html draws one plan" in capsys.readouterr().err


def test_a_page_for_a_thousand_devices_is_small() -> None:
    shape = tiny_shape(n_layers=8, n_experts=256, n_used=8)
    names = [f"box{i:04}" for i in range(1000)]
    there = Lab(tuple(device(name, 64e9) for name in names), (Link("*", "*", "tcp", 100, 1.0),))
    rows = [LayerPlacement("box0000", tuple(names[(i + e) % 1000] for e in range(256))) for i in range(8)]
    one = arranged(shape, there, Placement(tuple(rows)))
    assert len(render(one)) < 400_000
