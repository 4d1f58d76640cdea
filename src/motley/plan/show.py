"""A plan as text for people, and as data for programs."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from motley.lab.lab import Lab
from motley.lab.placement import LayerPlacement, Placement
from motley.plan.plan import Plan
from motley.predict.memory import Need, gigabytes, memory_needed, packed_bytes
from motley.predict.predict import Prediction
from motley.shape.model import ModelShape


def plan_text(plan: Plan, shape: ModelShape, lab: Lab, context: int = 4096, slots: int = 1) -> str:
    """Several lines: speed, where things live, memory, the time's parts, what decided, what else there is."""
    found = plan.prediction
    lines = [
        f"{shape.name}: {found.workload.name} at {_speed(found)}, {found.ms_per_step:.4g} ms a step",
        "",
        *_table(["layers", "home", "experts"], _layer_rows(plan.placement)),
        "",
        *_table(
            ["device", "weights", "layout", "cache", "buffers", "of"], _memory_rows(plan, shape, lab, context, slots)
        ),
        "",
        *_table(["time", "on", "ms", "share", "limited by"], _term_rows(found)),
        "",
        "What decided:",
        *(f"  - {reason}" for reason in plan.reason),
    ]
    if len(plan.alternatives) > 1:
        lines += ["", *_table(["instead", "tokens/s"], _alternative_rows(plan))]
    return "\n".join(lines)


def plan_json(plan: Plan, shape: ModelShape, lab: Lab, context: int = 4096, slots: int = 1) -> dict[str, Any]:
    """What `motley plan --json` writes."""
    needs = _needs(plan, shape, context, slots)
    return {
        "model": {"name": shape.name, "architecture": shape.architecture, "bytes": shape.n_bytes},
        "workload": plan.prediction.workload.name,
        "placement": placement_json(plan.placement),
        "prediction": prediction_json(plan.prediction),
        "memory": {name: asdict(need) | {"has": lab.device(name).memory_bytes} for name, need in needs.items()},
        "stored": sorted(plan.stored),
        "reason": plan.reason,
        "alternatives": [asdict(a) for a in plan.alternatives],
    }


def placement_json(placement: Placement) -> dict[str, Any]:
    return {"layers": [{"home": layer.home, "experts": list(layer.experts)} for layer in placement.layers]}


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    return {
        "tokens_per_s": {"p10": prediction.p10, "p50": prediction.p50, "p90": prediction.p90},
        "ms_per_step": prediction.ms_per_step,
        "terms": [asdict(term) for term in prediction.terms],
    }


def _speed(prediction: Prediction) -> str:
    return f"{prediction.p50:.3g} tokens/s ({prediction.p10:.3g} to {prediction.p90:.3g})"


def _layer_rows(placement: Placement) -> Iterator[list[str]]:
    """Runs of layers with one home, and how many of a layer's experts each device has: `52 on a, 11-12 on b`."""
    start = 0
    for home, group in groupby(placement.layers, lambda layer: layer.home):
        run = list(group)
        experts = ", ".join(
            f"{_held(run, device)} on {device}" for device in sorted({d for r in run for d in r.experts})
        )
        stop = start + len(run)
        yield [str(start) if stop == start + 1 else f"{start}-{stop - 1}", home, experts]
        start = stop


def _held(run: list[LayerPlacement], device: str) -> str:
    counts = [layer.experts.count(device) for layer in run]
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"


def _needs(plan: Plan, shape: ModelShape, context: int, slots: int) -> dict[str, Need]:
    """By device: as the plan lays its weights out."""
    needs = memory_needed(shape, plan.placement, min(context, shape.context), slots)
    return {
        name: need if name in plan.stored else replace(need, weights=packed_bytes(shape, need.weights))
        for name, need in needs.items()
    }


def _memory_rows(plan: Plan, shape: ModelShape, lab: Lab, context: int, slots: int) -> Iterator[list[str]]:
    for name, need in _needs(plan, shape, context, slots).items():
        of = gigabytes(lab.device(name).memory_bytes)
        layout = "as stored" if name in plan.stored else "repacked"
        yield [name, gigabytes(need.weights), layout, gigabytes(need.kv), gigabytes(need.work), of]


def _term_rows(prediction: Prediction) -> Iterator[list[str]]:
    for term in sorted(prediction.terms, key=lambda t: -t.ms):
        share = f"{100 * term.ms / prediction.ms_per_step:.0f} %"
        yield [term.name, term.device, f"{term.ms:.3g}", share, term.limited_by]


def _alternative_rows(plan: Plan) -> Iterator[list[str]]:
    for other in plan.alternatives[:8]:
        short = f"{gigabytes(other.missing_bytes)} missing"
        yield [other.name, short if other.tokens_per_s is None else f"{other.tokens_per_s:.3g}"]


def _table(head: list[str], rows: Iterator[list[str]]) -> list[str]:
    """Left-aligned columns, two spaces between."""
    every = [head, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in every]
