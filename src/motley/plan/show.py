"""A plan as text for people, and as data for programs."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from motley.lab.lab import Lab
from motley.lab.placement import Placement
from motley.plan.names import by_number, listed
from motley.plan.objective import Objective
from motley.plan.plan import Plan
from motley.predict.memory import Need, gigabytes, kernels_of, memory_needed, packed_bytes
from motley.predict.predict import Prediction, Term
from motley.predict.show import duration, number
from motley.predict.workload import STEP_TOKENS
from motley.shape.model import ModelShape

_ROWS = 16  # of a table


def plan_text(plan: Plan, shape: ModelShape, lab: Lab, context: int = 4096, slots: int = 1) -> str:
    """Several lines: speed, where things live, memory, the time's parts, what decided, what else there is."""
    found = plan.prediction
    lines = [
        f"{shape.name}: {found.workload.name} at {_speed(found)}, {found.ms_per_step:.4g} ms a step",
        *_objective(plan),
        "",
        *_table(["layers", "home", "experts"], _few(_layer_rows(plan.placement), "runs")),
        "",
        *_table(
            ["device", "weights", "layout", "cache", "buffers", "of"],
            _few(_alike(_memory_rows(plan, shape, lab, context, slots), 0), "kinds"),
        ),
        "",
        *_table(["time", "on", "ms", "share", "limited by"], _few(_term_rows(found, lab), "kinds")),
        "",
        "What decided:",
        *(f"  - {reason}" for reason in plan.reason),
    ]
    if len(plan.alternatives) > 1:
        lines += ["", *_table(["instead", _unit(plan)], _alternative_rows(plan))]
    return "\n".join(lines)


def step_size_json(objective: Objective) -> dict[str, int]:
    """`step_tokens`: only where a step may carry others than usual."""
    return {} if objective.chunk == STEP_TOKENS else {"step_tokens": objective.chunk}


def plan_json(plan: Plan, shape: ModelShape, lab: Lab, context: int = 4096, slots: int = 1) -> dict[str, Any]:
    """What `motley plan --json` writes."""
    needs = _needs(plan, shape, lab, context, slots)
    return {
        "model": {"name": shape.name, "architecture": shape.architecture, "bytes": shape.n_bytes},
        "workload": plan.prediction.workload.name,
        **step_size_json(plan.objective),
        "objective": {
            "name": plan.objective.name,
            "parts": [{"workload": w.name, "steps": steps} for w, steps in plan.objective.parts],
            "seconds": dict(zip(("p10", "p50", "p90"), plan.seconds)),
        },
        "placement": placement_json(plan.placement),
        "prediction": prediction_json(plan.prediction),
        "memory": {name: asdict(need) | {"has": lab.device(name).memory_bytes} for name, need in needs.items()},
        "stored": sorted(plan.stored),
        "reason": plan.reason,
        "alternatives": [asdict(a) for a in plan.alternatives],
    }


def placement_json(placement: Placement) -> dict[str, Any]:
    """Copies and their paces, parts of projections, and streaming, only where there are any."""
    layers: list[dict[str, Any]] = []
    for layer in placement.layers:
        layers.append({"home": layer.home, "experts": list(layer.experts)})
        if layer.projections:
            layers[-1]["projections"] = [asdict(part) for part in layer.projections]
        if layer.streaming:
            layers[-1]["streaming"] = asdict(layer.streaming)
        if layer.copies:
            layers[-1] |= {"copies": layer.copies, "paces": [asdict(pace) for pace in layer.paces]}
    head = {"head": [asdict(part) for part in placement.head]} if placement.head else {}
    return {"layers": layers, **head}


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    return {
        "tokens_per_s": {"p10": prediction.p10, "p50": prediction.p50, "p90": prediction.p90},
        "ms_per_step": prediction.ms_per_step,
        "terms": [asdict(term) for term in prediction.terms],
    }


def _speed(prediction: Prediction) -> str:
    return f"{number(prediction.p50)} tokens/s ({number(prediction.p10)} to {number(prediction.p90)})"


def _objective(plan: Plan) -> list[str]:
    """A line where the objective is more than one workload's step."""
    if len(plan.predictions) == 1:
        return []
    low, middle, high = (duration(seconds) for seconds in plan.seconds)
    what = "time to first token" if plan.objective.name == "ttft" else plan.objective.name
    return [f"{what}: {middle} ({low} to {high})"]


