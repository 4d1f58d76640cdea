"""`run_bench`: one bench from start to result. The composition root (the CLI) says how to open runners; this says in
which order things happen, and what the result holds.

The placed model runs alone: tests, then its half of the check, then the pairs with a peer. Only when it is closed does
the reference open, so that both never need memory at once.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

import motley
from motley.bench import facts
from motley.bench.activation import with_activation
from motley.bench.check import Answer, compare, record
from motley.bench.energy import EnergyMeter, nobody
from motley.bench.journal import Done, Journal
from motley.bench.load_engine import measure_load
from motley.bench.measure import Text, measure
from motley.bench.peer import Contest, contend
from motley.bench.peer_llamacpp import require_installed, rivals
from motley.bench.records import Interval
from motley.bench.result import SCHEMA, Exchange, PeerResult, Result, RouteCounts, Skipped
from motley.bench.suite import Load, Unit
from motley.bench.suite import workloads as every_workload
from motley.engine.runner import Runner, by_pair
from motley.errors import UsageError
from motley.lab.lab import Lab
from motley.lab.placement import Placement
from motley.predict.workload import STEP_TOKENS, Workload
from motley.progress import Progress, silent, stages
from motley.shape.model import ModelShape

RunnerOpener = Callable[[Progress], AbstractContextManager[Runner]]


@dataclass(frozen=True)
class Subject:
    """What is measured, and how to get at it."""

    shape: ModelShape
    lab: Lab
    placement: Placement
    text: Text
    open_placed: RunnerOpener  # contextlib.closing(...) makes one of anything that closes
    predict: Callable[[Workload], Interval | None]
    read_gb_s: Callable[[], float]  # the machine's, with all the threads of the run; called around every test
    threads: int  # of all devices together
    int8_gops: float | None = None
    open_reference: RunnerOpener | None = None  # what the check compares with; None: no check
    reference: str = "one device"
    kinds_differ: bool = False  # from the reference's kind of device
    reasons: Sequence[str] = ()  # why this placement: a clause each
    file: Path | None = None
    file_hash: str | None = None
    peak_memory: Callable[[Runner], Mapping[str, int]] = lambda runner: {}  # bytes by device, before it closes
    energy: EnergyMeter = field(default_factory=lambda: nobody("not asked for"))


@dataclass(frozen=True)
class Settings:
    """What was asked for."""

    workloads: Sequence[Workload]
    repeat: int = 5
    check_prompts: Sequence[Sequence[int]] = ()  # none: two pieces of the text
    check_tokens: int = 64  # greedy tokens per prompt
    peer: str | None = None
    command: str = ""
    trace: Callable[[Runner, Text], None] | None = None  # called with the placed model when all is measured
    loads: Sequence[Load] = ()
    suite: str | None = None  # the name of the suite that this is
    step_tokens: int = STEP_TOKENS  # the most that a step of a load or of the check carries; workloads have their own

    @property
    def units(self) -> list[Unit]:
        return [*self.workloads, *self.loads]


def asked_workloads(
    pp: Sequence[int], tg: Sequence[int], depths: Sequence[int] = (0,), batches: Sequence[int] = (1,)
) -> list[Workload]:
    """What `--pp`, `--tg`, `--depth` and `--batch` ask for. UsageError if that is nothing at all."""
    asked = every_workload(pp, tg, depths, batches)
    if not asked:
        raise UsageError("nothing to measure: give --pp or --tg at least one number above 0")
    return asked


def run_bench(
    subject: Subject, settings: Settings, progress: Progress = silent, journal: Journal | None = None
) -> Result:
    """Raises UsageError before anything is loaded if the request makes no sense. `journal`: what of it was measured
    already, and where to note the rest."""
    require_sense(settings, subject.shape, subject.file)
    journal = Journal(facts.now()) if journal is None else journal
    stage = stages(progress, len(settings.units) + 5)
    with subject.open_placed(stage()) as runner:
        done = [_done(subject, settings, runner, unit, journal, stage()) for unit in settings.units]
        prompts = settings.check_prompts or default_prompts(subject.text)
        placed = []
        if subject.open_reference:
            placed = record(runner, prompts, settings.check_tokens, progress=stage(), chunk=settings.step_tokens)
        memory = dict(subject.peak_memory(runner))
        if settings.trace:
            settings.trace(runner, subject.text)
        peers = _against_peer(subject, settings, runner, stage())
    reference = _record_reference(subject, settings, prompts, placed, stage)
    tests = tuple(d.result for d in done if d.result)
    loads = tuple(d.load for d in done if d.load)
    if not tests and not loads:
        raise UsageError(f"nothing was measured: {'; '.join(d.skipped.why for d in done if d.skipped)}")
    read_gb_s = median([t.read_gb_s for t in tests] or [subject.read_gb_s()])
    return Result(
        schema=SCHEMA,
        motley=motley.__version__,
        date=facts.now(),
        command=settings.command or facts.command_line(),
        commit=facts.commit(),
        model=facts.model(subject.shape, subject.file, subject.file_hash),
        machine=facts.machine(read_gb_s, subject.int8_gops, subject.threads),
        lab=subject.lab,
        placement=subject.placement,
        reasons=tuple(subject.reasons),
        results=tests,
        check=compare(placed, reference, subject.reference, subject.kinds_differ) if reference else None,
        routes=_route_counts(done),
        exchanges=_exchanges(subject.lab, done),
        peers=peers,
        peak_memory_bytes=memory,
        suite=settings.suite,
        step_tokens=msgspec.UNSET if settings.step_tokens == STEP_TOKENS else settings.step_tokens,
        sessions=journal.sessions,
        loads=loads,
        skipped=tuple(d.skipped for d in done if d.skipped),
        energy_why=subject.energy.why,
    )


def require_sense(settings: Settings, shape: ModelShape, file: Path | None) -> None:
    """UsageError, before any work is done, if the request can't be met."""
    longest = max(settings.units, key=lambda unit: unit.context)
    if longest.context > shape.context and settings.suite is None:
        raise UsageError(
            f"{longest.name} needs {longest.context} positions; {shape.name} was trained for "
            f"{shape.context}: ask for fewer tokens or less depth"
        )
    if settings.repeat < 1:
        raise UsageError(f"--repeat {settings.repeat}: at least one sample is needed")
    if settings.peer not in (None, "llama.cpp"):
        raise UsageError(f"unknown peer {settings.peer!r}: Motley knows llama.cpp")
    if settings.peer and file is None:
        raise UsageError("--peer needs a model file that both can read")
    if settings.peer:
        require_installed()


