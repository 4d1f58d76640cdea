"""One self-contained HTML page of one result: `write_report(result, path)`.

Assembles what the template shows; the template holds the words, `charts` the pictures, `motley.page` the look.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from motley.bench.report import charts
from motley.bench.result import Exchange, Result, TestResult
from motley.bench.words import check_words, machine_words, model_words, reasons, settings_words, size
from motley.lab.lab import Device
from motley.page import experts, template
from motley.predict.show import number

PARTS = {
    "attention": "norms, projections and attention",
    "router": "choosing experts",
    "experts": "the home's own experts",
    "link": "sending to other nodes and waiting for them",
    "head": "embedding and output matrix",
    "python": "between operations",
    "other": "not accounted for",
}


def write_report(result: Result, path: Path) -> None:
    path.write_text(render(result), encoding="utf-8")


def render(result: Result) -> str:
    filters = {"number": number, "size": size, "settings": settings_words}
    return template.render("motley.bench", "report", "report.html.jinja", filters, **_context(result))


def _context(result: Result) -> dict[str, Any]:
    return {
        "result": result,
        "parts": PARTS,
        "model": model_words(result),
        "reasons": reasons(result),
        "machine": machine_words(result),
        "check": check_words(result.check) if result.check else None,
        "generation": headline(result, "tg"),
        "reading": headline(result, "pp"),
        "scale": charts.axis_scale(_speed_axis(result)),
        "speeds": _speeds(result),
        "times": [(t, charts.stacked_bar(t.time.parts(), _whole(t), _time_words(t))) for t in result.results],
        "devices": device_views(result),
        "device_key": experts.device_key,
        "numbers": {d.name: i % experts.N_COLOURS for i, d in enumerate(result.lab.devices)},
        "map": _map(result),
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


def _whole(test: TestResult) -> float:
    return sum(test.time.parts().values()) or 1.0


def _time_words(test: TestResult) -> str:
    shares = ", ".join(f"{part} {value / _whole(test):.0%}" for part, value in test.time.parts().items())
    return f"{test.label}, {number(test.ms_per_step)} ms a step: {shares}"


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


def _map(result: Result) -> Markup:
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