def _few(rows: Iterable[list[str]], what: str) -> Iterator[list[str]]:
    """The first of many rows, and how many more there are."""
    every = list(rows)
    yield from every[:_ROWS]
    if len(every) > _ROWS:
        yield [f"and {len(every) - _ROWS:,} {what} more", *[""] * (len(every[0]) - 1)]


def _alike(rows: Iterable[list[str]], name: int) -> Iterator[list[str]]:
    """Rows that differ only in their name, as one."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        groups.setdefault((*row[:name], *row[name + 1 :]), []).append(row[name])
    for facts, names in groups.items():
        yield [*facts[:name], listed(names), *facts[name:]]


def _layer_rows(placement: Placement) -> Iterator[list[str]]:
    """Runs of layers with one home, and how many of a layer's experts each device has: `52 on a, 11-12 on b`."""
    start = 0
    for home, group in groupby(placement.layers, lambda layer: layer.home):
        run = list(group)
        counts = [Counter([*layer.experts, *(device for _, device in layer.copies)]) for layer in run]
        held: dict[str, list[str]] = {}
        for device in sorted({d for c in counts for d in c}, key=by_number):
            held.setdefault(_held([c[device] for c in counts]), []).append(device)
        many = sum(map(len, held.values())) > _ROWS
        pairs = ((n, [d]) for n, names in held.items() for d in names) if not many else held.items()
        rows = sorted(pairs, key=lambda pair: by_number(pair[1][0]))
        experts = ", ".join(f"{n} on {'each of ' * (len(names) > 1)}{listed(names)}" for n, names in rows[:_ROWS])
        more = f" and {len(rows) - _ROWS} kinds more" if len(rows) > _ROWS else ""
        stop = start + len(run)
        yield [str(start) if stop == start + 1 else f"{start}-{stop - 1}", home, experts + more]
        start = stop


def _held(counts: list[int]) -> str:
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"


def _needs(plan: Plan, shape: ModelShape, lab: Lab, context: int, slots: int) -> dict[str, Need]:
    """By device: as the plan lays its weights out."""
    needs = memory_needed(shape, plan.placement, min(context, shape.context), slots, plan.objective.chunk)

    def packed(name: str, need: Need) -> Need:
        return replace(need, weights=packed_bytes(shape, need.weights, kernels_of(lab.device(name))))

    return {name: need if name in plan.stored else packed(name, need) for name, need in needs.items()}


def _memory_rows(plan: Plan, shape: ModelShape, lab: Lab, context: int, slots: int) -> Iterator[list[str]]:
    for name, need in _needs(plan, shape, lab, context, slots).items():
        of = gigabytes(lab.device(name).memory_bytes)
        layout = "as stored" if name in plan.stored else "repacked"
        yield [name, gigabytes(need.weights), layout, gigabytes(need.kv), gigabytes(need.work), of]


def _term_rows(prediction: Prediction, lab: Lab) -> Iterator[list[str]]:
    """The largest first; many on devices of equal figures together."""
    groups: dict[object, list[Term]] = {}
    many = len(prediction.terms) > _ROWS
    for term in prediction.terms:
        figures = replace(lab.device(term.device), name="", node="") if many else term.device
        groups.setdefault((term.name, term.limited_by, figures), []).append(term)
    for terms in sorted(groups.values(), key=lambda terms: -sum(t.ms for t in terms)):
        ms = sum(t.ms for t in terms)
        on = listed(sorted((t.device for t in terms), key=by_number))
        yield [terms[0].name, on, f"{ms:.3g}", f"{100 * ms / prediction.ms_per_step:.0f} %", terms[0].limited_by]


def _alternative_rows(plan: Plan) -> Iterator[list[str]]:
    for other in plan.alternatives[:8]:
        short = f"{gigabytes(other.missing_bytes)} missing"
        yield [other.name, short if other.tokens_per_s is None else _told(plan, other.tokens_per_s)]


def _unit(plan: Plan) -> str:
    return "tokens/s" if len(plan.objective.parts) == 1 else f"time of {plan.objective.name}"


def _told(plan: Plan, tokens_per_s: float) -> str:
    """As the plan's own speed or time is told."""
    tokens = plan.objective.tokens
    return number(tokens_per_s) if len(plan.objective.parts) == 1 else duration(tokens / tokens_per_s)


def _table(head: list[str], rows: Iterator[list[str]]) -> list[str]:
    """Left-aligned columns, two spaces between."""
    every = [head, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in every]
