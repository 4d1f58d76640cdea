"""The report's charts: small functions from numbers to inline SVG. Colours are classes; the style sheet owns them.

Strips and bars use percentages for x, so that they stretch with the page and nothing is distorted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from motley.bench.records import Interval, Spread
from motley.bench.result import Exchange
from motley.page.svg import element, percent, picture
from motley.predict.show import number

STRIP_HEIGHT = 30
BAR_HEIGHT = 22

# Candidates for an axis's numbers, most wanted first.
TICKS = (1, 2, 0.5, 1.5, 0.7, 1.2, 0.8, 1.1, 0.9, 1.35, 1.75, 3, 0.3, 5, 0.2, 10, 0.1, 100, 0.01)
TICK_DISTANCE = 0.11  # of the axis


@dataclass(frozen=True)
class RatioAxis:
    """A logarithmic axis of ratios around 1: twice as fast is as far as half as fast."""

    low: float
    high: float

    @classmethod
    def over(cls, ratios: Sequence[float]) -> "RatioAxis":
        """Holds all of them and 1, with a margin."""
        return cls(min(0.85, min(ratios, default=1.0) * 0.94), max(1.18, max(ratios, default=1.0) * 1.06))

    def fraction(self, ratio: float) -> float:
        return math.log(ratio / self.low) / math.log(self.high / self.low)

    def at(self, ratio: float) -> str:
        return percent(self.fraction(ratio))

    def ticks(self) -> list[float]:
        """The most wanted numbers that are far enough from each other and from the ends."""
        chosen: list[float] = []
        for tick in TICKS:
            taken = [0.0, 1.0, *map(self.fraction, chosen)]
            inside = self.low < tick < self.high
            if inside and all(abs(self.fraction(tick) - x) > TICK_DISTANCE / (2 if x in (0, 1) else 1) for x in taken):
                chosen.append(tick)
        return sorted(chosen)


def axis_scale(axis: RatioAxis) -> Markup:
    """The axis's own line of numbers, above the strips."""
    marks = [element("text", f"{t:g}x", x=axis.at(t), y=13, text_anchor="middle") for t in axis.ticks()]
    return element("svg", *marks, class_="scale", height=18, aria_hidden="true")


def _grid(axis: RatioAxis) -> list[Markup]:
    lines = []
    for tick in axis.ticks():
        kind = "one" if tick == 1 else "grid"
        lines.append(element("line", x1=axis.at(tick), x2=axis.at(tick), y1=0, y2=STRIP_HEIGHT, class_=kind))
    return lines


def speed_strip(measured: Spread, predicted: Interval | None, axis: RatioAxis) -> Markup:
    """Samples as dots and their median as a diamond, over the predicted interval; 1 is the predicted median."""
    base = predicted.p50 if predicted else measured.median
    shapes = _grid(axis)
    if predicted:
        shapes.insert(0, span(axis, predicted.p10 / base, predicted.p90 / base))
        label = f"measured {number(measured.median)} tokens per second, predicted {number(predicted.p50)}"
    else:
        label = f"measured {number(measured.median)} tokens per second, not predicted"
    return picture(label, *shapes, *dots(axis, measured, base), class_="strip", height=STRIP_HEIGHT)


def ratio_strip(ratio: Spread, axis: RatioAxis) -> Markup:
    """Pair-by-pair ratios as dots, their median as a diamond; right of 1 Motley is faster."""
    label = f"{number(ratio.median)} times the peer's speed, {number(ratio.min)} to {number(ratio.max)}"
    return picture(label, *_grid(axis), *dots(axis, ratio, 1.0), class_="strip", height=STRIP_HEIGHT)


def span(axis: RatioAxis, low: float, high: float) -> Markup:
    """An interval, as a bar of the strip."""
    a, b = axis.fraction(low), axis.fraction(high)
    return element("rect", x=percent(a), width=percent(b - a), y=7, height=STRIP_HEIGHT - 14, rx=3, class_="interval")


def dots(axis: RatioAxis, spread: Spread, base: float) -> list[Markup]:
    """Samples as dots, then their median as a diamond; `base` is at 1."""
    middle = STRIP_HEIGHT / 2
    samples = [element("circle", cx=axis.at(s / base), cy=middle, r=3.5, class_="sample") for s in spread.samples]
    diamond = element("path", d="M0 -7 L5 0 L0 7 L-5 0 Z", class_="median")
    held = element("svg", diamond, x=axis.at(spread.median / base), y=middle, overflow="visible")
    return [*samples, held]


def stacked_bar(parts: Mapping[str, float], whole: float, label: str) -> Markup:
    """Parts side by side, `whole` as the full width; each has the class `part-<name>`."""
    shapes, x = [], 0.0
    for name, value in parts.items():
        if value > 0:
            title = element("title", f"{name}: {number(value)} ({value / whole:.0%})")
            at, width = percent(x / whole), percent(value / whole)
            shapes.append(element("rect", title, x=at, width=width, height=BAR_HEIGHT, class_=f"part part-{name}"))
            x += value
    return picture(label, *shapes, class_="bar", height=BAR_HEIGHT)


def exchange_parts(exchange: Exchange) -> dict[str, float]:
    """A round's microseconds: computing, the bare link, and what is left."""
    wire = min(exchange.rtt_us or 0.0, exchange.us_per_exchange)
    return {"work": exchange.work_us, "wire": wire, "rest": exchange.us_per_exchange - wire}
