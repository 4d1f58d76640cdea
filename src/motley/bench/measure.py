"""Speed: `ppN` and `tgN` at a depth and a batch size, as llama-bench defines them, with the time split.

A sample is one whole test: N prompt tokens read (pp), or N steps that add a token to every sequence (tg). Tokens are
given, not sampled, so that each sample does the same work. The machine's read bandwidth is measured right before and
right after the samples, because it moves. Formulas: docs/metrics.md.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from motley.bench.reading import Reading
from motley.bench.result import Interval, Spread, TestResult
from motley.bench.runner import Progress, Runner, silent
from motley.errors import UsageError
from motley.ops.protocol import Batch

WARM_UP_STEPS = 4


@dataclass(frozen=True)
class Test:
    """`pp`: read n tokens of each of `batch` prompts. `tg`: n steps, each adding a token to `batch` sequences."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    kind: Literal["pp", "tg"]
    n: int
    depth: int = 0  # tokens in the cache beforehand
    batch: int = 1  # sequences

    @property
    def name(self) -> str:
        return f"{self.kind}{self.n}"

    @property
    def tokens(self) -> int:
        return self.n * self.batch

    @property
    def mean_position(self) -> float:
        """Cached tokens that a token of this test sees on average."""
        return self.depth + (self.n - 1) / 2


@dataclass(frozen=True)
class Workload:
    """Which tokens the sequences hold, and how prompts are cut. Sequence b starts at its own place in `text`."""

    text: NDArray[np.int32]
    chunk: int = 512  # prompt tokens per step

    def tokens(self, sequence: int, start: int, stop: int) -> NDArray[np.int32]:
        """Tokens [start, stop) of a sequence; the text repeats."""
        offset = sequence * 997  # a prime: sequences don't march in step
        return self.text[(np.arange(start, stop) + offset) % len(self.text)]

    @classmethod
    def random(cls, vocab_size: int, seed: int = 0, chunk: int = 512) -> "Workload":
        """For random weights, where text means nothing."""
        values = np.random.default_rng(seed).integers(0, vocab_size, 8192, dtype=np.int32)
        return cls(values, chunk)


@dataclass(frozen=True)
class Measurement:
    """A test's result, and what the runner counted while its samples ran."""

    test: Test
    result: TestResult
    reading: Reading
    tokens: int


def measure(
    runner: Runner,
    test: Test,
    workload: Workload,
    *,
    repeat: int,
    read_gb_s: Callable[[], float],
    active_bytes: int,
    predicted: Interval | None = None,
    progress: Progress = silent,
) -> Measurement:
    """`repeat` samples after a warm-up. `active_bytes`: what one token of this test must read.

    UsageError where the test does not fit the runner's slots or context.
    """
    require_fit(runner, test)
    progress(f"{test.name}: filling the cache", 0.0)
    fill(runner, test, workload)
    warm_up(runner, test, workload)
    bandwidth, seconds, before = [read_gb_s()], [], Reading.of(runner)
    for i in range(repeat):
        progress(f"{test.name}: sample {i + 1} of {repeat}", i / repeat)
        seconds.append(timed_sample(runner, test, workload))
    reading = Reading.of(runner).since(before)
    bandwidth.append(read_gb_s())
    progress(test.name, 1.0)

    steps = repeat * steps_per_sample(test, workload)
    speed = Spread.of([test.tokens / s for s in seconds])
    gb_s = sum(bandwidth) / len(bandwidth)
    result = TestResult(
        test=test.name,
        depth=test.depth,
        batch=test.batch,
        tokens_per_s=speed,
        ms_per_step=1e3 * sum(seconds) / steps,
        predicted_tokens_per_s=predicted,
        active_bytes_per_token=active_bytes,
        bandwidth_fraction=bandwidth_fraction(test, active_bytes, speed.median, gb_s),
        read_gb_s=gb_s,
        time=reading.time_split(sum(seconds), steps),
    )
    return Measurement(test, result, reading, repeat * test.tokens)


def bandwidth_fraction(test: Test, active_bytes: int, tokens_per_s: float, read_gb_s: float) -> float | None:
    """Bytes that the tokens needed, per second, over the read bandwidth. Only where each token reads its own weights:
    in prompts and batches one read serves several tokens, and the fraction would say nothing."""
    if test.kind != "tg" or test.batch != 1:
        return None
    return active_bytes * tokens_per_s / (read_gb_s * 1e9)


def require_fit(runner: Runner, test: Test) -> None:
    if test.batch > runner.n_slots:
        raise UsageError(f"{test.name} with batch {test.batch}: the engine has {runner.n_slots} sequence slots")
    if test.depth + test.n > runner.context:
        raise UsageError(
            f"{test.name} at depth {test.depth} needs {test.depth + test.n} positions, the context has "
            f"{runner.context}: ask for fewer tokens, less depth or a longer context"
        )


def fill(runner: Runner, test: Test, workload: Workload) -> None:
    """Put `depth` tokens into each sequence's cache; samples start there again and again."""
    for slot in range(test.batch):
        runner.reset(slot)
        for batch in prompt_batches(workload, slot, 0, test.depth):
            runner.step(batch)


def warm_up(runner: Runner, test: Test, workload: Workload) -> None:
    """First touches of pages and caches are not what is measured."""
    for batch, _ in zip(batches(test, workload), range(WARM_UP_STEPS), strict=False):
        runner.step(batch)


def timed_sample(runner: Runner, test: Test, workload: Workload) -> float:
    """Seconds for one whole test. Building the batches is part of a step, so it is timed."""
    gc.collect()
    start = perf_counter()
    for batch in batches(test, workload):
        runner.step(batch)
    return perf_counter() - start


def batches(test: Test, workload: Workload) -> Iterator[Batch]:
    """The steps of one sample."""
    if test.kind == "pp":
        for slot in range(test.batch):
            yield from prompt_batches(workload, slot, test.depth, test.depth + test.n)
        return
    slots = np.arange(test.batch, dtype=np.int32)
    end = test.depth + test.n
    text = np.stack([workload.tokens(slot, test.depth, end) for slot in range(test.batch)])  # [B, n]
    for i in range(test.n):
        yield Batch(text[:, i], np.full(test.batch, test.depth + i, np.int32), slots, slots)


def prompt_batches(workload: Workload, slot: int, start: int, stop: int) -> Iterator[Batch]:
    """A prompt in chunks; only the last token of each wants logits, as when a reply is to follow."""
    for first in range(start, stop, workload.chunk):
        last = min(first + workload.chunk, stop)
        positions = np.arange(first, last, dtype=np.int32)
        slots = np.full(last - first, slot, np.int32)
        yield Batch(workload.tokens(slot, first, last), positions, slots, [last - first - 1])


def steps_per_sample(test: Test, workload: Workload) -> int:
    return test.n if test.kind == "tg" else test.batch * -(-test.n // workload.chunk)
