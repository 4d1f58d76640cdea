"""Question: what an Ask means, in the catalogues' own names, so that two ways of asking the same are one request.

`understand` resolves the spellings of model, quantisation and hardware, and says how it would be run here, or in one
sentence why it would not. Raises UsageError or UnsupportedError for what means nothing.
"""

import json
from collections import Counter
from dataclasses import astuple, dataclass
from hashlib import sha256

from motley.bench.facts import expert_quant
from motley.board.ask import Ask
from motley.board.offers import Offer, chosen
from motley.board.settings import Settings
from motley.errors import MotleyError, UsageError
from motley.lab.lab import Lab
from motley.lab.labs import named_labs
from motley.lab.shorthand import assemble, parse
from motley.predict.routes import Routes
from motley.predict.workload import Workload
from motley.shape.catalogue import find, lookup
from motley.shape.mix import MIXES, is_mix, unknown_mix
from motley.shape.model import ModelShape

MOST_DEVICES = 16  # of hardware that somebody names: planned in seconds
HERE = ("", "here", "host", "this")


@dataclass(frozen=True)
class Question:
    """The same for everybody who asks the same."""

    model: str
    quant: str
    pp: int
    tg: int
    depth: int
    batch: int
    lab: str  # "": the host's; else the hash of what was named

    @property
    def key(self) -> str:
        return json.dumps(astuple(self))

    @property
    def workloads(self) -> tuple[Workload, ...]:
        asked = [("prefill", self.pp), ("decode", self.tg)]
        return tuple(Workload(kind, n, self.depth, self.batch) for kind, n in asked if n)  # type: ignore[arg-type]

    @property
    def main(self) -> Workload:
        """What the placement is chosen for, as `motley bench` chooses."""
        return self.workloads[-1]


@dataclass(frozen=True)
class Understood:
    """`arguments`: of `motley bench`, to run it here; None where it is predicted only: `why_not` says why."""

    question: Question
    shape: ModelShape
    lab: Lab
    lab_words: str  # "" for the host's
    routes: Routes | None
    source: str  # "bundled", "file", "synthetic", "download" or "": what would be run
    arguments: tuple[str, ...] | None
    why_not: str
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> str:
        """The quantisation that a result of it says."""
        return expert_quant(self.shape)


def understand(ask: Ask, settings: Settings, offers: tuple[Offer, ...], host: Lab) -> Understood:
    quant = ask.quant.strip().lower().replace("-", "_")
    if quant and not is_mix(quant):
        raise unknown_mix(quant)
    offer = chosen(offers, ask.model, quant)
    model, quant, shape = _model(ask, quant, offer)
    here = ask.hardware.strip().lower() in HERE
    lab, words, notes = (host, "", ()) if here else _named_lab(ask.hardware)
    lab_key = "" if here else sha256(lab.dumps().encode()).hexdigest()[:16]
    question = Question(model, quant, ask.pp, ask.tg, ask.depth, ask.batch, lab_key)
    _check_workloads(question, shape)
    source, arguments, why_not = _how(question, shape, offer, settings)
    if not here:
        arguments, why_not = None, "predicted only here: this host does not have the hardware"
    routes = offer.routes if offer else None
    return Understood(question, shape, lab, words, routes, source, arguments, why_not, notes)


def _model(ask: Ask, quant: str, offer: Offer | None) -> tuple[str, str, ModelShape]:
    if offer is not None and offer.shape is not None:
        return offer.model, offer.quant, offer.shape
    if offer is not None:
        raise UsageError(f"{offer.name}: the catalogue does not know it, and its shape is not known before it is here")
    name = ask.model or "motley-8m"
    known = find(name) or lookup(name).name  # raises, with the nearest names
    quant = quant or ("q8_0" if known == "motley-8m" else "q4_k")
    return known, quant, ModelShape.named(known, quant)


def _named_lab(text: str) -> tuple[Lab, str, tuple[str, ...]]:
    """A lab that ships, or shorthand; never a file: the text is a visitor's. And the catalogue's words for it."""
    shorthand = {lab.name: lab.shorthand for lab in named_labs()}.get(text.strip().lower(), text)
    boxes, _ = parse(shorthand)
    if (n := sum(len(box.devices) for box in boxes)) > MOST_DEVICES:
        raise UsageError(f"hardware: {n} devices; the board predicts for up to {MOST_DEVICES}")
    found = assemble(shorthand)
    machines = Counter(" & ".join(d.name for d in box.devices) for box in boxes)
    links = dict.fromkeys(link.transport for link in found.lab.links)
    joined = f", joined by {', '.join(links)}" if links else ""
    return found.lab, " + ".join(f"{n}x {m}" if n > 1 else m for m, n in machines.items()) + joined, found.notes


def _check_workloads(question: Question, shape: ModelShape) -> None:
    if not question.workloads:
        raise UsageError("nothing to measure: ask for prompt tokens, for generated tokens, or both")
    for workload in question.workloads:
        if why := workload.too_long(shape.context):
            raise UsageError(f"{shape.name}, {workload.name}: {why}")


def _how(
    question: Question, shape: ModelShape, offer: Offer | None, settings: Settings
) -> tuple[str, tuple[str, ...] | None, str]:
    """(source, arguments, why not)"""
    limits = settings.limits
    if shape.n_bytes > limits.model_gb * 1e9:
        size = f"{shape.n_bytes / 1e9:.1f} GB of weights"
        return "", None, f"predicted only here: {size}, and this host runs up to {limits.model_gb:g} GB"
    longest = max(w.context for w in question.workloads)
    if longest > limits.tokens:
        return "", None, f"predicted only here: {longest:,} tokens, and this host runs up to {limits.tokens:,}"
    if question.batch > limits.sequences:
        return "", None, f"predicted only here: this host runs up to {limits.sequences} sequences at once"
    if offer is not None:
        return offer.kind, offer.arguments, ""
    if not settings.models.synthetic:
        return "", None, "predicted only here: the host offers no file of it"
    try:
        shape.require_runs()
    except MotleyError as error:
        return "", None, f"predicted only here: {error}"
    if question.quant not in MIXES:
        return (
            "",
            None,
            f"predicted only here: there is no file of it, and Motley writes no {question.quant}",
        )
    return "synthetic", ("--shape", question.model, "--quant", question.quant), ""
