"""A trace of a placed model: every lane in order, what was waited for inside what waited, clocks put together."""

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from in_process import three_devices
from motley.bench.trace import write_trace
from motley.engine.placed import PlacedRunner, Site
from motley.engine.trace import Span, Tracer, offset_of, shifted
from motley.lab.placement import LayerPlacement, Placement, RowsPart
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch
from tiny_models import write_tiny

AHEAD_S = 1234.5


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with three_devices(lambda name: NativeOps(threads=1)) as devices:
        yield devices


@pytest.fixture
def spans(tmp_path: Path, site: Site) -> list[Span]:
    """Layer 0 at home on a, layer 1 on b; experts on all; the head's rows on b and a."""
    path = write_tiny(tmp_path, "olmoe", "q8_0")
    layers = tuple(LayerPlacement(home, tuple("abc"[e % 3] for e in range(6))) for home in "ab")
    placement = Placement(layers, (RowsPart("b", 0, 200), RowsPart("a", 200, 320)))
    placed = PlacedRunner(str(path), placement, site, context=40)
    placed.step(Batch([1, 2, 3], range(3), [0] * 3, [2]))
    placed.trace(on=True)
    for i in range(3, 9):
        placed.step(Batch([i], [i], [0], [0]))
    found, errors = placed.trace(on=False)
    assert placed.trace(on=False) == ([], pytest.approx(errors, abs=1e5))
    placed.close()
    assert set(errors) == {"b", "c"}
    return found


def lane(spans: list[Span], name: str) -> list[Span]:
    return sorted((span for span in spans if span.lane == name), key=lambda span: span.start)


def test_every_lane_is_there_and_in_order(spans: list[Span]) -> None:
    assert {s.lane for s in spans} >= {"a", "b", "c", "a -> b", "b -> a"}
    assert all(s.end >= s.start for s in spans)
    for name in ("a -> b", "b -> a", "c"):
        each = lane(spans, name)
        for before, after in pairwise(each):
            if not (name == "a -> b" and "layers" in (before.name, after.name)):  # two exchanges may be under way
                assert after.start >= before.end - 1e-6, (before, after)
    assert {"attention", "router", "experts"} <= {s.name for s in lane(spans, "a")}
    assert {"rows of the head"} <= {s.name for s in lane(spans, "b -> a")}


def test_the_others_work_lies_within_the_waiting_for_it(spans: list[Span]) -> None:
    """All run in this process here, so that the clocks are one: aligned to within the round trip."""
    waits = [s for s in lane(spans, "b -> a") if s.name == "rows of the head"]
    works = [s for s in lane(spans, "a") if s.name == "rows of the head"]
    assert len(waits) == len(works) == 6
    for wait, work in zip(waits, works):
        assert wait.start - 2e-3 <= work.start <= work.end <= wait.end + 2e-3


def test_a_clock_that_is_ahead_is_put_right() -> None:
    offset, error = offset_of(lambda: time.perf_counter() + AHEAD_S)
    assert abs(offset - AHEAD_S) <= error + 1e-9
    (span,) = shifted([Span("x", "y", AHEAD_S + 1, AHEAD_S + 2)], AHEAD_S)
    assert (span.start, span.end) == (1, 2)


def test_it_costs_a_bounded_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motley.engine.trace.MOST", 3)
    tracer = Tracer("a")
    for i in range(10):
        tracer.note("x", i, i + 1)
    assert len(tracer.take()) == 3
    assert tracer.take() == []


def test_the_file_is_what_perfetto_reads(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    write_trace([Span("b", "work", 10.002, 10.003), Span("a -> b", "wait", 10.001, 10.004)], {"b": 12.0}, path)
    told = json.loads(path.read_text())
    events = [e for e in told["traceEvents"] if e["ph"] == "X"]
    assert [(e["name"], e["ts"], e["dur"]) for e in events] == [("wait", 0.0, 3000.0), ("work", 1000.0, 1000.0)]
    names = {e["tid"]: e["args"]["name"] for e in told["traceEvents"] if e["name"] == "thread_name"}
    assert names == {1: "b (clock within 12 us)", 2: "a -> b"}
