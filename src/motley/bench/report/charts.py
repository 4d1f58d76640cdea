"""The report's charts: small functions from numbers to inline SVG. Colours are classes; the style sheet owns them.

Strips and bars use percentages for x, so that they stretch with the page and nothing is distorted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from motley.bench.result import Exchange, Interval, Spread
from motley.page.svg import element, percent, picture, plain
from motley.predict.show import number

STRIP_HEIGHT = 30
BAR_HEIGHT = 22
N_COLOURS = 6  # device colours in the style sheet; more devices begin again

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
        shapes.insert(0, _span(axis, predicted.p10 / base, predicted.p90 / base))
        label = f"measured {number(measured.median)} tokens per second, predicted {number(predicted.p50)}"
    else:
        label = f"measured {number(measured.median)} tokens per second, not predicted"
    return picture(label, *shapes, *_dots(axis, measured, base), class_="strip", height=STRIP_HEIGHT)


def ratio_strip(ratio: Spread, axis: RatioAxis) -> Markup:
    """Pair-by-pair ratios as dots, their median as a diamond; right of 1 Motley is faster."""
    label = f"{number(ratio.median)} times the peer's speed, {number(ratio.min)} to {number(ratio.max)}"
    return picture(label, *_grid(axis), *_dots(axis, ratio, 1.0), class_="strip", height=STRIP_HEIGHT)


def _span(axis: RatioAxis, low: float, high: float) -> Markup:
    a, b = axis.fraction(low), axis.fraction(high)
    return element("rect", x=percent(a), width=percent(b - a), y=7, height=STRIP_HEIGHT - 14, rx=3, class_="interval")


def _dots(axis: RatioAxis, spread: Spread, base: float) -> list[Markup]:
    middle = STRIP_HEIGHT / 2
    dots = [element("circle", cx=axis.at(s / base), cy=middle, r=3.5, class_="sample") for s in spread.samples]
    diamond = element("path", d="M0 -7 L5 0 L0 7 L-5 0 Z", class_="median")
    held = element("svg", diamond, x=axis.at(spread.median / base), y=middle, overflow="visible")
    return [*dots, held]


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


# How often an expert was chosen, against an even share of its layer's choices; a cell's class is how many of these
# limits its expert reaches.
POPULARITY = (1e-9, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0)


def popularity_class(count: int, row_total: int, n_experts: int) -> int:
    even = row_total / n_experts
    share = count / even if even else 0.0
    return sum(share >= limit for limit in POPULARITY)


CELL, SIDE, CUT, LEFT = 10, 8.5, 3.2, 30

# A device's cells differ in shape too, for those who see no hues: which corners are cut (clockwise from top left).
CORNERS = ((0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, 1))


def cell_path(x: float, y: float, device: int) -> str:
    """A square of SIDE at (x, y), its device's corners cut."""
    a, b, c, d = (CUT * cut for cut in CORNERS[device % N_COLOURS])
    steps = [(SIDE - a - b, 0), (b, b), (0, SIDE - b - c), (-c, c), (c + d - SIDE, 0), (-d, -d)]
    if a:
        steps.append((0, a + d - SIDE))
    lines = "".join(f"l{plain(dx)} {plain(dy)}" for dx, dy in steps if dx or dy)
    return f"M{plain(x + a)} {plain(y)}{lines}z"


def device_key(device: int) -> Markup:
    """A legend's sample of a device's cells."""
    path = element("path", d=cell_path(0, 0, device), class_=f"cell d{device % N_COLOURS}")
    return element("svg", path, viewBox=f"0 0 {SIDE} {SIDE}", class_="key", aria_hidden="true")


def expert_map(
    experts: Sequence[Sequence[int]], homes: Sequence[int], counts: Sequence[Sequence[int]] | None, label: str
) -> Markup:
    """Layers down, experts across. `experts[l][e]`, `homes[l]`: device numbers. Hue is the device, strength the
    popularity; one path per (device, popularity), so that thousands of cells stay small."""
    n = len(experts[0]) if experts else 0
    paths: dict[tuple[int, int], list[str]] = {}
    for y, row in enumerate(experts):
        total = sum(counts[y]) if counts else 0
        for x, device in enumerate(row):
            popularity = popularity_class(counts[y][x], total, n) if counts else 3
            paths.setdefault((device % N_COLOURS, popularity), []).append(cell_path(LEFT + x * CELL, y * CELL, device))
    cells = [element("path", d="".join(d), class_=f"cell d{device} p{p}") for (device, p), d in sorted(paths.items())]
    width, height = LEFT + n * CELL, len(experts) * CELL
    box = f"0 0 {width} {height}"
    return picture(
        label, *_home_marks(homes), *cells, viewBox=box, class_="map", style=f"max-width:{width * 2.8:.0f}px"
    )


def _home_marks(homes: Sequence[int]) -> list[Markup]:
    """Per layer: its number, and a bar in the colour of its home."""
    marks = []
    for y, home in enumerate(homes):
        marks.append(element("text", str(y), x=LEFT - 9, y=y * CELL + 7.5, text_anchor="end", class_="layer"))
        bar = element("rect", x=LEFT - 6, y=y * CELL, width=3, height=SIDE, class_=f"home d{home % N_COLOURS}")
        marks.append(bar)
    return marks