def _done(
    subject: Subject, settings: Settings, runner: Runner, unit: Unit, journal: Journal, progress: Progress
) -> Done:
    """The unit as it was measured before, or now."""
    if (known := journal.get(unit.name)) is not None:
        return known
    found = _measured(subject, settings, runner, unit, progress)
    journal.add(found)
    return found


def _measured(subject: Subject, settings: Settings, runner: Runner, unit: Unit, progress: Progress) -> Done:
    """Of a suite, what does not fit is skipped: suites are made for every model."""
    if settings.suite is not None and unit.context > _most_context(subject, runner):
        why = f"needs {unit.context} positions, {subject.shape.name} was trained for {subject.shape.context}"
        return Done(unit=unit.name, skipped=Skipped(test=unit.name, why=why))
    if isinstance(unit, Load):
        predicted, chunk = expected(unit, subject.predict, settings.step_tokens), settings.step_tokens
        load = measure_load(
            runner, unit, subject.text, repeat=settings.repeat, predicted=predicted, chunk=chunk, progress=progress
        )
        return Done(unit=unit.name, load=load)
    found = measure(
        runner,
        unit,
        subject.text,
        repeat=settings.repeat,
        read_gb_s=subject.read_gb_s,
        active_bytes=active_bytes(subject.shape, unit),
        predicted=subject.predict(unit),
        energy=subject.energy,
        progress=progress,
    )
    return Done(
        unit=unit.name,
        result=with_activation(found.result, runner, unit, subject.text, subject.shape),
        routes=tuple(tuple(row) for row in found.reading.routes.tolist()),
        exchanges=found.reading.exchanges,
        tokens=found.tokens,
    )


