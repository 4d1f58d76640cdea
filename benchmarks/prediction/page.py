"""The page of the results: scatter plots of predicted against measured speed, and the tables of errors."""

from html import escape
from math import log10
from pathlib import Path

import numpy as np
from fit import Data, Floats

from motley.predict.published.answer import domain

_SIZE, _EDGE = 300, 34
_PLOTS = (
    ("MoE decode, one device, model left out", "model left out", ("decode moe",), "moe"),
    ("MoE decode, one device, device left out", "device left out", ("decode moe",), "moe"),
    ("Dense decode, one device, model left out", "model left out", ("decode dense",), "dense"),
    ("Several devices and hybrids, model left out", "model left out", ("several",), ""),
    ("Prompts, model left out", "model left out", ("prefill",), ""),
    ("Batches and servers, model left out", "model left out", ("batch", "serving"), ""),
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: #222;
       background: #fff } h1, h2 { font-weight: 600 }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px }
td, th { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right } td:first-child, th:first-child {
text-align: left } figure { display: inline-block; margin: .5rem } figcaption { font-size: 13px; color: #555 }
.wide { overflow-x: auto } svg text { font-size: 10px; fill: #666 }
.dot { stroke: #2563a8; stroke-opacity: .35; stroke-width: 4; stroke-linecap: round }
.line { stroke: #999; stroke-width: 1 } .band { stroke: #ccc; stroke-width: 1; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #ddd } td, th { border-color: #333 }
.dot { stroke: #7db3e8 } figcaption, svg text { color: #aaa; fill: #aaa } }
"""


def write_page(path: Path, data: Data, results: dict[str, Floats], summary: dict[str, object]) -> None:
    plots = [_figure(data, results[how], title, domains, kind) for title, how, domains, kind in _PLOTS]
    body = [
        "<h1>Predictions against published measurements</h1>",
        f"<p>{summary['rows']} rows predicted, {summary['refused']} refused, {summary['impossible']} above what their "
        "memory can do as labelled (left out everywhere). Each point is a row, predicted by a fit that saw no row of "
        "its model (or of its device). On the line both agree; dashed: a quarter off.</p>",
        *plots,
        "<h2>Median error by way of predicting</h2>",
        _errors(summary),
        "<h2>Why rows were refused</h2>",
        _reasons(summary),
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Motley: predictions</title><style>{_STYLE}</style>"
    path.write_text(head + '<meta name=viewport content="width=device-width">' + "\n".join(body) + "</html>\n")


def _figure(data: Data, ms: Floats, title: str, domains: tuple[str, ...], kind: str) -> str:
    points = [
        (1e3 * c.tokens / measured, 1e3 * c.tokens / own)
        for c, measured, own in zip(data.cases, data.measured, ms)
        if domain(c.question) in domains and kind in ("", c.kind) and np.isfinite(own)
    ]
    low = 10 ** np.floor(log10(min(min(p) for p in points)))
    high = 10 ** np.ceil(log10(max(max(p) for p in points)))
    decades = round(log10(high / low))

    def at(value: float) -> float:
        return _EDGE + (_SIZE - _EDGE) * log10(value / low) / decades

    def y(value: float) -> float:
        return _SIZE - at(value)

    dots = '<path class=dot d="' + "".join(f"M{at(m):.1f} {y(p):.1f}h0" for m, p in points) + '" />'
    ticks = "".join(
        f'<text x="{at(low * 10**i):.0f}" y="{_SIZE - 12}" text-anchor=middle>{low * 10**i:g}</text>'
        f'<text x="{_EDGE - 6}" y="{y(low * 10**i) + 3:.0f}" text-anchor=end>{low * 10**i:g}</text>'
        for i in range(decades + 1)
    )
    lines = "".join(
        f'<line class="{name}" x1="{at(low)}" y1="{y(low * f)}" x2="{at(high)}" y2="{y(high * f)}" />'
        for f, name in ((1.0, "line"), (1.25, "band"), (0.8, "band"))
    )
    error = np.median([abs(p / m - 1) for m, p in points])
    return (
        f'<figure><svg viewBox="-14 -12 {_SIZE + 44} {_SIZE + 14}" width=330 role=img aria-label="{escape(title)}">'
        f"{lines}{dots}{ticks}</svg><figcaption>{escape(title)}<br>predicted over measured tokens/s; {len(points)} "
        f"rows, median error {error:.0%}</figcaption></figure>"
    )


def _errors(summary: dict[str, object]) -> str:
    errors: dict[str, dict[str, dict[str, float]]] = summary["errors"]  # type: ignore[assignment]
    ways = list(dict.fromkeys(how for by in errors.values() for how in by))
    head = "".join(f"<th>{escape(how)}</th>" for how in ways)
    rows = "".join(
        f"<tr><td>{escape(name)} ({max(e['n'] for e in by.values())})</td>"
        + "".join(f"<td>{_cell(by[how])}</td>" if how in by else "<td></td>" for how in ways)
        + "</tr>"
        for name, by in errors.items()
        if by
    )
    return f"<div class=wide><table><tr><th>rows</th>{head}</tr>{rows}</table></div>"


def _cell(error: dict[str, float]) -> str:
    inside = f" ({error['inside']:.0%} inside)" if "inside" in error else ""
    return f"{error['median']:.0%}{inside}"


def _reasons(summary: dict[str, object]) -> str:
    reasons: dict[str, int] = summary["reasons"]  # type: ignore[assignment]
    rows = "".join(f"<tr><td>{escape(reason)}</td><td>{n}</td></tr>" for reason, n in reasons.items())
    return f"<table><tr><th>reason</th><th>rows</th></tr>{rows}</table>"
