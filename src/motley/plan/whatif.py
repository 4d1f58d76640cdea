"""What if: a lab planned as it is, after each change, and after all of them.

Pure, as planning is: a shape, a lab and changes in, outcomes out. What does not fit is an outcome too.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from motley.errors import CapacityError
from motley.lab.changes import Change, changed
from motley.lab.lab import Lab
from motley.lab.wiring import Assembly, hardware_of
from motley.plan.objective import Objective
from motley.plan.plan import Plan, seconds_of
from motley.plan.search import find_placement
from motley.plan.show import prediction_json
from motley.predict.cost import CostModel
from motley.predict.predict import Prediction, price
from motley.predict.routes import Routes
from motley.predict.show import duration, number
from motley.predict.workload import Workload
from motley.progress import Progress, silent
from motley.shape.model import ModelShape

_PARTS = ("p10", "p50", "p90")
_GAIN = 1e-3  # relative: below it two placements are equally fast


@dataclass(frozen=True)
class Question:
    """What is asked of every configuration."""

    shape: ModelShape
    workload: Workload
    prompt: int = 512  # tokens before the first one comes
    context: int = 4096
    slots: int = 1
    engine: str = "motley"
    routes: Routes | None = None
    homes: Collection[str] | None = None
    repack: bool = True
    seconds: float | None = None  # of searching; None: as `find_placement`
    objective: Objective | str | None = None  # None: as the workload says
    copies: bool = False
    split_rows: bool = False

    @property
    def aim(self) -> Objective:
        """What every configuration is placed for."""
        if isinstance(self.objective, Objective):
            return self.objective
        return Objective.of(self.workload, self.objective, self.prompt)

    @property
    def first(self) -> Objective:
        """The prompt and the step whose time is told as that to the first token."""
        return (
            self.aim
            if self.aim.first_token
            else Objective.of(Workload("prefill", self.prompt, chunk=self.aim.chunk), "ttft")
        )


@dataclass(frozen=True)
class Outcome:
    """One configuration. Without a plan it does not fit, and `missing` says what is missing."""

    name: str
    lab: Lab
    notes: tuple[str, ...]
    plan: Plan | None
    missing: str = ""
    first_token_s: tuple[float, float, float] | None = None  # p10, p50, p90 of the prompt and a step, in that placement

    @property
    def limit(self) -> str:
        """The largest part of a step, and what it waits for."""
        if self.plan is None:
            return ""
        term = self.plan.prediction.largest
        share = 100 * term.ms / self.plan.prediction.ms_per_step
        by = "" if term.limited_by == term.name else f", {term.limited_by}"
        return f"{term.name} on {term.device}{by} ({share:.0f} %)"

    @property
    def watts(self) -> tuple[float, int]:
        """Of all devices at full load, and of how many that is not known."""
        return _total([h.watts if (h := hardware_of(d)) else None for d in self.lab.devices])

    @property
    def price_usd(self) -> tuple[float, int]:
        return _total([h.price_usd if (h := hardware_of(d)) else None for d in self.lab.devices])


def _total(values: Sequence[float | None]) -> tuple[float, int]:
    return sum(v for v in values if v is not None), sum(v is None for v in values)


def what_if(
    question: Question, lab: Lab, changes: Sequence[Change], progress: Progress = silent
) -> tuple[Outcome, ...]:
    """The lab as it is, then with each change alone, then with all. All changes are checked before the first search.
    Raises UsageError for a change that names what the lab or the catalogues do not have."""
    for home in question.homes or ():
        lab.device(home)  # raises for a name that is not there
    labs = [("as it is", Assembly(lab))]
    labs += [(change.name, change.apply(lab, question.engine)) for change in changes]
    if len(changes) > 1:
        labs.append(("all together", changed(lab, changes, question.engine)))
    found = []
    for i, (name, assembly) in enumerate(labs):
        progress(f"planning: {name}", i / len(labs))
        found.append(outcome(question, name, assembly))
    return tuple(_with_the_best(question, o, found) for o in found)


def _with_the_best(question: Question, own: Outcome, others: Sequence[Outcome]) -> Outcome:
    """A search is bounded, and what it found for another lab may be better here too: else a device more could seem to
    make it slower."""
    best, whose = own.plan, own.name
    for other in others:
        if best and other.plan and other is not own and _fits(other, own.lab):
            moved = _on(question, own.lab, other.plan)
            if moved.seconds[1] < best.seconds[1] * (1 - _GAIN):
                best, whose = moved, other.name
    if best is None or best is own.plan:
        return own
    why = f"the placement found for {whose!r} is faster here than what the search here found"
    first, notes = _first_token(question, own.lab, best), (*own.notes, why)
    return replace(own, notes=notes, plan=replace(best, reason=[why]), first_token_s=first)


def _fits(other: Outcome, lab: Lab) -> bool:
    """Whether the devices that the other's plan uses are here, as large."""
    if other.plan is None:
        return False
    names = {name for layer in other.plan.placement.layers for name in (layer.home, *layer.holders)} | other.plan.stored
    here = {d.name: d.memory_bytes for d in lab.devices}
    return all(here.get(name) == other.lab.device(name).memory_bytes for name in names)


