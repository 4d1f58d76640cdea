"""find_placement: where every layer and expert should live. Pure: state in, decision out.

The arrangements of `candidates` are priced by the cost model that `predict` uses; the best of each kind are improved
(`improve`); the fastest that fits wins. Anytime: `seconds` bounds the improving.
"""

from collections.abc import Collection
from math import inf
from time import monotonic

from motley.errors import CapacityError, UsageError
from motley.lab.lab import Lab
from motley.plan.candidates import candidates
from motley.plan.improve import improve
from motley.plan.layout import layout_reasons, stored_devices
from motley.plan.plan import Alternative, Plan
from motley.plan.reason import reasons
from motley.plan.state import Pricer, State
from motley.predict.cost import CostModel
from motley.predict.memory import gigabytes, memory_needed
from motley.predict.predict import price
from motley.predict.routes import Routes
from motley.predict.workload import STEP_TOKENS, Workload
from motley.shape.model import ModelShape

_STARTS = 24  # how many arrangements are improved


def find_placement(
    shape: ModelShape,
    lab: Lab,
    workload: Workload | None = None,
    routes: Routes | None = None,
    context: int = 4096,
    slots: int = 1,
    head: str | None = None,
    homes: Collection[str] | None = None,
    repack: bool = True,
    seconds: float = 3.0,
) -> Plan:
    """The fastest placement found for `workload` (default: 64 tokens, one sequence) that leaves room for `slots`
    sequences of `context` tokens. `head`: the device whose process drives the steps, if that is given. `homes`: the
    devices that attention may live on (default: any). `repack` False: all devices leave their weights in the mapped
    file; else those do whose memory would not hold the repacked copy.

    Raises CapacityError, with what is missing, where nothing fits; UsageError where the lab has no links."""
    workload = workload or Workload()
    if missing := lab.missing_links():
        pairs = ", ".join(f"{a} - {b}" for a, b in missing)
        raise UsageError(f"the lab has no link between {pairs}: measure it with `motley probe` or write it in the file")
    context = max(min(context, shape.context), workload.context)
    may_be_home = None if homes is None else frozenset(lab.devices.index(lab.device(name)) for name in homes)
    slots = max(slots, workload.batch)
    for as_stored in (False, True) if repack else (True,):  # what repacked does not fit may fit as the file has it
        there = lab.with_stored(d.name for d in lab.devices) if as_stored else lab
        model = CostModel(shape, there, workload, routes, head)
        pricer = Pricer(model, context, slots, STEP_TOKENS, may_be_home, not as_stored)
        starts = [(name, s) for name, s in dict.fromkeys(candidates(pricer)) if pricer.allowed(s)]
        state, ms = _best(pricer, [s for _, s in starts], monotonic() + seconds)
        if ms < inf:
            break
    else:
        raise CapacityError(_what_is_missing(pricer, starts, context, slots))
    placement = pricer.placement(state)
    needs = memory_needed(shape, placement, context, slots)
    stored = stored_devices(shape, lab, needs, repack)
    prediction = price(model.on(lab.with_stored(stored)), placement)
    alternatives = _alternatives(pricer, starts)
    said = reasons(pricer, state, prediction, alternatives)
    said += layout_reasons(model, lab, placement, needs, stored, repack)
    return Plan(placement, prediction, said, stored, alternatives)


def _best(pricer: Pricer, starts: list[State], until: float) -> tuple[State, float]:
    """Improve the most promising: those that fit by speed, then those that nearly fit."""
    ranked = sorted(starts, key=lambda s: (pricer.ms(s), pricer.missing(s)))
    best, best_ms = ranked[0], inf
    for start in ranked[:_STARTS]:
        now = monotonic()
        state, ms = improve(pricer, start, now + (until - now) / 3)
        if ms < best_ms:
            best, best_ms = state, ms
        if monotonic() > until and best_ms < inf:
            break
    return best, best_ms


def _alternatives(pricer: Pricer, starts: list[tuple[str, State]]) -> tuple[Alternative, ...]:
    """The best state of each name."""
    found: dict[str, Alternative] = {}
    for name, state in starts:
        ms, missing = pricer.ms(state), pricer.missing(state)
        speed = None if ms == inf else 1e3 * pricer.model.workload.step_tokens / ms
        known = found.get(name)
        if known is None or _rank(Alternative(name, speed, missing)) < _rank(known):
            found[name] = Alternative(name, speed, missing)
    return tuple(sorted(found.values(), key=_rank))


def _rank(alternative: Alternative) -> tuple[float, int]:
    speed = alternative.tokens_per_s
    return (inf if speed is None else -speed, alternative.missing_bytes)


def _what_is_missing(pricer: Pricer, starts: list[tuple[str, State]], context: int, slots: int) -> str:
    shape, devices = pricer.shape, pricer.devices
    have = sum(d.memory_bytes for d in devices)
    name, nearest = min(starts, key=lambda s: pricer.missing(s[1]))
    cache = sum(pricer.kv)
    sequences = f"{slots} sequence{'s' if slots > 1 else ''} of {context} tokens"
    what = f"{shape.name} needs {gigabytes(shape.n_bytes)}, and {gigabytes(cache)} for {sequences}"
    where = f"{len(devices)} device{'s have' if len(devices) > 1 else ' has'} {gigabytes(have)}"
    return (
        f"{what}; {where}: nothing fits. Nearest is {name}, with {gigabytes(pricer.missing(nearest))} missing: "
        "add memory or a device, shorten the context, or choose a smaller quantisation"
    )
