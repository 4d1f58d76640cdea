"""Plans what the page asks: `python -m motley.dashboard.planner`, a `planning.Work` on standard input.

Writes {"model", "workload", "outcomes": [...]} or {"error": one sentence}. An outcome is `plan.whatif`'s, and where the
model fits a `view` to draw. It reads the served model's file and no other: labs and models are names.
"""

import os
import sys
from typing import Any

import msgspec

from motley.dashboard.planning import SECONDS, Work
from motley.dashboard.view import drawn
from motley.engine.assign import devices_of
from motley.errors import MotleyError, UsageError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.changes import Change
from motley.lab.lab import Lab
from motley.lab.labs import described
from motley.plan.picture.facts import held
from motley.plan.whatif import Outcome, Question, what_if, what_if_json
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

SEARCH_S = 4.0  # of each configuration
VERBS = ("add", "drop", "swap")
DRAWN = 64  # devices: a larger lab has numbers only


def main() -> int:
    os.nice(10)  # the streams go first
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=Work)
    try:
        answer: dict[str, Any] = plan(work)
    except MotleyError as error:
        answer = {"error": str(error)}
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


def plan(work: Work) -> dict[str, Any]:
    asked = work.asked
    shape = ModelShape.named(asked.model, quant=asked.quant) if asked.model else shape_of(open_checkpoint(work.file))
    notes: tuple[str, ...] = ()
    if asked.lab:
        assembly = described(asked.lab)
        lab, notes = assembly.lab, assembly.notes
    else:
        lab = msgspec.convert(work.here, Lab)
    changes = [change(text) for text in asked.changes]
    seconds = min(SEARCH_S, SECONDS / 2 / (len(changes) + 2))
    workload = Workload(batch=asked.slots, chunk=work.step_tokens)
    question = Question(
        shape, workload, context=asked.context, slots=asked.slots, seconds=seconds, split_rows=not asked.lab
    )
    outcomes = what_if(question, lab, changes)
    told = [plain | _picture(question, outcome) for plain, outcome in zip(what_if_json(outcomes), outcomes)]
    return {"model": shape.name, "workload": workload.name, "notes": notes, "outcomes": told}


def change(text: str) -> Change:
    """`add 2x m3-ultra-512 @10gbe`"""
    verb, _, rest = text.strip().partition(" ")
    if verb.lower() not in VERBS:
        raise UsageError(f"a change begins with {', '.join(VERBS[:-1])} or {VERBS[-1]}, not {verb!r}")
    return Change(verb.lower(), rest)


def _picture(question: Question, outcome: Outcome) -> dict[str, Any]:
    found, lab = outcome.plan, outcome.lab
    if found is None or len(lab.devices) > DRAWN:
        return {"view": None}
    room = question.context, question.slots, question.workload.chunk
    holds = held(question.shape, lab, found.placement, found.stored, *room)
    used, head = devices_of(found.placement), found.placement.layers[0].home
    return {"view": drawn(lab, found.placement, holds, found.prediction, used, head)}


if __name__ == "__main__":
    raise SystemExit(main())
