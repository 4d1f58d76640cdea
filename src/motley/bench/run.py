"""`run_bench`: one bench from start to result. The composition root (the CLI) says how to open runners; this says in
which order things happen, and what the result holds.

The placed model runs alone: tests, then its half of the check, then the pairs with a peer. Only when it is closed does
the reference open, so that both never need memory at once.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import motley
from motley.bench import facts
from motley.bench.check import Answer, compare, record
from motley.bench.measure import Measurement, Test, Workload, measure
from motley.bench.peer import Contest, contend
from motley.bench.peer_llamacpp import rivals
from motley.bench.reading import total_exchanges, total_routes
from motley.bench.result import Exchange, Interval, PeerResult, Result, RouteCounts
from motley.bench.runner import Progress, Runner, silent
from motley.errors import UsageError
from motley.lab.lab import Lab
from motley.lab.placement import Placement
from motley.shape.model import ModelShape

RunnerOpener = Callable[[], AbstractContextManager[Runner]]


@dataclass(frozen=True)
class Subject:
    """What is measured, and how to get at it."""

    shape: ModelShape
    lab: Lab
    placement: Placement
    workload: Workload
    open_placed: RunnerOpener
    predict: Callable[[Test], Interval | None]
    read_gb_s: Callable[[], float]  # the machine's, with all the threads of the run; called around every test
    threads: int  # of all devices together
    int8_gops: float | None = None
    open_reference: RunnerOpener | None = None  # what the check compares with; None: no check
    reference: str = "one device"
    reason: str = ""  # why this placement
    file: Path | None = None
    file_hash: str | None = None
    kv_element_bytes: int = 4


@dataclass(frozen=True)
class Settings:
    """What was asked for."""

    tests: Sequence[Test]
    repeat: int = 5
    check_prompts: Sequence[Sequence[int]] = ()  # none: two pieces of the workload's text
    check_tokens: int = 64  # greedy tokens per prompt
    peer: str | None = None
    command: str = ""


def asked_tests(pp: Sequence[int], tg: Sequence[int], depths: Sequence[int], batches: Sequence[int]) -> list[Test]:
    """Every combination, prompts first: what `--pp`, `--tg`, `--depth` and `--batch` ask for. 0 means none."""
    prompts = [Test("pp", n, depth, batch) for batch in batches for depth in depths for n in pp if n]
    return prompts + [Test("tg", n, depth, batch) for batch in batches for depth in depths for n in tg if n]


def run_bench(subject: Subject, settings: Settings, progress: Progress = silent) -> Result:
    """Raises UsageError before anything is loaded if the request makes no sense."""
    _require_sense(subject, settings)
    stage = _stages(progress, len(settings.tests) + 3)
    with subject.open_placed() as runner:
        measured = [_measure(subject, settings, runner, test, stage()) for test in settings.tests]
        prompts = settings.check_prompts or default_prompts(subject.workload)
        placed = record(runner, prompts, settings.check_tokens, progress=stage()) if subject.open_reference else []
        peers = _against_peer(subject, settings, runner, stage())
    reference = _record_reference(subject, prompts, placed, stage())
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
        reason=subject.reason,
        results=tuple(m.result for m in measured),
        check=compare(placed, reference, subject.reference) if reference else None,
        routes=_route_counts(measured),
        exchanges=_exchanges(subject.lab, measured),
        peers=peers,
    )


def _require_sense(subject: Subject, settings: Settings) -> None:
    if not settings.tests:
        raise UsageError("nothing to measure: give --pp or --tg at least one number above 0")
    if settings.repeat < 1:
        raise UsageError(f"--repeat {settings.repeat}: at least one sample is needed")
    if settings.peer not in (None, "llama.cpp"):
        raise UsageError(f"unknown peer {settings.peer!r}: Motley knows llama.cpp")
    if settings.peer and subject.file is None:
        raise UsageError("--peer needs a model file that both can read")


def _stages(progress: Progress, n: int) -> Callable[[], Progress]:
    """Cut one progress bar into `n` equal parts, handed out in order."""
    begun = iter(range(n))

    def stage() -> Progress:
        i = next(begun)
        return lambda what, fraction: progress(what, (i + fraction) / n)

    return stage


def _measure(subject: Subject, settings: Settings, runner: Runner, test: Test, progress: Progress) -> Measurement:
    return measure(
        runner,
        test,
        subject.workload,
        repeat=settings.repeat,
        read_gb_s=subject.read_gb_s,
        active_bytes=active_bytes(subject.shape, test, subject.kv_element_bytes),
        predicted=subject.predict(test),
        progress=progress,
    )


def active_bytes(shape: ModelShape, test: Test, kv_element_bytes: int) -> int:
    """What one token must read: its active weights, and the keys and values before it (the mean over the test)."""
    return round(shape.active_bytes_per_token() + shape.kv_bytes_per_token(kv_element_bytes) * test.mean_position)


def default_prompts(workload: Workload) -> list[list[int]]:
    """A short prompt, and one that crosses a chunk's middle."""
    return [workload.tokens(0, 0, n).tolist() for n in (7, 96)]


def _record_reference(
    subject: Subject, prompts: Sequence[Sequence[int]], placed: Sequence[Answer], progress: Progress
) -> list[Answer]:
    if subject.open_reference is None:
        return []
    with subject.open_reference() as runner:
        return record(runner, prompts, len(placed[0].followed), follow=placed, progress=progress)


def _against_peer(subject: Subject, settings: Settings, runner: Runner, progress: Progress) -> tuple[PeerResult, ...]:
    if settings.peer is None or subject.file is None:
        return ()
    contest = Contest(runner, settings.tests, subject.workload, subject.threads, settings.repeat)
    return contend(contest, rivals(subject.file, subject.threads, settings.tests, subject.workload), progress)


def _route_counts(measured: Sequence[Measurement]) -> RouteCounts | None:
    counts = total_routes([m.reading for m in measured])
    return None if counts is None else tuple(tuple(row) for row in counts.tolist())


def _exchanges(lab: Lab, measured: Sequence[Measurement]) -> tuple[Exchange, ...]:
    """Of the tests that generate: exchanges of a prompt carry many tokens, and would blur the cost of one."""
    chosen = [m for m in measured if m.test.kind == "tg"] or list(measured)
    tokens = sum(m.tokens for m in chosen)
    rtt = {frozenset((link.a, link.b)): link.rtt_us for link in lab.links}
    return tuple(
        Exchange(
            a=x.a,
            b=x.b,
            transport=x.transport,
            count=x.count,
            per_token=x.count / tokens,
            us_per_exchange=1e6 * x.seconds / x.count,
            remote_us=None if x.remote_seconds is None else 1e6 * x.remote_seconds / x.count,
            rtt_us=rtt.get(frozenset((x.a, x.b))),
        )
        for x in total_exchanges([m.reading for m in chosen])
        if x.count
    )
