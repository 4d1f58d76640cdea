"""Speed against batch and against depth: the placement priced again for each, with the interval, what a step's time is
made of, and where memory or the trained context ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from motley.errors import CapacityError
from motley.page.svg import element, percent, picture, plain
from motley.plan.picture.facts import Asked
from motley.plan.picture.timeline import ticks
from motley.predict.predict import Prediction, predict
from motley.predict.show import number
from motley.predict.workload import Workload
from motley.progress import Progress, silent

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DEPTHS = (0, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
TERMS = ("attention", "router", "experts", "upload", "link", "head", "python")
_HIGH, _WIDE = 180, 1000  # units of the picture
_SHARES = 60  # pixels of the strip below


@dataclass(frozen=True)
class Point:
    label: str  # on the axis
    workload: Workload
    found: Prediction | None
    reason: str  # why there is none


@dataclass(frozen=True)
class Curve:
    title: str
    axis: str
    points: tuple[Point, ...]

    @property
    def predicted(self) -> list[Prediction]:
        return [p.found for p in self.points if p.found]

    @property
    def end(self) -> Point | None:
        """The first point that is not predicted."""
        return next((p for p in self.points if not p.found), None)


def curves(asked: Asked, progress: Progress = silent) -> list[Curve]:
    """Of decoding; each point is where the curve's own quantity differs from the plan's workload."""
    base = replace(asked.plan.prediction.workload, kind="decode", tokens=64)
    batches = [(f"{n}", replace(base, batch=n)) for n in BATCHES]
    last = asked.shape.context - base.tokens  # a depth as long as the context leaves no room for the tokens
    depths = [(_thousands(n), replace(base, depth=last if n == asked.shape.context else n)) for n in DEPTHS]
    deep = f", {base.depth:,} tokens deep" if base.depth else ""
    many = f", {base.batch} sequences" if base.batch > 1 else ""
    return [
        Curve(f"Generating, all together{deep}", "sequences at once", _points(asked, batches, progress, 0.0)),
        Curve(f"Generating{many}", "tokens in the cache before", _points(asked, depths, progress, 0.5)),
    ]


def _points(
    asked: Asked, wanted: Sequence[tuple[str, Workload]], progress: Progress, begun: float
) -> tuple[Point, ...]:
    found = []
    for i, (label, workload) in enumerate(wanted):
        progress(f"pricing for the page: {workload.name}", begun + 0.5 * i / len(wanted))
        found.append(Point(label, workload, *predicted(asked, workload)))
    return tuple(found)


def predicted(asked: Asked, workload: Workload) -> tuple[Prediction | None, str]:
    """Of the plan's placement, or why not."""
    if workload.context > asked.shape.context:
        return None, f"the model was made for {asked.shape.context:,} tokens"
    try:
        return predict(asked.shape, asked.laid_out, asked.plan.placement, workload, asked.routes), ""
    except CapacityError as error:
        return None, str(error)


def _thousands(n: int) -> str:
    return f"{n // 1024}k" if n else "0"


# -- drawing


def curve_picture(curve: Curve) -> Markup:
    """The median as a line with dots, the interval as a band, from 0 up."""
    found = curve.predicted
    top = max((p.p90 for p in found), default=1.0) * 1.04
    n = len(curve.points)

    def x(i: int) -> float:
        return (i + 0.5) / n

    def y(speed: float) -> float:
        return _HIGH * (1 - speed / top)

    spots = ", ".join(f"{p.label}: {number(p.found.p50)}" for p in curve.points if p.found)
    marks = [*_speed_grid(top, y), _band(curve, x, y)]
    for i, point in enumerate(curve.points):
        if point.found:
            p = point.found
            title = element("title", f"{point.label}: {number(p.p50)} tokens/s, {number(p.p10)} to {number(p.p90)}")
            marks.append(element("circle", title, cx=percent(x(i)), cy=y(p.p50), r=3.5, class_="spot"))
    if curve.end:
        marks += _beyond(curve.end, curve.points.index(curve.end) / n)
    label = f"Tokens per second by {curve.axis}: {spots}"
    return picture(label, *marks, class_="curve", height=_HIGH)


def _beyond(end: Point, first: float) -> list[Markup]:
    """The region without predictions, and where there is room for it, why."""
    region = element("rect", x=percent(first), y=0, width=percent(1 - first), height=_HIGH, class_="beyond")
    if first > 0.75:
        return [region]
    words = "past its context" if end.reason.startswith("the model was") else "does not fit"
    at = percent((1 + first) / 2)
    return [region, element("text", words, x=at, y=_HIGH / 2, text_anchor="middle", class_="tick")]


def _band(curve: Curve, x: Callable[[int], float], y: Callable[[float], float]) -> Markup:
    """Stretches with the page: a picture of its own, whose lines keep their width."""
    spots = [(_WIDE * x(i), p.found) for i, p in enumerate(curve.points) if p.found]
    upper = [f"{plain(at)} {plain(y(p.p90))}" for at, p in spots]
    lower = [f"{plain(at)} {plain(y(p.p10))}" for at, p in reversed(spots)]
    middle = [f"{plain(at)} {plain(y(p.p50))}" for at, p in spots]
    shapes = []
    if spots:
        shapes.append(element("path", d="M" + "L".join(upper + lower) + "z", class_="interval"))
        shapes.append(element("path", d="M" + "L".join(middle), class_="line", vector_effect="non-scaling-stroke"))
    box = {"viewBox": f"0 0 {_WIDE} {_HIGH}", "preserveAspectRatio": "none"}
    return element("svg", *shapes, width="100%", height=_HIGH, **box)


def _speed_grid(top: float, y: Callable[[float], float]) -> list[Markup]:
    marks = []
    for tick in ticks(top, 4):
        at = y(tick)
        marks.append(element("line", x1=0, x2="100%", y1=at, y2=at, class_="grid"))
        if tick:
            marks.append(element("text", number(tick), x=0, y=at - 3, class_="tick"))
    return marks


def shares_picture(curve: Curve) -> Markup:
    """Below the curve: what a step's time is made of, as columns."""
    n, marks = len(curve.points), list[Markup]()
    for i, point in enumerate(curve.points):
        if point.found:
            marks += _column(point.found, (i + 0.5 - 0.44) / n, 0.88 / n)
        marks.append(
            element("text", point.label, x=percent((i + 0.5) / n), y=_SHARES + 14, text_anchor="middle", class_="tick")
        )
    limits = ", ".join(f"{p.label}: {limit(p.found)}" for p in curve.points if p.found)
    return picture(f"Largest part of a step by {curve.axis}: {limits}", *marks, class_="shares", height=_SHARES + 18)


def _column(found: Prediction, x: float, width: float) -> list[Markup]:
    marks, y = [], 0.0
    for term in TERMS:
        share = found.share(term)
        if share > 0:
            title = element("title", f"{term} {share:.0%} of {found.workload.name}")
            high = share * _SHARES
            marks.append(
                element("rect", title, x=percent(x), y=y, width=percent(width), height=high, class_=f"fill part-{term}")
            )
            y += high
    return marks


def limit(found: Prediction) -> str:
    """`experts on gpu, bandwidth`"""
    term = found.largest
    return f"{term.name} on {term.device}" + (f", {term.limited_by}" if term.limited_by != "link" else "")
