"""One self-contained HTML page of one result: `write_report(result, path)`.

Assembles what the template shows; the template holds the words, `charts` the pictures, `motley.page` the look.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from motley.bench.gate import by_kind, flags
from motley.bench.report import charts
from motley.bench.report.curves import Curves, Series, curves_svg, key_svg
from motley.bench.report.series import curves_of
from motley.bench.result import Exchange, Result, TestResult
from motley.bench.served import AnyResult, ServedResult
from motley.bench.words import (
    check_words,
    machine_words,
    model_words,
    objectives_words,
    percentiles_words,
    reasons,
    settings_words,
    size,
)
from motley.lab.lab import Device
from motley.page import experts, template
from motley.predict.show import number

PARTS = {
    "attention": "norms, projections and attention",
    "router": "choosing experts",
    "experts": "the home's own experts",
    "upload": "bringing weights of experts that another device holds",
    "link": "sending to other nodes and waiting for them",
    "head": "embedding and output matrix",
    "python": "between operations",
    "other": "not accounted for",
}


def write_report(result: AnyResult, path: Path) -> None:
    path.write_text(render(result), encoding="utf-8")


def render(result: AnyResult) -> str:
    filters = {
        "number": number,
        "size": size,
        "settings": settings_words,
        "percentiles": percentiles_words,
        "objectives": objectives_words,
    }
    name, more = ("served", _served(result)) if isinstance(result, ServedResult) else ("report", _context(result))
    shared = {
        "result": result,
        "against": by_kind(flags(result)),
        "curves": _curves(result),
        "parts_style": _parts_style(),
    }
    return template.render("motley.bench", "report", f"{name}.html.jinja", filters, **shared, **more)


@cache
def _parts_style() -> Markup:
    return Markup((files("motley.bench") / "report" / "parts.css").read_text("utf-8"))


def _curves(result: AnyResult) -> list[tuple[Curves, Markup, list[tuple[Series, Markup]]]]:
    """Each with its picture, and its series with their keys."""
    found = curves_of(result)
    return [
        (chart, curves_svg(chart), [(s, key_svg(i, s.dashed)) for i, s in enumerate(chart.series)]) for chart in found
    ]


def _served(result: ServedResult) -> dict[str, Any]:
    loads = [*(test.load for test in result.results), *result.loads]
    return {"counted": ", ".join(dict.fromkeys(load.counted_by for load in loads))}


def _context(result: Result) -> dict[str, Any]:
    return {
        "energy": [test for test in result.results if test.energy],
        "parts": {part: PARTS[part] for t in result.results for part in t.time.parts()},
        "model": model_words(result),
        "reasons": reasons(result),
        "machine": machine_words(result),
        "check": check_words(result.check) if result.check else None,
        "generation": headline(result, "tg"),
        "reading": headline(result, "pp"),
        "scale": charts.axis_scale(_speed_axis(result)),
        "speeds": _speeds(result),
        "times": [(t, time_bar(t)) for t in result.results],
        "devices": device_views(result),
        "device_key": experts.device_key,
        "numbers": {d.name: i % experts.N_COLOURS for i, d in enumerate(result.lab.devices)},
        "map": placement_map(result),
        "busiest": busiest(result),
        "exchanges": [(x, _exchange_bar(x)) for x in result.exchanges],
        "peer_scale": charts.axis_scale(_peer_axis(result)),
        "peers": [(p, charts.ratio_strip(p.ratio, _peer_axis(result))) for p in result.peers],
    }


def headline(result: Result, kind: str) -> TestResult | None:
    """The plainest test of a kind: no depth, one sequence, if there is one."""
    tests = [t for t in result.results if t.test.startswith(kind)]
    return min(tests, key=lambda t: (t.batch, t.depth), default=None)


def _speed_axis(result: Result) -> charts.RatioAxis:
    ratios: list[float] = []
    for test in result.results:
        p = test.predicted_tokens_per_s
        base = p.p50 if p else test.tokens_per_s.median
        ratios += [test.tokens_per_s.min / base, test.tokens_per_s.max / base]
        ratios += [p.p10 / base, p.p90 / base] if p else []
    return charts.RatioAxis.over(ratios)


def _peer_axis(result: Result) -> charts.RatioAxis:
    return charts.RatioAxis.over([r for p in result.peers for r in (p.ratio.min, p.ratio.max)])


def _speeds(result: Result) -> list[tuple[TestResult, Markup]]:
    axis = _speed_axis(result)
    return [(t, charts.speed_strip(t.tokens_per_s, t.predicted_tokens_per_s, axis)) for t in result.results]


def time_bar(test: TestResult) -> Markup:
    """Where a step's time went."""
    parts = test.time.parts()
    whole = sum(parts.values()) or 1.0
    shares = ", ".join(f"{part} {value / whole:.0%}" for part, value in parts.items())
    return charts.stacked_bar(parts, whole, f"{test.label}, {number(test.ms_per_step)} ms a step: {shares}")


def _exchange_bar(x: Exchange) -> Markup:
    parts = charts.exchange_parts(x)
    words = ", ".join(f"{name} {number(value)}" for name, value in parts.items())
    return charts.stacked_bar(parts, sum(parts.values()) or 1.0, f"{number(x.round_us)} microseconds: {words}")


@dataclass(frozen=True)
class DeviceView:
    """A device as the placement picture shows it."""

    device: Device
    number: int  # its colour
    home_layers: int
    experts: int  # (layer, expert) pairs held
    expert_share: float  # of all pairs
    choice_share: float | None  # of all choices that tokens made


def device_views(result: Result) -> list[DeviceView]:
    homes = Counter(layer.home for layer in result.placement.layers)
    held: Counter[str] = Counter()
    chosen: Counter[str] = Counter()
    for i, layer in enumerate(result.placement.layers):
        for e, device in enumerate(layer.experts):
            held[device] += 1
            chosen[device] += result.routes[i][e] if result.routes else 0
    choices = sum(chosen.values())
    return [
        DeviceView(
            device=d,
            number=i % experts.N_COLOURS,
            home_layers=homes[d.name],
            experts=held[d.name],
            expert_share=held[d.name] / max(1, held.total()),
            choice_share=chosen[d.name] / choices if choices else None,
        )
        for i, d in enumerate(result.lab.devices)
    ]


def placement_map(result: Result) -> Markup:
    numbers = {d.name: i for i, d in enumerate(result.lab.devices)}
    layers = result.placement.layers
    holders = [[numbers[device] for device in layer.experts] for layer in layers]
    where = "; ".join(
        f"{v.device.name} holds {v.expert_share:.0%} of the experts"
        + (f" and served {v.choice_share:.0%} of the choices" if v.choice_share is not None else "")
        for v in device_views(result)
    )
    label = f"{len(layers)} layers by {result.model.n_experts} experts: {where}"
    return experts.expert_map(holders, [numbers[layer.home] for layer in layers], result.routes, label)


def busiest(result: Result) -> list[tuple[int, int, float, str, int]]:
    """Per layer with experts: its most chosen one, as a multiple of an even share, its device, and how many were never
    chosen."""
    found = []
    for i, counts in enumerate(result.routes or ()):
        if not result.placement.layers[i].experts:
            continue  # a dense layer
        top = max(range(len(counts)), key=lambda e: counts[e])
        even = (sum(counts) or 1) / len(counts)
        found.append((i, top, counts[top] / even, result.placement.layers[i].experts[top], counts.count(0)))
    return found
