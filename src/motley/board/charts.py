"""The board's one chart: a predicted interval, with what was measured here and elsewhere over it."""

from collections.abc import Sequence

from markupsafe import Markup

from motley.bench.records import Spread
from motley.bench.report.charts import STRIP_HEIGHT, RatioAxis, dots, span
from motley.board.forecast import Speed
from motley.page.svg import element, picture
from motley.predict.show import number


def axis_of(speeds: Sequence[tuple[Speed, Spread | None, Sequence[float]]]) -> RatioAxis:
    """One for all tests: 1 is each one's predicted median."""
    ratios: list[float] = []
    for speed, here, elsewhere in speeds:
        values = [speed.p10, speed.p90, *elsewhere, *((here.min, here.max) if here else ())]
        ratios += [value / speed.p50 for value in values]
    return RatioAxis.over(ratios)


def strip(speed: Speed, here: Spread | None, elsewhere: Sequence[float], axis: RatioAxis) -> Markup:
    """The bar is the interval, its line the median; dots are samples, the diamond their median; rings elsewhere."""
    shapes = [
        span(axis, speed.p10 / speed.p50, speed.p90 / speed.p50),
        element("line", x1=axis.at(1), x2=axis.at(1), y1=4, y2=STRIP_HEIGHT - 4, class_="said"),
    ]
    for value in elsewhere:
        place = axis.at(value / speed.p50)
        shapes.append(element("circle", cx=place, cy=STRIP_HEIGHT / 2, r=4, class_="elsewhere"))
    label = f"{speed.test}: predicted {number(speed.p50)}, {number(speed.p10)} to {number(speed.p90)} tokens per second"
    if here:
        shapes += dots(axis, here, speed.p50)
        label += f"; measured {number(here.median)}"
    if elsewhere:
        label += f"; on other machines {', '.join(map(number, elsewhere[:5]))}"
    return picture(label, *shapes, class_="strip", height=STRIP_HEIGHT)
