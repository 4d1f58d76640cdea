"""One self-contained HTML page of a plan: `write_page(asked, path)`.

Assembles what the template shows; the template holds the words, the modules beside it the pictures, `motley.page` the
look.
"""

from pathlib import Path
from typing import Any

import motley
from motley.page import template
from motley.page.experts import device_key
from motley.plan.picture import curves, layers, links, machines, timeline
from motley.plan.picture.facts import Asked, groups
from motley.predict.explain import Explanation, explain
from motley.predict.memory import gigabytes
from motley.predict.published.nearest import Measured, nearest
from motley.predict.show import experts_words, number
from motley.predict.workload import Workload
from motley.progress import Progress, silent

_PROMPT = 512  # tokens, beside the plan's own workload

PARTS = {
    "attention": "norms, projections and attention over the cache, shared experts",
    "router": "choosing experts",
    "experts": "the chosen experts that the step waits for",
    "upload": "bringing weights of experts that another device holds",
    "link": "exchanges with other devices",
    "head": "the output matrix",
    "python": "between operations, and once a step",
}


def write_page(asked: Asked, path: Path, notes: tuple[str, ...] = (), progress: Progress = silent) -> None:
    """`notes`: what more was said of the lab, one sentence each."""
    path.write_text(render(asked, notes, progress), encoding="utf-8")


def render(asked: Asked, notes: tuple[str, ...] = (), progress: Progress = silent) -> str:
    filters = {"number": number, "size": gigabytes, "limit": curves.limit}
    return template.render("motley.plan", "picture", "plan.html.jinja", filters, **_context(asked, notes, progress))


def _context(asked: Asked, notes: tuple[str, ...], progress: Progress) -> dict[str, Any]:
    shape, plan, found = asked.shape, asked.plan, groups(asked)
    prediction = plan.prediction
    explained = explain(shape, asked.laid_out, plan.placement, prediction.workload, asked.routes)
    buses = links.buses(asked, found, explained)
    line = timeline.time_line(asked, found)
    largest = machines.largest_memory(found)
    rows = [
        (g, links.gutter(buses, i), machines.memory_bar(g, largest), machines.role_words(g, shape.n_layers))
        for i, g in enumerate(found)
    ]
    drawn = curves.curves(asked, progress)
    return {
        "asked": asked,
        "version": motley.__version__,
        "plan": plan,
        "prediction": prediction,
        "parts": PARTS,
        "holds": machines.HOLDS,
        "groups": found,
        "rows": rows,
        "many": any(group.n > 1 for group in found),
        "gutter": links.WIDTH * len(buses) + 12 if buses else 0,
        "buses": [(bus, links.words(bus), links.joins(bus, found)) for bus in buses],
        "layers": layers.layers_picture(asked, found),
        "choices": layers.choices_map(asked, found),
        "device_key": device_key,
        "prompt": curves.predicted(asked, Workload("prefill", _PROMPT, chunk=plan.objective.chunk))[0],
        "line": line,
        "one_layer": timeline.lanes_picture(found, line.layer_pieces, line.layer_ms, _layer_label(line)),
        "whole_step": timeline.lanes_picture(found, line.pieces, line.ms, f"A step of {number(line.ms)} milliseconds"),
        "curves": [(c, curves.curve_picture(c), curves.shares_picture(c)) for c in drawn],
        "sum": _sum(explained),
        "explained": explained,
        "alternatives": _alternatives(asked),
        "nearest": _nearest(asked),
        "facts": _facts(asked),
        "notes": notes,
    }


def _layer_label(line: timeline.TimeLine) -> str:
    return f"Layer {line.layer}, {number(1e3 * line.layer_ms)} microseconds"


def _sum(explained: Explanation) -> list[tuple[str, float, list[Any]]]:
    """(device, milliseconds, lines)"""
    found = []
    for device in dict.fromkeys(line.device for line in explained.lines):
        lines = [line for line in explained.lines if line.device == device]
        found.append((device, sum(line.ms for line in lines), lines))
    return found


def _alternatives(asked: Asked) -> list[tuple[str, float | None, str, float]]:
    """(name, tokens/s, what is missing, part of the best's speed)"""
    best = asked.plan.objective.tokens / asked.plan.seconds[1]
    found = []
    for other in asked.plan.alternatives[:10]:
        speed = other.tokens_per_s
        short = "" if speed is not None else f"{gigabytes(other.missing_bytes)} missing"
        found.append((other.name, speed, short, min(1.0, (speed or 0.0) / best)))
    return found


def _nearest(asked: Asked) -> list[Measured]:
    """What others measured that is most like it; none for probed devices."""
    used = {d for layer in asked.plan.placement.layers for d in (layer.home, *layer.holders)}
    questions = [*(p.workload for p in asked.plan.predictions), Workload("prefill", _PROMPT)]
    kinds = {w.kind: w for w in reversed(questions)}
    found = [m for w in kinds.values() for m in nearest(asked.shape, asked.lab, used, w)]
    return sorted(dict.fromkeys(found), key=lambda m: m.workload.kind)


def _facts(asked: Asked) -> list[tuple[str, str]]:
    shape = asked.shape
    devices = {d.source: 0 for d in asked.lab.devices}
    for d in asked.lab.devices:
        devices[d.source] += 1
    sources = [f"{n} x {source}" if n > 1 else source for source, n in devices.items()]
    joins = list(dict.fromkeys(link.source for link in asked.lab.links))
    experts = experts_words(shape.n_experts_used, shape.n_experts)
    model = (
        f"{shape.name} ({shape.architecture}): {number(shape.n_params / 1e9)} billion parameters in "
        f"{gigabytes(shape.n_bytes)}, {shape.n_layers} layers, {experts}, width {shape.d_model}"
    )
    active = f"{gigabytes(shape.active_bytes_per_token())} of weights for one token"
    plan_for = asked.plan.objective
    room = f"{asked.slots} sequence{'s' if asked.slots > 1 else ''} of {min(asked.context, shape.context):,} tokens"
    return [
        ("model", model),
        ("precision", precision_words(asked)),
        ("active", active),
        ("placed for", f"{plan_for.name}: " + " and ".join(w.name for w, _ in plan_for.parts)),
        ("room kept for", room),
        ("shape from", shape.source or "the file's own tensors"),
        ("devices from", "; ".join(sources[:12]) + (f"; and {len(sources) - 12} more" if len(sources) > 12 else "")),
        ("links from", "; ".join(joins[:12]) or "none"),
        ("experts chosen", "by the route trace" if asked.routes else "any with equal chance: no route trace given"),
        ("version", f"Motley {motley.__version__}"),
    ]


def precision_words(asked: Asked) -> str:
    """`q4_k 92 %, q6_k 8 %`, of the bytes."""
    sums: dict[str, int] = {}
    for t in asked.shape.tensors:
        name = t.quant.name.lower()
        sums[name] = sums.get(name, 0) + t.n_bytes
    total = sum(sums.values())
    ranked = sorted(sums.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {number(100 * n / total)} %" for name, n in ranked if n > 0.0005 * total)
