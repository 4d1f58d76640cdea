"""`run_bench`: one bench from start to result. The composition root (the CLI) says how to open runners; this says in
which order things happen, and what the result holds.

The placed model runs alone: tests, then its half of the check, then the pairs with a peer. Only when it is closed does
the reference open, so that both never need memory at once.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import motley
from motley.bench import facts
from motley.bench.check import Answer, compare, record
from motley.bench.measure import Measurement, Text, measure
from motley.bench.peer import Contest, contend
from motley.bench.peer_llamacpp import require_installed, rivals
from motley.bench.reading import by_pair, total_routes
from motley.bench.result import Exchange, Interval, PeerResult, Result, RouteCounts
from motley.engine.runner import Runner
from motley.errors import UsageError
from motley.lab.lab import Lab
from motley.lab.placement import Placement
from motley.predict.workload import Workload
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
    reasons: Sequence[str] = ()  # why this placement: a clause each
    file: Path | None = None
    file_hash: str | None = None
    peak_memory: Callable[[Runner], Mapping[str, int]] = lambda runner: {}  # bytes by device, before it closes


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


def asked_workloads(
    pp: Sequence[int], tg: Sequence[int], depths: Sequence[int] = (0,), batches: Sequence[int] = (1,)
) -> list[Workload]:
    """Every combination, prompts first: what `--pp`, `--tg`, `--depth` and `--batch` ask for. 0 tokens: none.
    UsageError if that is nothing at all."""
    cases = [(depth, batch) for batch in batches for depth in depths]
    prompts = [Workload("prefill", n, depth, batch) for depth, batch in cases for n in pp if n]
    asked = prompts + [Workload("decode", n, depth, batch) for depth, batch in cases for n in tg if n]
    if not asked:
        raise UsageError("nothing to measure: give --pp or --tg at least one number above 0")
    return asked


def run_bench(subject: Subject, settings: Settings, progress: Progress = silent) -> Result:
    """Raises UsageError before anything is loaded if the request makes no sense."""
    require_sense(settings, subject.shape, subject.file)
    stage = stages(progress, len(settings.workloads) + 5)
    with subject.open_placed(stage()) as runner:
        measured = [_measure(subject, settings, runner, w, stage()) for w in settings.workloads]
        prompts = settings.check_prompts or default_prompts(subject.text)
        placed = record(runner, prompts, settings.check_tokens, progress=stage()) if subject.open_reference else []
        memory = dict(subject.peak_memory(runner))
        if settings.trace:
            settings.trace(runner, subject.text)
        peers = _against_peer(subject, settings, runner, stage())
    reference = _record_reference(subject, prompts, placed, stage)
    read_gb_s = median(m.result.read_gb_s for m in measured)
    return Result(
        motley=motley.__version__,
        date=facts.now(),
        command=settings.command or facts.command_line(),
        commit=facts.commit(),
        model=facts.model(subject.shape, subject.file, subject.file_hash),
        machine=facts.machine(read_gb_s, subject.int8_gops, subject.threads),
        lab=subject.lab,
        placement=subject.placement,
        reasons=tuple(subject.reasons),
        results=tuple(m.result for m in measured),
        check=compare(placed, reference, subject.reference) if reference else None,
        routes=_route_counts(measured),
        exchanges=_exchanges(subject.lab, measured),
        peers=peers,
        peak_memory_bytes=memory,
    )


def require_sense(settings: Settings, shape: ModelShape, file: Path | None) -> None:
    """UsageError, before any work is done, if the request can't be met."""
    longest = max(settings.workloads, key=lambda w: w.context)
    if longest.context > shape.context:
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


def _measure(
    subject: Subject, settings: Settings, runner: Runner, workload: Workload, progress: Progress
) -> Measurement:
    return measure(
        runner,
        workload,
        subject.text,
        repeat=settings.repeat,
        read_gb_s=subject.read_gb_s,
        active_bytes=active_bytes(subject.shape, workload),
        predicted=subject.predict(workload),
        progress=progress,
    )


def active_bytes(shape: ModelShape, workload: Workload) -> int:
    """What one token must read: its active weights, and the keys and values it attends to (the mean over the run)."""
    read = sum(shape.kv_read_bytes(i, workload.mean_depth) for i in range(shape.n_layers))
    return round(shape.active_bytes_per_token() + read)


def default_prompts(text: Text) -> list[list[int]]:
    """A short prompt and a longer one."""
    return [text.tokens(0, 0, n).tolist() for n in (7, 96)]


def _record_reference(
    subject: Subject, prompts: Sequence[Sequence[int]], placed: Sequence[Answer], stage: Callable[[], Progress]
) -> list[Answer]:
    if subject.open_reference is None:
        return []
    with subject.open_reference(stage()) as runner:
        return record(runner, prompts, len(placed[0].followed), follow=placed, progress=stage())


def _against_peer(subject: Subject, settings: Settings, runner: Runner, progress: Progress) -> tuple[PeerResult, ...]:
    if settings.peer is None or subject.file is None:
        return ()
    contest = Contest(runner, settings.workloads, subject.text, subject.threads, settings.repeat)
    return contend(contest, rivals(subject.file, subject.threads, settings.workloads, subject.text), progress)


def _route_counts(measured: Sequence[Measurement]) -> RouteCounts:
    return tuple(tuple(row) for row in total_routes([m.reading for m in measured]).tolist())


def _exchanges(lab: Lab, measured: Sequence[Measurement]) -> tuple[Exchange, ...]:
    """Of the tests that generate: exchanges of a prompt carry many tokens, and would blur the cost of one."""
    chosen = [m for m in measured if m.workload.kind == "decode"] or list(measured)
    tokens = sum(m.tokens for m in chosen)
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
        for x in by_pair(x for m in chosen for x in m.reading.exchanges)
        if x.count
    )
