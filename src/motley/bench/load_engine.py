"""Loads on a model of this process: requests submitted to an `Engine` as a server would, without a network.

A closed loop: whoever has an answer sends the next request, so that `concurrency` of them are always under way until
the last ones. Answers are greedy and go on to their full length.
"""

import time
from collections.abc import Iterator
from itertools import count

from motley.bench.load import LoadResult, Run, Seen
from motley.bench.measure import Text, no_collection
from motley.bench.records import Interval
from motley.bench.suite import Load
from motley.engine.engine import Engine, Stream
from motley.engine.runner import Runner
from motley.errors import UsageError
from motley.predict.workload import STEP_TOKENS
from motley.progress import Progress, silent

WARM_UP_TOKENS = 8


def measure_load(
    runner: Runner,
    load: Load,
    text: Text,
    *,
    repeat: int,
    predicted: Interval | None = None,
    chunk: int = STEP_TOKENS,
    progress: Progress = silent,
) -> LoadResult:
    """`repeat` runs after a warm-up, or as many more as the load's `seconds` take. `chunk`: the most tokens a step."""
    if load.concurrency > runner.n_slots or load.context > runner.context:
        raise UsageError(
            f"{load.name} needs {load.concurrency} slots of {load.context} positions; the engine has "
            f"{runner.n_slots} of {runner.context}"
        )
    prompts = (text.tokens(i, 0, load.prompt).tolist() for i in count())
    progress(f"{load.name}: warming up", 0.0)
    _closed_loop(Engine(runner, chunk), prompts, load.concurrency, min(WARM_UP_TOKENS, load.output), load.concurrency)
    runs: list[Run] = []
    began = time.perf_counter()
    with no_collection():
        while not load.enough(len(runs), time.perf_counter() - began, repeat):
            progress(f"{load.name}: run {len(runs) + 1}", load.done(len(runs), time.perf_counter() - began, repeat))
            runs.append(_closed_loop(Engine(runner, chunk), prompts, load.requests, load.output, load.concurrency))
    progress(load.name, 1.0)
    return LoadResult.of(
        runs,
        prompt_tokens=load.prompt,
        output_tokens=load.output,
        concurrency=load.concurrency,
        counted_by="engine",
        objectives=load.objectives,
        predicted=predicted,
    )


def _closed_loop(engine: Engine, prompts: Iterator[list[int]], requests: int, output: int, concurrency: int) -> Run:
    under_way: dict[Stream, Seen] = {}
    answered: list[Seen] = []
    sent, start = 0, time.perf_counter()
    while len(answered) < requests:
        while len(under_way) < concurrency and sent < requests:
            prompt = next(prompts)
            seen = Seen(time.perf_counter(), prompt_tokens=len(prompt), output_tokens=output)
            under_way[engine.submit(prompt, output)] = seen
            sent += 1
        for stream in engine.step():
            under_way[stream].arrivals.append(time.perf_counter())
            if stream.done:
                answered.append(under_way.pop(stream))
    return Run(time.perf_counter() - start, answered, {})
