"""Plans and prices for the page, each once, and the same on every machine.

A search is bounded by seconds; here its clock goes on by one at every look, so that equal questions have equal answers.
Wirings of the same devices share what was found: a placement that is better elsewhere than what the search there found
takes its place. Comparisons then compare links, not luck.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from math import inf

from motley.errors import CapacityError, UnsupportedError
from motley.lab.hardware import hardware
from motley.lab.lab import Device, Lab
from motley.lab.labs import find_lab
from motley.plan import beam, search
from motley.plan.plan import Plan
from motley.predict.cost import CostModel
from motley.predict.memory import kv_bytes
from motley.predict.predict import Prediction, price
from motley.predict.workload import Workload
from motley.shape.catalogue import names
from motley.shape.model import ModelShape

CONTEXT = 33_280  # 32k and a prompt
DEEP = 32_768
PROMPT = 8192
DECODE = Workload("decode", 64)
LOOKS = 4000  # about a second of search


@dataclass(frozen=True)
class Asked:
    """One model at one quantisation on one lab, planned for decode; timed at the depths and on prompts."""

    shape: ModelShape
    lab: Lab
    plan: Plan
    deep: Prediction
    prompt: Prediction
    deep_prompt: Prediction

    def step_ms(self, lab: Lab) -> float:
        """A decode step of this placement, were the lab another."""
        return priced(self.shape, lab, self.plan, DECODE).ms_per_step

    def is_card(self, name: str) -> bool:
        return any(d.name == name and d.kind == "cuda" for d in self.lab.devices)


class Answers:
    def __init__(self, engine: str = "motley", looks: int = LOOKS) -> None:
        self.engine, self.looks = engine, looks
        self._labs: dict[str, Lab] = {}
        self._plans: dict[tuple[str, str, str], Plan | None] = {}

    def lab(self, name: str) -> Lab:
        if name not in self._labs:
            self._labs[name] = find_lab(name, self.engine).lab
        return self._labs[name]

    def ask(self, model: str, quant: str, lab_name: str) -> Asked | None:
        """None where it does not fit, or the model is not made so."""
        shape, lab = shaped(model, quant), self.lab(lab_name)
        plan = self._plan(model, quant, lab_name)
        if shape is None or plan is None:
            return None
        deep = min(DEEP, shape.context - 512)
        timed = (Workload("decode", 64, depth=deep), Workload("prefill", PROMPT), Workload("prefill", 512, depth=deep))
        return Asked(shape, lab, plan, *(priced(shape, lab, plan, workload) for workload in timed))

    def share(self, model: str, quant: str, lab_names: Sequence[str]) -> None:
        """Plan on all of these labs, then let each have the best of all placements."""
        shape = shaped(model, quant)
        plans = [plan for name in lab_names if (plan := self._plan(model, quant, name))]
        for name in lab_names:
            own, lab = self._plan(model, quant, name), self.lab(name)
            if own is None or shape is None:
                continue
            there = {d.name for d in lab.devices}
            found = [replace(p, prediction=priced(shape, lab, p, DECODE)) for p in plans if used(p) <= there]
            best = min([own, *found], key=lambda p: p.prediction.ms_per_step)
            won = replace(own, placement=best.placement, prediction=best.prediction, stored=best.stored)
            self._plans[model, quant, name] = won

    def _plan(self, model: str, quant: str, lab_name: str) -> Plan | None:
        key = model, quant, lab_name
        if key not in self._plans:
            shape, lab = shaped(model, quant), self.lab(lab_name)
            self._plans[key] = None
            if shape is not None and could_fit(shape, lab.devices):
                print(f"planning {model} {quant} on {lab_name}", file=sys.stderr)
                self._plans[key] = planned(shape, lab, self.looks)
        return self._plans[key]


def planned(shape: ModelShape, lab: Lab, looks: int) -> Plan | None:
    with counted_clock():
        try:
            return search.find_placement(shape, lab, DECODE, context=CONTEXT, seconds=looks)
        except CapacityError:
            return None


@contextmanager
def counted_clock() -> Iterator[None]:
    """The planner's clock counts the looks at it. For the beam, which may take long between two looks, it is over at
    once: starts, small moves and recombining are left."""
    modules = [m for name, m in sys.modules.items() if name.startswith("motley.plan.") and hasattr(m, "monotonic")]
    clocks = [module.monotonic for module in modules]
    looks = count()
    for module in modules:
        over = module is beam
        module.monotonic = (lambda: inf) if over else (lambda: float(next(looks)))
    try:
        yield
    finally:
        for module, clock in zip(modules, clocks):
            module.monotonic = clock


def used(plan: Plan) -> set[str]:
    return {name for layer in plan.placement.layers for name in (layer.home, *layer.experts)} | plan.stored


def priced(shape: ModelShape, lab: Lab, plan: Plan, workload: Workload) -> Prediction:
    return price(CostModel(shape, lab.with_stored(plan.stored), workload), plan.placement)


@cache
def shaped(model: str, quant: str) -> ModelShape | None:
    """None where the model is not made at that mix of precisions."""
    try:
        return ModelShape.named(model, quant)
    except UnsupportedError:
        return None


def cache_bytes(shape: ModelShape) -> int:
    return kv_bytes(shape, range(shape.n_layers), min(CONTEXT, shape.context), 1)


def could_fit(shape: ModelShape, devices: Sequence[Device]) -> bool:
    return shape.n_bytes + cache_bytes(shape) <= sum(d.memory_bytes for d in devices)


def big_models() -> list[str]:
    """Those that the card alone does not hold at 4 bits, largest first; of models with one shape the first."""
    room = hardware("rtx-pro-6000").usable_bytes
    found: dict[object, tuple[int, str]] = {}
    for name in names():
        shape = shaped(name, "q4_k_m")
        if shape is not None and shape.n_bytes > room:
            found.setdefault((shape.n_params, shape.n_active_params, shape.n_layers), (-shape.n_bytes, name))
    return [name for _, name in sorted(found.values())]
