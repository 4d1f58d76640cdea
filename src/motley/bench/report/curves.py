"""Curves: a measured value over depth, batch or requests at once, as inline SVG with everything to read at it.

A chart has a few series; each series is a line with dots, and may have a band (p10 to p90, or min to max). They differ
by colour and by the shape of their dots. The x axis has the measured places alone as ticks;
the y axis begins at 0. The same numbers stand in a table beside the picture (the page's business): nothing is only to
be seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from motley.page.svg import element, picture
from motley.predict.show import number

WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 42
STEPS = (1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0)  # where an axis may end, times a power of ten
MARKS = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M0-5L5 0L0 5L-5 0z", "M-4-4h8v8h-8z", "M0-5L5 4H-5z")


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[Point]
    dashed: bool = False  # not measured: predicted, or a prior


@dataclass(frozen=True)
class Curves:
    """`unit` of y; `x_name` in words."""

    title: str
    x_name: str
    unit: str
    series: Sequence[Series]
    linear: bool = False  # the x axis: else logarithmic, for what one doubles

    @property
    def places(self) -> list[float]:
        return sorted({p.x for s in self.series for p in s.points})

    def at(self, series: Series, x: float) -> str:
        """A cell of the table."""
        point = next((p for p in series.points if p.x == x), None)
        if point is None:
            return "-"
        extent = f" ({number(point.low)}-{number(point.high)})" if point.low is not None and point.high else ""
        return number(point.y) + extent

    @property
    def shown(self) -> bool:
        """One place is no curve."""
        return len(self.places) > 1


def curves_svg(chart: Curves) -> Markup:
    scale = _Scale.of(chart)
    parts = [*_axes(chart, scale)]
    for i, series in enumerate(chart.series):
        parts += _band(series, scale, i)
    for i, series in enumerate(chart.series):
        parts += _line(series, scale, i)
    return picture(_words(chart), *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="curves")


def key_svg(i: int, dashed: bool = False) -> Markup:
    """A legend's sample of a series."""
    line = element("path", d="M0 7H26", class_=f"curve s{i}{' dashed' if dashed else ''}")
    mark = element("path", d=MARKS[i % len(MARKS)], transform="translate(13 7)", class_=f"mark s{i}")
    return element("svg", line, mark, viewBox="0 0 26 14", class_="curve-key", aria_hidden="true")


@dataclass(frozen=True)
class _Scale:
    xs: tuple[float, ...]
    top: float
    linear: bool

    @classmethod
    def of(cls, chart: Curves) -> "_Scale":
        most = max((max(p.y, p.high or 0.0) for s in chart.series for p in s.points), default=1.0) or 1.0
        return cls(tuple(chart.places), _round_up(most), chart.linear)

    def x(self, value: float) -> float:
        of = float if self.linear else math.log2
        low, high = of(self.xs[0]), of(self.xs[-1])
        part = (of(value) - low) / (high - low) if high > low else 0.5
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)


def _round_up(value: float) -> float:
    """To a number that four lines divide well."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in STEPS if step * power >= value)


def _axes(chart: Curves, scale: _Scale) -> list[Markup]:
    parts = []
    for i in range(5):
        value = scale.top * i / 4
        y = scale.y(value)
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="one" if i == 0 else "grid"))
        parts.append(element("text", number(value), x=LEFT - 8, y=y + 4, text_anchor="end", class_="tick"))
    last = -math.inf
    for x in scale.xs:
        at = scale.x(x)
        if at - last >= 30:  # labels that would touch are left out; the table has them
            parts.append(element("text", f"{x:g}", x=at, y=HEIGHT - BOTTOM + 17, text_anchor="middle", class_="tick"))
            last = at
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(element("text", chart.x_name, x=middle, y=HEIGHT - 6, text_anchor="middle", class_="tick"))
    return parts


def _band(series: Series, scale: _Scale, i: int) -> list[Markup]:
    held = [(p.x, p.low, p.high) for p in series.points if p.low is not None and p.high is not None]
    if not held:
        return []
    up = [f"{scale.x(x):.1f} {scale.y(high):.1f}" for x, _, high in held]
    down = [f"{scale.x(x):.1f} {scale.y(low):.1f}" for x, low, _ in reversed(held)]
    return [element("path", d=f"M{'L'.join(up + down)}z", class_=f"curve-band s{i}")]


def _line(series: Series, scale: _Scale, i: int) -> list[Markup]:
    places = [f"{scale.x(p.x):.1f} {scale.y(p.y):.1f}" for p in series.points]
    kind = " dashed" if series.dashed else ""
    parts = [element("path", d=f"M{'L'.join(places)}", class_=f"curve s{i}{kind}")]
    for p in series.points:
        title = element("title", f"{series.name}, {p.x:g}: {number(p.y)}")
        place = f"translate({scale.x(p.x):.1f} {scale.y(p.y):.1f})"
        parts.append(element("path", title, d=MARKS[i % len(MARKS)], transform=place, class_=f"mark s{i}"))
    return parts


def _words(chart: Curves) -> str:
    """What a screen reader says: each series from its first place to its last."""
    said = []
    for s in chart.series:
        if s.points:
            first, last = s.points[0], s.points[-1]
            said.append(f"{s.name}: {number(first.y)} at {first.x:g}, {number(last.y)} at {last.x:g}")
    return f"{chart.title}, {chart.unit} over {chart.x_name}. {'; '.join(said)}"
