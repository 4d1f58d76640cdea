"""Loads on a server, and the bench of one: the closed loop of `load_engine`, through HTTP."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import motley
from motley.bench import facts
from motley.bench.endpoint import MOST_RETRIES, NO_CONNECTION, Address, Endpoint, Failed
from motley.bench.journal import Done, Journal
from motley.bench.load import LoadResult, Run
from motley.bench.result import Skipped
from motley.bench.served import ServedResult, as_load, served_test
from motley.bench.suite import Load, Unit
from motley.errors import MotleyError
from motley.predict.workload import Workload
from motley.progress import Progress, silent, stages

WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Served:
    """What is benched, and with what."""

    address: Address
    model: str | None
    units: Sequence[Unit]
    repeat: int
    suite: str | None = None
    command: str = ""


def run_served(asked: Served, progress: Progress = silent, journal: Journal | None = None) -> ServedResult:
    """MotleyError where the server does not answer at all; what it refuses of the suite is in the result."""
    return asyncio.run(_run(asked, progress, Journal(facts.now()) if journal is None else journal))


async def _run(asked: Served, progress: Progress, journal: Journal) -> ServedResult:
    progress("asking the server what it can do", 0.0)
    most = max(unit.concurrency if isinstance(unit, Load) else 1 for unit in asked.units)
    stage = stages(progress, len(asked.units))
    async with Endpoint.open(asked.address, asked.model, most) as endpoint:
        done = []
        for unit in asked.units:
            found = journal.get(unit.name) or await _measured(endpoint, unit, asked.repeat, stage())
            if found.load:  # what failed may go better when the suite is resumed
                journal.add(found)
            done.append(found)
        server = endpoint.server
    pairs = list(zip(asked.units, done))
    if not any(d.load for d in done):
        raise MotleyError(f"nothing was measured: {'; '.join(sorted({d.skipped.why for d in done if d.skipped}))}")
    tests = [served_test(unit, d.load) for unit, d in pairs if isinstance(unit, Workload) and d.load]
    return ServedResult(
        kind="endpoint",
        motley=motley.__version__,
        date=facts.now(),
        command=asked.command or facts.command_line(),
        commit=facts.commit(),
        server=server,
        client=facts.client(),
        suite=asked.suite,
        sessions=journal.sessions,
        results=tuple(test for test in tests if test),
        loads=tuple(d.load for unit, d in pairs if isinstance(unit, Load) and d.load),
        skipped=tuple(d.skipped for d in done if d.skipped),
    )


async def _measured(endpoint: Endpoint, unit: Unit, repeat: int, progress: Progress) -> Done:
    load, why = as_load(unit)
    if load is None:
        return Done(unit=unit.name, skipped=Skipped(test=unit.name, why=why))
    found, errors = await measure_load(endpoint, load, repeat, unit.name, progress)
    if found is None:
        said = ", ".join(f"{n} x {kind}" for kind, n in errors.items())
        return Done(unit=unit.name, skipped=Skipped(test=unit.name, why=f"no request was answered: {said}"))
    return Done(unit=unit.name, load=found)


async def measure_load(
    endpoint: Endpoint, load: Load, repeat: int, name: str, progress: Progress = silent
) -> tuple[LoadResult | None, dict[str, int]]:
    """`repeat` runs after a warm-up, or as many more as the load's `seconds` take; None, and what happened, where
    nothing was answered."""
    progress(f"{name}: warming up", 0.0)
    warm = await _closed_loop(endpoint, load, load.concurrency, min(WARM_UP_TOKENS, load.output))
    if warm.errors and warm.errors.keys() <= {NO_CONNECTION}:
        raise MotleyError(f"{endpoint.server.url} no longer answers: is it still running?")
    if not warm.seen:
        return None, warm.errors
    runs: list[Run] = []
    began, worked = time.perf_counter(), time.process_time()
    while not load.enough(len(runs), time.perf_counter() - began, repeat):
        progress(f"{name}: run {len(runs) + 1}", load.done(len(runs), time.perf_counter() - began, repeat))
        runs.append(await _closed_loop(endpoint, load, load.requests, load.output))
    busy = (time.process_time() - worked) / (time.perf_counter() - began)
    progress(name, 1.0)
    if not any(run.seen for run in runs):
        return None, runs[0].errors
    return LoadResult.of(
        runs,
        prompt_tokens=load.prompt,
        output_tokens=load.output,
        concurrency=load.concurrency,
        counted_by="usage" if endpoint.tells_usage else "chunks",
        objectives=load.objectives,
        client_busy=busy,
    ), {}


async def _closed_loop(endpoint: Endpoint, load: Load, requests: int, output: int) -> Run:
    waiting = list(islice(endpoint.prompts(load.prompt), requests))
    run = Run(0.0, [], {})

    async def work() -> None:
        while waiting:
            await _one(endpoint, *waiting.pop(), output, run)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(load.concurrency):
            group.create_task(work())
    run.seconds = time.perf_counter() - start
    return run


async def _one(endpoint: Endpoint, prompt: str, tokens: int, output: int, run: Run) -> None:
    """Asked again where the server is full; every refusal is counted, and only the answered try is timed."""
    for _ in range(MOST_RETRIES):
        try:
            seen, cached = await endpoint.ask(prompt, tokens, output)
        except Failed as error:
            run.errors[error.kind] = run.errors.get(error.kind, 0) + 1
            if error.retry_s is None:
                return
            await asyncio.sleep(error.retry_s)
        else:
            run.seen.append(seen)
            run.cached_tokens += cached
            return
