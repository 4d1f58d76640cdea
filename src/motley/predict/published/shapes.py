"""Which shape a published row's model has: the catalogue's, or the nearest one of it, scaled to what the row states."""

from dataclasses import dataclass
from functools import cache
from math import log

from motley.predict.published.rows import Row
from motley.shape.catalogue import find, names
from motley.shape.labels import mix_of
from motley.shape.mix import MIXES
from motley.shape.model import ModelShape

_NEAR = (0.6, 1.6)  # a stated file size further from the shape's is another model's or a typing error
_SAME = 0.25  # logarithm of total parameters: further apart, a name's model is another one


@dataclass(frozen=True)
class Stated:
    shape: ModelShape
    factor: float = 1.0  # the row's bytes of a token over the shape's
    size: float = 1.0  # the row's bytes of all weights over the shape's
    doubt: str = ""


def stated_shape(row: Row) -> Stated | None:
    """None where neither the name nor the parameters say enough."""
    name, doubt = _name(row)
    if name is None:
        return None
    mix, guessed = _mix(row)
    shape = _shape(name, mix)
    factor = 1.0
    if row.model_file_gib:  # with layers for further tokens, or without
        sizes = [row.model_file_gib * 2**30 / n for n in (shape.n_bytes, shape.file_bytes)]
        near = min(sizes, key=lambda ratio: abs(log(ratio)))
        factor = near if _NEAR[0] < near < _NEAR[1] else 1.0
    elif row.bits_per_weight and guessed:
        factor = row.bits_per_weight / (8 * shape.n_bytes / shape.n_params)
    if not doubt:
        return Stated(shape, factor, factor)
    total, active = (row.total_params_b or 0) * 1e9, (row.active_params_b or row.total_params_b or 0) * 1e9
    bits = factor if guessed else 1.0
    return Stated(shape, bits * active / shape.n_active_params, bits * total / shape.n_params, doubt)


@cache
def _shape(name: str, mix: str) -> ModelShape:
    return ModelShape.named(name, mix)


def _name(row: Row) -> tuple[str | None, str]:
    """The catalogue's name, and a doubt where it is only a likeness."""
    name = find(row.model)
    total, active = row.total_params_b, row.active_params_b or row.total_params_b
    if name is not None and (total is None or abs(log(total * 1e9 / _counts(name)[0])) < _SAME):
        return name, ""
    if not total or not active or row.arch not in ("moe", "dense"):
        return None, ""
    near = min(_candidates(row.arch == "dense"), key=lambda c: _distance(c[1], c[2], total, active))
    return near[0], f"{row.model} is not in the catalogue: taken as {near[0]} with its parameters scaled"


def _distance(total: float, active: float, stated_total: float, stated_active: float) -> float:
    return abs(log(total / stated_total / 1e9)) + 2 * abs(log(active / stated_active / 1e9))


@cache
def _candidates(dense: bool) -> list[tuple[str, float, float]]:
    found = [(name, *_counts(name)) for name in names()]
    return [(name, total, active) for name, total, active in found if (active > 0.95 * total) == dense]


@cache
def _counts(name: str) -> tuple[float, float]:
    shape = _shape(name, "f16")
    return float(shape.n_params), float(shape.n_active_params)


def _mix(row: Row) -> tuple[str, bool]:
    """The quantisation, and whether it was guessed from the bits of a weight."""
    mix = mix_of(row.quant, row.model)
    if mix is not None:
        return mix, False
    bits = row.bits_per_weight or 4.85
    return min(MIXES, key=lambda m: abs(_bits(m) - bits)), True


@cache
def _bits(mix: str) -> float:
    shape = ModelShape.named("qwen3-30b-a3b", mix)
    return 8 * shape.n_bytes / shape.n_params
