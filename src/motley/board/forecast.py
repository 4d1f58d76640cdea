"""Forecast: what is said of a request at once: speeds with intervals, the placement and its picture."""

from math import log

import msgspec
from markupsafe import Markup

from motley.bench.check import CHECK_CONTEXT
from motley.board.question import Understood
from motley.plan.picture.facts import Asked, groups
from motley.plan.picture.layers import layers_picture
from motley.plan.search import find_placement
from motley.predict.memory import gigabytes
from motley.predict.predict import Prediction, predict
from motley.predict.show import experts_words, limit, number
from motley.shape.model import ModelShape

_SECONDS = 2.0  # of searching, at most


class Speed(msgspec.Struct, frozen=True):
    """Tokens per second of all sequences together: 8 of 10 measurements should fall between p10 and p90."""

    test: str
    p10: float
    p50: float
    p90: float
    ms_per_step: float
    limited_by: str

    @property
    def width(self) -> float:
        """How uncertain it is: the natural logarithm of p90 / p10."""
        return log(self.p90 / self.p10)


class Holder(msgspec.Struct, frozen=True):
    """A device, or several alike, in the legend of the picture."""

    name: str
    colour: str
    home_layers: int
    expert_share: float


class Forecast(msgspec.Struct, frozen=True):
    speeds: tuple[Speed, ...]
    model_words: str
    reasons: tuple[str, ...]
    holders: tuple[Holder, ...]
    picture: str  # SVG, made and escaped here
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> float:
        """Of the test that is predicted least surely."""
        return max(speed.width for speed in self.speeds)

    @property
    def drawn(self) -> Markup:
        return Markup(self.picture)


def forecast(asked: Understood) -> Forecast:
    """CapacityError where it does not fit the lab, with what is missing."""
    question, shape, lab = asked.question, asked.shape, asked.lab
    context = max(CHECK_CONTEXT, *(w.context for w in question.workloads))
    head = lab.devices[0].name if not question.lab else None  # the host's first device is its head
    plan = find_placement(
        shape,
        lab,
        question.main,
        asked.routes,
        context,
        question.batch,
        head=head,
        homes=[head] if head and shape.n_experts else None,
        split_rows=head is not None,
        seconds=_SECONDS,
    )
    laid_out = lab.with_stored(plan.stored)
    found = [predict(shape, laid_out, plan.placement, w, asked.routes, head) for w in question.workloads]
    facts = Asked(shape, lab, plan, asked.routes, context, question.batch)
    drawn = groups(facts)
    return Forecast(
        speeds=tuple(map(_speed, found)),
        model_words=model_words(shape),
        reasons=tuple(plan.reason[:12]),
        holders=tuple(Holder(g.name, g.colour, g.home_layers, g.expert_share) for g in drawn if g.used),
        picture=str(layers_picture(facts, drawn)),
        notes=asked.notes,
    )


def _speed(found: Prediction) -> Speed:
    return Speed(found.workload.name, found.p10, found.p50, found.p90, found.ms_per_step, limit(found))


def model_words(shape: ModelShape) -> str:
    experts = experts_words(shape.n_experts_used, shape.n_experts)
    return (
        f"{number(shape.n_params / 1e6)} M parameters, {gigabytes(shape.n_bytes)}, {shape.n_layers} layers, {experts}"
    )
