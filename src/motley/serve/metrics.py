"""Counters and histograms of the server, and Prometheus's text format of them.

Each number has one writer thread and many readers, who may see it a moment old: no locks.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic

from motley.serve.sequence import Piece
from motley.serve.sequence import Sequence as Served

STEP_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Counter:
    """`label`: what its values are told apart by; none: one value."""

    kind = "counter"

    def __init__(self, name: str, help: str, label: str = "") -> None:
        self.name, self.help, self.label = name, help, label
        self.values: dict[str, float] = {} if label else {"": 0}

    def add(self, label: str = "", n: float = 1) -> None:
        self.values[label] = self.values.get(label, 0) + n

    @property
    def total(self) -> float:
        return sum(self.values.copy().values())

    def lines(self) -> Iterable[str]:
        for value, n in sorted(self.values.copy().items()):
            labels = f'{{{self.label}="{value}"}}' if self.label else ""
            yield f"{self.name}{labels} {n:.9g}"


class Histogram:
    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.name, self.help, self.bounds = name, help, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def quantile(self, q: float) -> float:
        """The upper bound of the bucket that it lies in; the largest bound where it lies above all."""
        wanted, seen = q * sum(self.counts), 0
        for bound, n in zip(self.bounds, self.counts):
            seen += n
            if seen >= wanted:
                return bound
        return self.bounds[-1]

    def lines(self) -> Iterable[str]:
        seen = 0
        for bound, n in zip([*map(str, self.bounds), "+Inf"], self.counts):
            seen += n
            yield f'{self.name}_bucket{{le="{bound}"}} {seen}'
        yield f"{self.name}_sum {self.sum:.9g}"
        yield f"{self.name}_count {seen}"


class Pace:
    """How many a second over the last `SLICES * SLICE_S`, up to the slice that goes on: the same for whoever looks,
    however often."""

    SLICE_S, SLICES = 0.25, 12

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._ring = [(-1, 0)] * (self.SLICES + 1)  # (number of the slice, how many); one more: what goes on

    def add(self, n: int) -> None:
        slice_ = int(self._clock() / self.SLICE_S)
        known, had = self._ring[slice_ % len(self._ring)]
        self._ring[slice_ % len(self._ring)] = slice_, n + (had if known == slice_ else 0)

    def per_s(self) -> float:
        now = int(self._clock() / self.SLICE_S)
        n = sum(n for slice_, n in self._ring.copy() if now - self.SLICES <= slice_ < now)
        return n / (self.SLICES * self.SLICE_S)


class Meters:
    """All that is counted since the start, and the pace of the moment."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.requests = Counter("motley_sequences_total", "Sequences that ended, by how", "finish")
        self.http = Counter("motley_http_responses_total", "Answers, by status", "status")
        self.prompt_tokens = Counter("motley_prompt_tokens_total", "Tokens of prompts whose sequence ended")
        self.tokens = Counter("motley_generated_tokens_total", "Tokens generated")
        self.steps = Counter("motley_steps_total", "Steps of the engine")
        self.runner_s = Counter("motley_runner_seconds_total", "Time in the model's steps")
        self.step_own = Histogram("motley_scheduler_step_seconds", "A step's time outside the model", STEP_S)
        self.ttft = Histogram("motley_time_to_first_token_seconds", "From the request to its first token", LATENCY_S)
        self.queued = Histogram("motley_queue_seconds", "From the request to a slot", LATENCY_S)
        self.whole = Histogram("motley_sequence_seconds", "From the request to its end", LATENCY_S)

    def step(self, seconds: float, runner_s: float, n_tokens: int) -> None:
        self.steps.add()
        self.runner_s.add(n=runner_s)
        self.tokens.add(n=n_tokens)
        self.pace.add(n_tokens)
        self.step_own.add(seconds - runner_s)

    def ended(self, sequence: Served, piece: Piece) -> None:
        self.requests.add(piece.finish)
        times = sequence.timings
        if not times.first:
            return
        self.prompt_tokens.add(n=len(sequence.prompt))
        self.ttft.add(times.first - times.asked)
        self.queued.add(max(0.0, times.started - times.asked))
        self.whole.add(times.ended - times.asked)

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """`gauges`: help and value now, by name."""
        out = []
        for meter in vars(self).values():
            if isinstance(meter, Pace):  # Prometheus works one out of the tokens
                continue
            out += [f"# HELP {meter.name} {meter.help}", f"# TYPE {meter.name} {meter.kind}", *meter.lines()]
        for name, (help, value) in gauges.items():
            out += [f"# HELP {name} {help}", f"# TYPE {name} gauge", f"{name} {value:.9g}"]
        return "\n".join(out) + "\n"
