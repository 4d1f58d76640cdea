"""What a load measured: several requests at once, closed loop, each a prompt and an answer, streamed.

`LoadResult` is the record, made by `LoadResult.of` from what each run's requests saw (`Seen`), whoever ran them: the
engine of this process (`load_engine`) or a server over HTTP (`load_http`). Formulas: docs/metrics.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import numpy as np

from motley.bench.records import (
    Amount,
    Count,
    Interval,
    Name,
    Rate,
    Record,
    Size,
    Spread,
    validate_interval,
    validate_spread,
)
from motley.errors import FormatError

MOST_REQUESTS = 20_000
CountedBy = Literal["engine", "usage", "chunks"]  # who says how many tokens an answer had


@dataclass
class Seen:
    """One request, as the one who sent it saw it; seconds of one clock."""

    sent: float
    arrivals: list[float] = field(default_factory=list)  # of each piece of the answer
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass
class Run:
    """One closed loop from its first request to its last answer."""

    seconds: float
    seen: list[Seen]  # those that were answered in full
    errors: dict[str, int]  # what happened to the others: how often
    cached_tokens: int = 0  # of the prompts, that a server took from its cache


class Percentiles(Record, frozen=True, kw_only=True):
    """Linear between the two nearest values, as numpy has it."""

    mean: Amount
    p50: Amount
    p90: Amount
    p99: Amount
    n: Size

    @classmethod
    def of(cls, values: Sequence[float]) -> "Percentiles":
        p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
        return cls(mean=float(np.mean(values)), p50=p50, p90=p90, p99=p99, n=len(values))


class Objectives(Record, frozen=True, kw_only=True):
    """What a request must keep to count as good: all that are given."""

    ttft_ms: Rate | None = None
    tpot_ms: Rate | None = None

    def kept_by(self, request: "Request") -> bool:
        kept = self.ttft_ms is None or request.ttft_ms <= self.ttft_ms
        tpot = request.tpot_ms
        return kept and (self.tpot_ms is None or tpot is None or tpot <= self.tpot_ms)


class Goodput(Record, frozen=True, kw_only=True):
    """Requests a second that kept their objectives."""

    objectives: Objectives
    requests_per_s: Amount
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]  # of the answered requests


class Request(Record, frozen=True, kw_only=True):
    """One answered request. `ttft_ms`: until the first piece; `e2e_ms`: until the last."""

    ttft_ms: Rate
    e2e_ms: Rate
    prompt_tokens: Size
    output_tokens: Size

    @property
    def tpot_ms(self) -> float | None:
        """(e2e - TTFT) / (output tokens - 1); None where there is one token."""
        return (self.e2e_ms - self.ttft_ms) / (self.output_tokens - 1) if self.output_tokens > 1 else None


class LoadResult(Record, frozen=True, kw_only=True):
    """`concurrency` requests of `prompt_tokens` and `output_tokens` (as asked for) under way at any time."""

    prompt_tokens: Size
    output_tokens: Size
    concurrency: Size
    runs: Size  # closed loops, one after the other: a sample of throughput each
    output_tokens_per_s: Spread  # of each run: all answers' tokens / its wall time
    requests_per_s: Rate  # answered / wall time of all runs
    ttft_ms: Percentiles
    itl_ms: Percentiles | None  # between one piece of an answer and the next
    tpot_ms: Percentiles | None
    e2e_ms: Percentiles
    tokens_per_piece: Rate  # 1 where each piece is one token: only then an ITL is a token's
    counted_by: CountedBy
    goodput: Goodput | None = None
    requests: Annotated[tuple[Request, ...], msgspec.Meta(min_length=1, max_length=MOST_REQUESTS)]
    errors: dict[Name, Count] = msgspec.field(default_factory=dict)
    cached_share: Amount = 0.0  # of the prompts' tokens, that a server says it had in its cache
    client_busy: Amount | None = None  # the measuring process's processor time / wall time
    predicted_tokens_per_s: Interval | None = None  # of the output; None: of a server, or by an older Motley

    @classmethod
    def of(
        cls,
        runs: Sequence[Run],
        *,
        prompt_tokens: int,
        output_tokens: int,
        concurrency: int,
        counted_by: CountedBy,
        objectives: Objectives | None = None,
        client_busy: float | None = None,
        predicted: Interval | None = None,
    ) -> "LoadResult":
        """At least one run must have an answer."""
        seen = [s for run in runs for s in run.seen]
        requests = tuple(map(_request, seen))
        wall = sum(run.seconds for run in runs)
        gaps = [1e3 * gap for s in seen for gap in np.diff(s.arrivals)]
        tpots = [r.tpot_ms for r in requests if r.tpot_ms is not None]
        errors: dict[str, int] = {}
        for run in runs:
            for what, n in run.errors.items():
                errors[what] = errors.get(what, 0) + n
        return cls(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            concurrency=concurrency,
            runs=len(runs),
            output_tokens_per_s=Spread.of(
                [sum(s.output_tokens for s in run.seen) / run.seconds for run in runs if run.seen]
            ),
            requests_per_s=len(seen) / wall,
            ttft_ms=Percentiles.of([r.ttft_ms for r in requests]),
            itl_ms=Percentiles.of(gaps) if gaps else None,
            tpot_ms=Percentiles.of(tpots) if tpots else None,
            e2e_ms=Percentiles.of([r.e2e_ms for r in requests]),
            tokens_per_piece=sum(r.output_tokens for r in requests) / sum(len(s.arrivals) for s in seen),
            counted_by=counted_by,
            goodput=goodput(requests, wall, objectives),
            requests=requests[:MOST_REQUESTS],
            errors=errors,
            cached_share=sum(run.cached_tokens for run in runs) / sum(r.prompt_tokens for r in requests),
            client_busy=client_busy,
            predicted_tokens_per_s=predicted,
        )

    @property
    def label(self) -> str:
        """`128+64 c8`: prompt and answer, eight at once"""
        return f"{self.prompt_tokens}+{self.output_tokens} c{self.concurrency}"

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


def _request(seen: Seen) -> Request:
    return Request(
        ttft_ms=1e3 * (seen.arrivals[0] - seen.sent),
        e2e_ms=1e3 * (seen.arrivals[-1] - seen.sent),
        prompt_tokens=seen.prompt_tokens,
        output_tokens=seen.output_tokens,
    )


def goodput(requests: Sequence[Request], wall_s: float, objectives: Objectives | None) -> Goodput | None:
    if objectives is None:
        return None
    good = sum(map(objectives.kept_by, requests))
    return Goodput(objectives=objectives, requests_per_s=good / wall_s, share=good / len(requests))


def validate_load(load: LoadResult, field: str) -> None:
    """FormatError that names the field where a summary does not fit the requests."""
    validate_spread(load.output_tokens_per_s, f"{field}.output_tokens_per_s")
    validate_interval(load.predicted_tokens_per_s, f"{field}.predicted_tokens_per_s")
    if len(load.requests) == MOST_REQUESTS:
        return  # cut: the summary is over more
    tpots = [r.tpot_ms for r in load.requests if r.tpot_ms is not None]
    values: Mapping[str, list[float]] = {
        "ttft_ms": [r.ttft_ms for r in load.requests],
        "e2e_ms": [r.e2e_ms for r in load.requests],
        "tpot_ms": tpots,
    }
    for name, found in values.items():
        said, want = getattr(load, name), Percentiles.of(found) if found else None
        if said is None or want is None:
            if said is not want:
                raise FormatError(f"{field}.{name}: does not fit the requests")
            continue
        for key in ("mean", "p50", "p90", "p99", "n"):
            if not math.isclose(getattr(said, key), getattr(want, key), rel_tol=1e-6):
                raise FormatError(f"{field}.{name}.{key}: says {getattr(said, key):g}, the requests give otherwise")
    if load.goodput:
        want_good = goodput(load.requests, len(load.requests) / load.requests_per_s, load.goodput.objectives)
        if want_good and not math.isclose(load.goodput.share, want_good.share, rel_tol=1e-6):
            raise FormatError(f"{field}.goodput.share: says {load.goodput.share:g}, the requests give otherwise")