def _on(question: Question, lab: Lab, plan: Plan) -> Plan:
    """The plan's placement on another lab."""
    predictions = _priced(question, lab, plan, plan.objective)
    return replace(plan, prediction=predictions[0], predictions=predictions)


def _first_token(question: Question, lab: Lab, plan: Plan) -> tuple[float, float, float]:
    if plan.objective == question.first:
        return plan.seconds
    return seconds_of(question.first, _priced(question, lab, plan, question.first))


def _priced(question: Question, lab: Lab, plan: Plan, objective: Objective) -> tuple[Prediction, ...]:
    """The objective's parts in the plan's placement."""
    there = lab.with_stored(plan.stored)
    models = [CostModel(question.shape, there, workload, question.routes) for workload, _ in objective.parts]
    return tuple(price(model, plan.placement) for model in models)


def outcome(question: Question, name: str, assembly: Assembly) -> Outcome:
    q, lab, notes = question, assembly.lab, assembly.notes
    homes = q.homes and [h for h in q.homes if any(d.name == h for d in lab.devices)]
    if q.homes and not homes:
        return Outcome(name, lab, notes, None, f"no device for attention is left of {', '.join(q.homes)} (--home)")
    if gone := [h for h in q.homes or () if h not in (homes or ())]:
        notes = (*notes, f"--home {', '.join(gone)} is gone: attention is on {', '.join(homes or ())}")
    try:
        plan = find_placement(
            q.shape,
            lab,
            None,
            q.routes,
            max(q.context, q.first.context),
            q.slots,
            homes=homes,
            repack=q.repack,
            seconds=q.seconds,
            objective=q.aim,
            copies=q.copies,
            split_rows=q.split_rows,
        )
    except CapacityError as error:
        return Outcome(name, lab, notes, None, str(error))
    return Outcome(name, lab, notes, plan, first_token_s=_first_token(q, lab, plan))


def what_if_text(outcomes: Sequence[Outcome], question: Question) -> str:
    """A table, and below it what had to be said."""
    aim, first = question.aim, question.first
    whole = [f"time of {aim.name}"] if len(aim.parts) > 1 and aim != first else []
    speed, wait = f"tokens/s of {aim.workload.name}", f"first token after {first.workload.name}"
    head = ["configuration", "fits", speed, *whole, wait, "limited by", "watts", "price"]
    lines = _columns([head, *(_row(o, bool(whole)) for o in outcomes)])
    notes = dict.fromkeys(f"{o.name}: {note}" for o in outcomes for note in (*o.notes, *filter(None, [o.missing])))
    if notes:
        lines += ["", *(f"  - {note}" for note in notes)]
    if aim != first:
        placed = "+".join(w.name for w, _ in aim.parts)
        lines += ["", f"First tokens are timed in the placement for {placed}; --objective ttft places for them."]
    lines += ["", "Watts and prices are the devices' own, at full load and as listed: no hosts, switches or cables."]
    return "\n".join(lines)


def what_if_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [_json(o) for o in outcomes]


def _json(o: Outcome) -> dict[str, Any]:
    first = o.first_token_s
    return {
        "configuration": o.name,
        "devices": [d.name for d in o.lab.devices],
        "fits": o.plan is not None,
        "prediction": prediction_json(o.plan.prediction) if o.plan else None,
        "objective": {"name": o.plan.objective.name, "seconds": dict(zip(_PARTS, o.plan.seconds))} if o.plan else None,
        "first_token_s": dict(zip(_PARTS, first)) if first else None,
        "limited_by": o.limit,
        "watts": {"known": o.watts[0], "devices_unknown": o.watts[1]},
        "price_usd": {"known": o.price_usd[0], "devices_unknown": o.price_usd[1]},
        "reason": o.plan.reason if o.plan else [o.missing],
        "notes": list(o.notes),
    }


def _row(o: Outcome, whole: bool) -> list[str]:
    """`whole`: with the time of all the objective's steps."""
    ends = [_known(o.watts, " W"), _known(o.price_usd, " USD")]
    if o.plan is None or o.first_token_s is None:
        return [o.name, "no", *[""] * (3 + whole), *ends]
    p, times = o.plan.prediction, ([o.plan.seconds] if whole else []) + [o.first_token_s]
    speed = f"{number(p.p50)} ({number(p.p10)} to {number(p.p90)})"
    waits = [f"{duration(middle)} ({duration(low)} to {duration(high)})" for low, middle, high in times]
    return [o.name, "yes", speed, *waits, o.limit, *ends]


def _known(total: tuple[float, int], unit: str) -> str:
    amount, unknown = total
    if not amount:
        return "not known"
    return f"{amount:,.0f}{unit}" + (f", {unknown} not known" if unknown else "")


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
