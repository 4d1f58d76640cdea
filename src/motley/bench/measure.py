"""Speed: `ppN` and `tgN` at a depth and a batch size, as llama-bench defines them, with the time split.

A sample is one whole workload: prompts of N tokens read (pp), or N steps that add a token to every sequence (tg).
Tokens are given, not sampled, so that each sample does the same work. The machine's read bandwidth is measured right
before and right after the samples, because it moves, and so is the clock. Formulas: docs/metrics.md.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motley.bench.clock import watched
from motley.bench.energy import EnergyMeter, nobody
from motley.bench.reading import Reading
from motley.bench.records import Interval, Spread
from motley.bench.result import TestResult
from motley.engine.runner import Runner
from motley.errors import UsageError
from motley.ops.protocol import Batch
from motley.predict.workload import Workload
from motley.progress import Progress, silent

WARM_UP_STEPS = 4
Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Text:
    """What the sequences hold: `ids`, over and over; each sequence starts at its own place."""

    ids: Tokens

    def tokens(self, sequence: int, start: int, stop: int) -> Tokens:
        """Tokens [start, stop) of a sequence."""
        offset = sequence * 997  # a prime: sequences don't march in step
        return self.ids[(np.arange(start, stop) + offset) % len(self.ids)]

    @classmethod
    def random(cls, vocab_size: int, seed: int = 0) -> "Text":
        """For random weights, to which text means nothing."""
        return cls(np.random.default_rng(seed).integers(0, vocab_size, 8192, dtype=np.int32))


@dataclass(frozen=True)
class Measurement:
    """A workload's result, and what the runner counted while its samples ran."""

    workload: Workload
    result: TestResult
    reading: Reading
    tokens: int  # of all samples


def short_name(workload: Workload) -> str:
    """`pp512`, `tg64`: depth and batch stand beside it in results."""
    return f"{'pp' if workload.kind == 'prefill' else 'tg'}{workload.tokens}"


def measure(
    runner: Runner,
    workload: Workload,
    text: Text,
    *,
    repeat: int,
    read_gb_s: Callable[[], float],
    active_bytes: int,
    predicted: Interval | None = None,
    energy: EnergyMeter | None = None,
    progress: Progress = silent,
) -> Measurement:
    """`repeat` samples after a warm-up. `active_bytes`: what one token of this workload must read.

    UsageError where the workload does not fit the runner's slots or context.
    """
    require_fit(runner, workload)
    name = workload.name
    progress(f"{name}: warming up", 0.0)
    bandwidth = [read_gb_s()]  # first: it empties the caches that warming up fills
    prepare(runner, workload, text)
    seconds, before = [], Reading.of(runner)
    meter = energy or nobody("not asked for")
    with no_collection(), watched() as watch, meter.metered() as spent:
        for i in range(repeat):
            progress(f"{name}: sample {i + 1} of {repeat}", i / repeat)
            seconds.append(timed_sample(runner, workload, text))
    reading = Reading.of(runner).since(before)
    bandwidth.append(read_gb_s())
    progress(name, 1.0)

    tokens, steps = workload.tokens * workload.batch, repeat * steps_of(workload)
    speed, gb_s = Spread.of([tokens / s for s in seconds]), sum(bandwidth) / len(bandwidth)
    result = TestResult(
        test=short_name(workload),
        depth=workload.depth,
        batch=workload.batch,
        tokens_per_s=speed,
        ms_per_step=1e3 * sum(seconds) / steps,
        predicted_tokens_per_s=predicted,
        active_bytes_per_token=active_bytes,
        bandwidth_fraction=bandwidth_fraction(workload, active_bytes, speed.median, gb_s),
        read_gb_s=gb_s,
        time=reading.time_split(sum(seconds), steps),
        clock=watch.clock,
        energy=spent.over(repeat * tokens),
    )
    return Measurement(workload, result, reading, repeat * tokens)


def bandwidth_fraction(workload: Workload, active_bytes: int, tokens_per_s: float, read_gb_s: float) -> float | None:
    """Bytes that the tokens needed, per second, over the read bandwidth. Only where each token reads its own weights:
    in prompts and batches one read serves several tokens, and the fraction would say nothing."""
    if workload.kind != "decode" or workload.batch != 1:
        return None
    return active_bytes * tokens_per_s / (read_gb_s * 1e9)


def require_fit(runner: Runner, workload: Workload) -> None:
    if workload.batch > runner.n_slots:
        raise UsageError(f"{workload.name}: {workload.batch} sequences, the engine has {runner.n_slots} slots")
    if workload.context > runner.context:
        raise UsageError(
            f"{workload.name} needs {workload.context} positions, the context has {runner.context}: "
            "ask for fewer tokens, less depth or a longer context"
        )


def prepare(runner: Runner, workload: Workload, text: Text) -> None:
    """Put `depth` tokens into each sequence's cache, where all samples start; then touch what is touched first, so
    that page faults are not what is measured."""
    for batch in prompt_batches(workload, text, 0, workload.depth):
        runner.step(batch)
    for batch, _ in zip(batches(workload, text), range(WARM_UP_STEPS), strict=False):
        runner.step(batch)


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's garbage is collected before, not within: one collection takes as long as many small steps."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed_sample(runner: Runner, workload: Workload, text: Text) -> float:
    """Seconds for one sample. Building the batches is part of a step, so it is timed."""
    start = time.perf_counter()
    for batch in batches(workload, text):
        runner.step(batch)
    return time.perf_counter() - start


def batches(workload: Workload, text: Text) -> Iterator[Batch]:
    """The steps of one sample."""
    if workload.kind == "prefill":
        return prompt_batches(workload, text, workload.depth, workload.context)
    return _decode_batches(workload, text)


def _decode_batches(workload: Workload, text: Text) -> Iterator[Batch]:
    slots = np.arange(workload.batch, dtype=np.int32)
    tokens = np.stack([text.tokens(slot, workload.depth, workload.context) for slot in range(workload.batch)])  # [B, n]
    for i in range(workload.tokens):
        yield Batch(tokens[:, i], np.full(workload.batch, workload.depth + i, np.int32), slots, slots)


def prompt_batches(workload: Workload, text: Text, start: int, stop: int) -> Iterator[Batch]:
    """Positions [start, stop) of all sequences, one sequence after the other, `chunk` tokens a step. Only a prompt's
    last token wants logits, as when a reply is to follow."""
    each = stop - start
    tokens = [text.tokens(slot, start, stop) for slot in range(workload.batch)]
    all_tokens = np.concatenate(tokens)
    positions = np.tile(np.arange(start, stop, dtype=np.int32), workload.batch)
    slots = np.repeat(np.arange(workload.batch, dtype=np.int32), each)
    for first in range(0, len(all_tokens), workload.chunk):
        part = slice(first, min(first + workload.chunk, len(all_tokens)))
        rows = np.flatnonzero(positions[part] == stop - 1).astype(np.int32)
        yield Batch(all_tokens[part], positions[part], slots[part], rows)


def steps_of(workload: Workload) -> int:
    """Steps of one sample."""
    if workload.kind == "decode":
        return workload.tokens
    return -(-workload.tokens * workload.batch // workload.chunk)
