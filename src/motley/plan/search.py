"""find_placement: where every layer and expert should live. Pure: state in, decision out.

The arrangements of `candidates` are priced by the cost model that `predict` uses; the best of each kind are improved
(`improve`); the fastest that fits wins. Anytime: `seconds` bounds the improving.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import inf
from time import monotonic
from typing import Self

from motley.errors import CapacityError, UsageError
from motley.lab.lab import MOST_DEVICES, Lab, missing_pairs
from motley.plan.beam import Beam
from motley.plan.build import built
from motley.plan.candidates import candidates
from motley.plan.columns import every_column, seen_columns
from motley.plan.copies import with_copies
from motley.plan.fewer import fewer
from motley.plan.improve import improve
from motley.plan.layout import layout_reasons, stored_devices
from motley.plan.objective import Objective
from motley.plan.plan import Alternative, Plan
from motley.plan.reason import copied, name_of, reasons
from motley.plan.rows import row_reasons, with_rows_split
from motley.plan.state import Pattern, Pricer, State
from motley.plan.streaming import reserved, with_streaming
from motley.predict.cost import CostModel
from motley.predict.memory import RESERVE_BYTES, gigabytes, memory_needed
from motley.predict.predict import price
from motley.predict.routes import Routes
from motley.predict.streaming import LEAST_TOKENS
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

_SECONDS, _SECONDS_A_DEVICE = 2.5, 0.015
_STARTS = 24  # how many arrangements are improved
_STARTING = 0.5  # of the time, at most, for finding them
_FEWER_S = 0.3  # for a few devices of many
_PROOF_S = 2.0  # at least, where all patterns are looked at
_DEALT_BETTER = 0.1  # a state that much slower may win once its experts are exchanged
_BEAM = 16  # devices of which the best of what was seen is put together again


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
    seconds: float | None = None,
    objective: Objective | str | None = None,
    copies: bool = False,
    split_rows: bool = False,
) -> Plan:
    """The fastest placement found for `workload` (default: 64 tokens, one sequence) that leaves room for `slots`
    sequences of `context` tokens, and for steps of the workload's `chunk` of tokens. `objective`: what fast means,
    "decode", "throughput", "ttft" or steps of several workloads; by default the workload says it. `head`: the device
    whose process drives the steps, if that is given.
    `homes`: the devices that attention may live on (default: any). `repack` False: all devices leave their weights in
    the mapped file; else those do whose memory would not hold the repacked copy. `seconds` bounds the search (default:
    3, and more for hundreds of devices), and a second one where the first kept room for bringing experts; if it ends
    before, equal questions have equal answers. `copies`: memory that is left may hold experts a second time, where that
    makes a step shorter. `split_rows`: the output matrix and attention's projections may be shared by rows among the
    devices that share a layer (Motley's own nodes do that).

    Raises CapacityError, with what is missing, where nothing fits; UsageError where the lab has no links."""
    if not isinstance(objective, Objective):
        objective = Objective.of(workload or Workload(), objective)
    if len(lab.devices) > MOST_DEVICES:
        raise UsageError(f"the lab has {len(lab.devices):,} devices: up to {MOST_DEVICES:,} are planned")
    if missing := lab.missing_links():
        raise UsageError(
            f"the lab has no link between {missing_pairs(missing)}: measure it with `motley probe` or write it in "
            "the file"
        )
    seconds = _SECONDS + len(lab.devices) * _SECONDS_A_DEVICE if seconds is None else seconds
    context = max(min(context, shape.context), objective.context)
    may_be_home = None if homes is None else frozenset(lab.devices.index(lab.device(name)) for name in homes)
    slots = max(slots, objective.batch)
    models = [(CostModel(shape, lab, w, routes, head), steps) for w, steps in objective.parts]
    question = _Question(models, objective, context, slots, head, may_be_home, repack, seconds, copies, split_rows)
    plan = question.best()

    def planned(few: Lab) -> Plan:
        at_home = None if homes is None else [d.name for d in few.devices if d.name in homes]
        return find_placement(
            shape, few, None, routes, context, slots, None, at_home, repack, _FEWER_S, objective, copies, split_rows
        )

    return plan if head else replace(plan, reason=[*plan.reason, *fewer(plan, lab, planned)])


@dataclass(frozen=True)
class _Question:
    """As `find_placement` has it."""

    models: Sequence[tuple[CostModel, float]]
    objective: Objective
    context: int
    slots: int
    head: str | None
    may_be_home: frozenset[int] | None
    repack: bool
    seconds: float
    copies: bool
    split_rows: bool

    def best(self) -> Plan:
        """Whether it is worth its room that experts are brought, no search sees: it keeps that room or does not. Where
        the objective has large steps, the better of both. Else room is kept for other prompts, where they use it."""
        model = self.models[0][0]
        homes = range(len(model.lab.devices)) if self.may_be_home is None else self.may_be_home
        plan, kept, short = self._plan({d: n for d, n in reserved(model).items() if d in homes})
        used = {layer.home for layer in plan.placement.layers if layer.streaming}
        if any(w.step_tokens >= LEAST_TOKENS for w, _ in self.objective.parts):
            used = set()
        worth = {d: n for d, n in kept.items() if model.lab.devices[d].name in used}
        if worth == kept:
            return plan
        other, _, also_short = self._plan(worth)
        if plan.seconds[1] <= other.seconds[1]:
            return plan
        return replace(other, reason=[*other.reason, *([] if also_short else short)])

    def _plan(self, kept_free: Mapping[int, int]) -> tuple[Plan, dict[int, int], list[str]]:
        """`kept_free`: the devices that the search counts on to bring experts, and room for their buffers. Also those
        of them in use whose room could have held more, and what was in the way of bringing more, in words."""
        model, objective, context, slots = self.models[0][0], self.objective, self.context, self.slots
        shape, lab = model.shape, model.lab
        pricer, found = self._searched(kept_free)
        placement = pricer.placement(found.state)
        if self.copies:
            placement = with_copies(pricer, found.state, placement)
        if self.split_rows:
            placement = with_rows_split(pricer.models, placement, context, slots)
        needs = memory_needed(shape, placement, context, slots, objective.chunk)
        stored = stored_devices(shape, lab, needs, self.repack)
        priced = [m.on(lab.with_stored(stored)) for m, _ in self.models]
        placement, streaming, short = with_streaming(priced[0], placement, context, slots, stored)
        predictions = tuple(price(m, placement) for m in priced)
        alternatives = alternatives_of(pricer, found.starts, objective)
        plan = Plan(placement, predictions[0], [], stored, alternatives, objective, predictions)
        speed = objective.tokens / plan.seconds[1]
        said = reasons(pricer, found.state, plan.prediction, alternatives, objective, speed, self.head)
        said += copied(pricer, placement)
        said += [*row_reasons(placement), *streaming, *short]
        said += layout_reasons(priced[0], lab, placement, needs, stored, self.repack, plan.prediction)
        kept = {d: n for d, n in pricer.kept_free.items() if lab.devices[d].name in needs}
        return replace(plan, reason=said), kept, short

    def _searched(self, kept_free: Mapping[int, int]) -> "tuple[Pricer, Search]":
        """What repacked does not fit may fit as the file has it, or without room for buffers: then nobody is counted
        on to bring anything."""
        lab = self.models[0][0].lab
        every = [d.name for d in lab.devices]
        layouts, rooms = (False, True) if self.repack else (True,), (kept_free, {}) if kept_free else ({},)
        for as_stored, free in product(layouts, rooms):
            there = lab.with_stored(every if as_stored else ()).with_uploads_to(every[d] for d in free)
            on_it = [(m.on(there), n) for m, n in self.models]
            chunk = self.objective.chunk
            pricer = Pricer(on_it, self.context, self.slots, chunk, self.may_be_home, not as_stored, free)
            found = Search(pricer, monotonic() + self.seconds).run()
            if found.ms < inf:
                return pricer, found
        raise CapacityError(what_is_missing(pricer, found.starts, self.context, self.slots))


class Search:
    """Starts, the best made of all patterns seen, small moves, until nothing helps or the time is over."""

    def __init__(self, pricer: Pricer, until: float) -> None:
        self._pricer, self._until = pricer, until
        self.starts: list[tuple[str, State]] = []
        self.state: State = ()
        self.ms = inf
        self._seen: dict[State, None] = {}

    def run(self) -> Self:
        pricer = self._pricer
        if not pricer.homes:
            self.starts = list(candidates(pricer))
            return self
        pricer.dealer.until = self._until
        self._start()
        every = every_column(pricer)
        until, self._until = self._until, max(self._until, monotonic() + _PROOF_S)  # what is small is not cut off
        proven = every is not None and self._beam(every)
        self._until = until
        if not proven and pricer.may_fit:
            self._climb()
            self._recombine()
        if pricer.model.routes is not None and self.ms < inf:
            self._deal_carefully(every)
        return self

    def _deal_carefully(self, columns: dict[int, list[Pattern]] | None) -> None:
        """Where it is known which experts are chosen together: the best state, and what comes near it, dealt better."""
        pricer, near = self._pricer, None
        if columns is not None:
            near = Beam(pricer, columns, pricer.sets_of(self.state)).promising(self.ms, _DEALT_BETTER)
        pricer.deal_carefully()
        self.ms = pricer.ms(self.state)
        if near is not None:
            self._beam(near)

    def _start(self) -> None:
        now = monotonic()
        until = now + _STARTING * (self._until - now)
        self.starts = [(name, s) for name, s in dict.fromkeys(candidates(self._pricer)) if self._pricer.allowed(s)]
        for state in built(self._pricer):
            self.starts.append((name_of(self._pricer, state), state))
            if monotonic() > until and self._pricer.ms(state) < inf:
                break
        ranked = sorted((s for _, s in self.starts), key=lambda s: (self._pricer.ms(s), self._pricer.missing(s)))
        for state in ranked:
            self._keep(state)

    def _keep(self, state: State) -> None:
        self._seen[state] = None
        ms = self._pricer.ms(state)
        if ms < self.ms or not self.state:
            self.state, self.ms = state, ms

    def _beam(self, columns: dict[int, list[Pattern]]) -> bool:
        """Whether what is best now is proven to be, the working sets being what they are."""
        for _ in range(3):
            sets = self._pricer.sets_of(self.state) if self.ms < inf else self._pricer.plain_sets()
            found = Beam(self._pricer, columns, sets).search(self.ms, self._until)
            if found.state is None:
                return found.proven
            before = self.ms
            self._keep(found.state)
            if self.ms == before:
                return False
        return False

    def _climb(self) -> None:
        """Improve the most promising: those that fit by speed, then those that nearly fit."""
        for start in list(self._seen)[:_STARTS]:
            now = monotonic()
            state, _ = improve(self._pricer, start, now + (self._until - now) / 3)
            self._keep(state)
            if monotonic() > self._until and self.ms < inf:
                break

    def _recombine(self) -> None:
        pricer = self._pricer
        while len(pricer.devices) <= _BEAM and monotonic() < self._until:
            best = sorted(self._seen, key=pricer.ms)[:_STARTS]
            before = self.ms
            self._beam(seen_columns(pricer, [self.state, *best]))
            state, _ = improve(pricer, self.state, self._until)
            self._keep(state)
            if self.ms >= before * (1 - 1e-4):
                break


def alternatives_of(pricer: Pricer, starts: list[tuple[str, State]], objective: Objective) -> tuple[Alternative, ...]:
    """The best state of each name."""
    found: dict[str, Alternative] = {}
    for name, state in starts:
        ms, missing = pricer.ms(state), pricer.missing(state)
        speed = None if ms == inf else 1e3 * objective.tokens / ms
        known = found.get(name)
        if known is None or _rank(Alternative(name, speed, missing)) < _rank(known):
            found[name] = Alternative(name, speed, missing)
    return tuple(sorted(found.values(), key=_rank))


def _rank(alternative: Alternative) -> tuple[float, int]:
    speed = alternative.tokens_per_s
    return (inf if speed is None else -speed, alternative.missing_bytes)


def what_is_missing(pricer: Pricer, starts: list[tuple[str, State]], context: int, slots: int) -> str:
    shape, devices = pricer.shape, pricer.devices
    have = sum(d.memory_bytes for d in devices)
    sequences = f"{slots} sequence{'s' if slots > 1 else ''} of {context} tokens"
    what = f"{shape.name} needs {gigabytes(shape.n_bytes)}, and {gigabytes(sum(pricer.kv))} for {sequences}"
    several, own = len(devices) > 1, gigabytes(RESERVE_BYTES)
    where = f"{len(devices)} device{'s have' if several else ' has'} {gigabytes(have)}"
    where += f", of which the program itself takes {own}{' each' if several else ''}"
    nearest = ""
    if starts:
        name, state = min(starts, key=lambda s: pricer.missing(s[1]))
        nearest = f" Nearest is {name}, with {gigabytes(pricer.missing(state))} missing:"
    return (
        f"{what}; {where}: nothing fits.{nearest} "
        "add memory or a device, shorten the context, or choose a smaller quantisation"
    )
