"""Views: what a page or the API shows of requests and results, worked out before any template runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from markupsafe import Markup

from motley.bench.records import Spread
from motley.bench.report import charts as report_charts
from motley.bench.report import page as report
from motley.bench.result import Result, TestResult, from_json
from motley.bench.words import check_words, machine_words, model_words, placement_words, reasons
from motley.board import charts, gate
from motley.board.ask import line
from motley.board.board import Board
from motley.board.forecast import Speed
from motley.board.states import Shown, State
from motley.board.store import Kept, Request
from motley.page import experts
from motley.predict.workload import Workload

MOST_ELSEWHERE = 20  # other machines' results beside a request


@lru_cache(maxsize=64)
def parsed(json: bytes) -> Result:
    return from_json(json)


@lru_cache(maxsize=256)
def flags(json: bytes) -> tuple[str, ...]:
    """What speaks against a result: by the gate of this Motley, whichever wrote it."""
    return tuple(line(words) for words in gate.flags(parsed(json)))


def workload_name(test: TestResult) -> str:
    return Workload.parse(test.test, test.depth, test.batch).name


@dataclass(frozen=True)
class Compared:
    """A test: predicted, measured here, measured elsewhere."""

    speed: Speed
    here: Spread | None
    elsewhere: tuple[float, ...]

    @property
    def ratio(self) -> float | None:
        return self.here.median / self.speed.p50 if self.here else None

    @property
    def verdict(self) -> str:
        if self.here is None:
            return ""
        if self.speed.p10 <= self.here.median <= self.speed.p90:
            return "within the interval"
        return "slower than predicted" if self.here.median < self.speed.p10 else "faster than predicted"


@dataclass(frozen=True)
class RequestView:
    request: Request
    kept: Kept | None  # the newest measurement
    compared: tuple[Compared, ...]
    elsewhere: tuple[Kept, ...]

    @property
    def result(self) -> Result | None:
        return parsed(self.kept.json) if self.kept else None

    @property
    def strips(self) -> list[tuple[Compared, Markup]]:
        axis = charts.axis_of([(c.speed, c.here, c.elsewhere) for c in self.compared])
        return [(c, charts.strip(c.speed, c.here, c.elsewhere, axis)) for c in self.compared]

    @property
    def scale(self) -> Markup:
        return report_charts.axis_scale(charts.axis_of([(c.speed, c.here, c.elsewhere) for c in self.compared]))


def request_view(board: Board, request: Request) -> RequestView:
    store = board.store
    measured = store.results(request=request.id, limit=1) if request.state is State.MEASURED else []
    others = store.results(model=request.model, quant=request.weights, elsewhere=True, limit=MOST_ELSEWHERE)
    here = {workload_name(t): t.tokens_per_s for t in parsed(measured[0].json).results} if measured else {}
    compared = [
        Compared(speed, here.get(speed.test), tuple(_medians(others, speed.test)))
        for speed in (request.forecast.speeds if request.forecast else ())
    ]
    return RequestView(request, measured[0] if measured else None, tuple(compared), tuple(others))


def _medians(others: Sequence[Kept], test: str) -> list[float]:
    found = [t for kept in others if not flags(kept.json) for t in parsed(kept.json).results]
    return [t.tokens_per_s.median for t in found if workload_name(t) == test]


def result_context(result: Result) -> dict[str, Any]:
    """What `_measurement.html` shows."""
    return {
        "result": result,
        "model": model_words(result),
        "machine": machine_words(result),
        "check": check_words(result.check) if result.check else None,
        "placement": placement_words(result),
        "reasons": reasons(result),
        "parts_of_time": report.PARTS,
        "times": [(t, report.time_bar(t)) for t in result.results],
        "devices": report.device_views(result),
        "device_key": experts.device_key,
        "map": report.placement_map(result) if result.model.n_experts else None,
    }


def visible(shown: Shown) -> bool:
    return shown is Shown.SHOWN


def request_json(view: RequestView) -> dict[str, Any]:
    """The API's form of a request; of one that waits for approval nothing that a visitor wrote."""
    r = view.request
    found: dict[str, Any] = {
        "id": r.id,
        "state": r.state,
        "shown": r.shown,
        "reason": r.reason,
        "model": r.model,
        "quant": r.quant,
        "pp": r.pp,
        "tg": r.tg,
        "depth": r.depth,
        "batch": r.batch,
        "hardware": r.hardware,
        "note": r.note if visible(r.shown) else "",
        "votes": r.votes,
        "score": r.score,
        "asked_at": r.asked_at,
        "changed_at": r.changed_at,
        "predicted": [msgspec.to_builtins(c.speed) for c in view.compared],
        "measured": [
            {"test": c.speed.test, "tokens_per_s": c.here.median, "over_predicted": c.ratio}
            for c in view.compared
            if c.here
        ],
    }
    if view.kept and view.result:
        check = view.result.check
        found |= {"result": view.kept.id, "check_passed": check.passed if check else None}
        found |= {"command": view.result.command, "commit": view.result.commit, "flags": list(flags(view.kept.json))}
    return found


def result_json(kept: Kept) -> dict[str, Any]:
    found: dict[str, Any] = {"id": kept.id, "shown": kept.shown, "at": kept.at}
    if not visible(kept.shown):
        return found
    own = {
        "request": kept.request,
        "reproduced_here": kept.request is not None,
        "model": kept.model,
        "quant": kept.quant,
        "note": kept.note,
    }
    return {**found, **own, "flags": list(flags(kept.json)), "result": msgspec.Raw(kept.json)}