def expected(load: Load, predict: Callable[[Workload], Interval | None], chunk: int = STEP_TOKENS) -> Interval | None:
    """Output tokens/s of a load: its prompts are read together, and each answer's first token with them; then the
    others are written together. Requests that fall out of step take longer, which is not counted."""
    n, after = load.concurrency, load.output - 1
    reading = predict(Workload("prefill", load.prompt, batch=n, chunk=chunk))
    writing = predict(Workload("decode", max(1, after), load.prompt, n, chunk))

    def speed(read: float, write: float) -> float:
        return load.output / (load.prompt / read + after / write)

    if reading is None or writing is None:
        return None
    return Interval(
        p10=speed(reading.p10, writing.p10), p50=speed(reading.p50, writing.p50), p90=speed(reading.p90, writing.p90)
    )


def active_bytes(shape: ModelShape, workload: Workload) -> int:
    """What one token must read: its active weights, and the keys and values it attends to (the mean over the run)."""
    read = sum(shape.kv_read_bytes(i, workload.mean_depth) for i in range(shape.n_layers))
    return round(shape.active_bytes_per_token() + read)


def default_prompts(text: Text) -> list[list[int]]:
    """A short prompt and a longer one."""
    return [text.tokens(0, 0, n).tolist() for n in (7, 96)]


def _record_reference(
    subject: Subject,
    settings: Settings,
    prompts: Sequence[Sequence[int]],
    placed: Sequence[Answer],
    stage: Callable[[], Progress],
) -> list[Answer]:
    if subject.open_reference is None:
        return []
    with subject.open_reference(stage()) as runner:
        n, chunk = len(placed[0].followed), settings.step_tokens
        return record(runner, prompts, n, follow=placed, progress=stage(), chunk=chunk)


def _against_peer(subject: Subject, settings: Settings, runner: Runner, progress: Progress) -> tuple[PeerResult, ...]:
    if settings.peer is None or subject.file is None:
        return ()
    asked = [w for w in settings.workloads if not settings.suite or w.context <= _most_context(subject, runner)]
    if not asked:
        return ()
    contest = Contest(runner, asked, subject.text, subject.threads, settings.repeat)
    return contend(contest, rivals(subject.file, subject.threads, asked, subject.text), progress)


def _most_context(subject: Subject, runner: Runner) -> int:
    return min(runner.context, subject.shape.context)


def _route_counts(done: Sequence[Done]) -> RouteCounts | None:
    tests = [np.array(d.routes) for d in done if d.result]
    return tuple(tuple(row) for row in np.sum(tests, axis=0).tolist()) if tests else None


def _exchanges(lab: Lab, done: Sequence[Done]) -> tuple[Exchange, ...]:
    """Of the tests that generate: exchanges of a prompt carry many tokens, and would blur the cost of one."""
    tests = [d for d in done if d.result]
    chosen = [d for d in tests if d.result and d.result.test.startswith("tg")] or tests
    tokens = sum(d.tokens for d in chosen)
    rtt = {frozenset((link.a, link.b)): link.rtt_us for link in lab.links}
    return tuple(
        Exchange(
            a=x.a,
            b=x.b,
            transport=x.transport,
            count=x.count,
            per_token=x.count / tokens,
            us_per_exchange=1e6 * max(0.0, x.seconds - x.work_seconds) / x.count,
            round_us=1e6 * x.seconds / x.count,
            work_us=1e6 * min(x.seconds, x.work_seconds) / x.count,
            rtt_us=rtt.get(frozenset((x.a, x.b))),
        )
        for x in by_pair(x for d in chosen for x in d.exchanges)
        if x.count
    )
