"""The gate: what speaks against a result. `flags(result)` is empty for one that may be published.

Every limit stands here, as does every reason; nothing is measured here. A flagged result is kept, and shown as flagged
by reports and boards. Flags are never stored: whoever reads a file judges it again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from motley.bench.load import LoadResult
from motley.bench.records import Spread
from motley.bench.result import Model, Result, TestResult
from motley.bench.served import AnyResult, ServedResult

MARGIN = 1.1  # of a measured bound: bandwidth and peak are themselves measured, and move
MOST_CV = 0.10
LEAST_SAMPLES = 5
MOST_CLOCK_CHANGE = 0.05
SAG = 0.90  # the last third of the samples against the first
SAG_SAMPLES = 6  # fewer say nothing about a trend
BUSY_CLIENT = 0.8
LEAST_ANSWER = 0.9
MOST_CACHED = 0.10  # a chat template's own words, at most
UNKNOWN_CACHE_BYTES = 1 << 30  # the largest there are: what a result that doesn't tell may have had

REMEDIES = {
    "above-bandwidth": "measure again: bytes, bandwidth or clock of this run can't be right",
    "above-peak": "measure again: operations, peak or clock of this run can't be right",
    "varying": "end what else runs on the machine, take more samples (--repeat 10) or longer tests",
    "varying-clock": "fix the processor's frequency (the performance governor, mains power) and keep others off it",
    "throttled": "cool the machine or lower its power limit, and let it rest before measuring",
    "check-failed": "don't use this placement: the answer is wrong; `motley bench --verbose` and a report to us",
    "not-checked": "run it without --no-check",
    "few-samples": f"take at least {LEAST_SAMPLES} (--repeat {LEAST_SAMPLES})",
    "failed-requests": "lower the concurrency, or find out why the server failed them",
    "busy-client": "run the client on a machine of its own, or lower the concurrency: it may be what was measured",
    "short-answers": "use a server that takes ignore_eos and answers several requests at once, or shorter answers",
    "cached-prompts": "restart the server, or turn its prompt cache off: a cached prompt is not read",
    "prompts-not-counted": "use a server that reports usage or has /tokenize: words are not tokens",
    "counted-by-chunks": "use a server that reports usage in its stream: pieces of text are not tokens",
}


@dataclass(frozen=True)
class Flag:
    """One thing that speaks against publishing a result."""

    code: str  # a key of REMEDIES
    test: str  # the test's label; empty: the whole result
    sentence: str

    @property
    def remedy(self) -> str:
        return REMEDIES[self.code]

    def __str__(self) -> str:
        return f"{self.test}: {self.sentence}" if self.test else self.sentence


def flags(result: AnyResult) -> tuple[Flag, ...]:
    """Everything that speaks against it, the whole result's first, then test by test."""
    return tuple(_of_server(result) if isinstance(result, ServedResult) else _of_placed(result))


def _of_placed(result: Result) -> Iterator[Flag]:
    yield from _of_check(result)
    for test in result.results:
        yield from _of_spread(test.label, test.tokens_per_s)
        yield from _of_clock(test)
        yield from _of_test(result, test)
    for load in result.loads:
        yield from _of_spread(load.label, load.output_tokens_per_s)
        yield from _of_requests(load.label, load)
        yield from _of_load(result, load)
    for peer in result.peers:
        if peer.best:  # the ratio that people quote
            yield from _of_samples(f"{peer.label} against {peer.peer}", peer.ratio)


def _of_server(result: ServedResult) -> Iterator[Flag]:
    """Through an endpoint there is no check, and no roofline to hold it against."""
    if result.server.prompts_counted_by == "words":
        yield Flag("prompts-not-counted", "", "prompts' words were counted, for want of their tokens")
    for test in result.results:
        yield from _of_spread(test.label, test.tokens_per_s)
        yield from _of_requests(test.label, test.load)
    for load in result.loads:
        yield from _of_spread(load.label, load.output_tokens_per_s)
        yield from _of_requests(load.label, load)


@dataclass(frozen=True)
class Kind:
    """All flags of one code: said together, as the remedy is the same."""

    code: str
    flags: tuple[Flag, ...]

    @property
    def remedy(self) -> str:
        return REMEDIES[self.code]


def by_kind(found: Iterable[Flag]) -> tuple[Kind, ...]:
    """In order of first appearance."""
    kinds: dict[str, list[Flag]] = {}
    for flag in found:
        kinds.setdefault(flag.code, []).append(flag)
    return tuple(Kind(code, tuple(same)) for code, same in kinds.items())


def _of_requests(label: str, load: LoadResult) -> Iterator[Flag]:
    """What a load shows by itself, wherever it ran."""
    if load.errors:
        what = ", ".join(f"{n} x {error}" for error, n in load.errors.items())
        yield Flag("failed-requests", label, f"{load.failed} requests failed ({what})")
    if load.client_busy is not None and load.client_busy > BUSY_CLIENT:
        yield Flag("busy-client", label, f"the client was busy for {load.client_busy:.0%} of the time itself")
    output = sum(r.output_tokens for r in load.requests) / len(load.requests)
    if output < LEAST_ANSWER * load.output_tokens:
        sentence = f"answers had {output:.0f} tokens, not the {load.output_tokens} that were asked for"
        yield Flag("short-answers", label, sentence)
    if load.cached_share > MOST_CACHED:
        yield Flag("cached-prompts", label, f"{load.cached_share:.0%} of the prompts came from the server's cache")
    if load.counted_by == "chunks":
        yield Flag("counted-by-chunks", label, "the server does not tell its tokens: pieces were counted")


def _of_check(result: Result) -> Iterator[Flag]:
    if result.check is None:
        yield Flag("not-checked", "", "the answer was not compared with the reference's")
    elif not result.check.passed:
        c = result.check
        yield Flag(
            "check-failed",
            "",
            f"the answer differs from {c.reference}: {c.greedy_tokens_equal} of {c.greedy_tokens_compared} tokens "
            f"equal, relative logit difference {c.max_rel_logit_diff:.1e}",
        )


def _of_spread(label: str, spread: Spread) -> Iterator[Flag]:
    """Of speeds: how they vary, and whether they fell."""
    yield from _of_samples(label, spread)
    n = len(spread.samples)
    if n >= SAG_SAMPLES:
        third = n // 3
        sag = median(spread.samples[-third:]) / median(spread.samples[:third])
        if sag < SAG:
            yield Flag("throttled", label, f"the speed fell to {sag:.0%} from the first samples to the last")


def _of_samples(label: str, spread: Spread) -> Iterator[Flag]:
    n = len(spread.samples)
    if n < LEAST_SAMPLES:
        yield Flag("few-samples", label, f"{n} {'sample' if n == 1 else 'samples'}: the spread is not known")
    elif spread.cv > MOST_CV:
        yield Flag("varying", label, f"the samples vary by {spread.cv:.0%} (coefficient of variation)")


def _of_clock(test: TestResult) -> Iterator[Flag]:
    if test.clock is None:
        return
    change = test.clock.after / test.clock.before - 1
    if abs(change) > MOST_CLOCK_CHANGE:
        yield Flag("varying-clock", test.label, f"a core's speed changed by {change:+.0%} during the test")
    if test.clock.throttled:
        yield Flag("throttled", test.label, f"the system counted {test.clock.throttled} thermal events meanwhile")


def _of_test(result: Result, test: TestResult) -> Iterator[Flag]:
    speed = test.tokens_per_s.median
    if test.test.startswith("tg"):
        needed = max(test.active_bytes_per_token, least_bytes_per_token(result.model)) * speed / test.batch
        yield from _above_bandwidth(result, test.label, needed, test.read_gb_s)
    yield from _above_peak(result, test.label, speed)


def _of_load(result: Result, load: LoadResult) -> Iterator[Flag]:
    """A step serves `concurrency` sequences at most, and their prompts are read as well."""
    speed = load.output_tokens_per_s.median
    needed = least_bytes_per_token(result.model) * speed / load.concurrency
    yield from _above_bandwidth(result, load.label, needed, result.machine.read_gb_s)
    yield from _above_peak(result, load.label, speed * (1 + load.prompt_tokens / load.output_tokens))


def _above_bandwidth(result: Result, label: str, bytes_per_s: float, read_gb_s: float) -> Iterator[Flag]:
    if fits_caches(result):
        return  # main memory's bandwidth is no bound then
    bound = max(read_gb_s, sum(d.read_gb_s for d in result.lab.devices))
    if bytes_per_s > MARGIN * bound * 1e9:
        yield Flag(
            "above-bandwidth",
            label,
            f"it would have read {bytes_per_s / 1e9:.1f} GB/s, above the {bound:.1f} GB/s that were measured",
        )


def _above_peak(result: Result, label: str, tokens_per_s: float) -> Iterator[Flag]:
    peak = max(result.machine.int8_gops or 0.0, sum(max(d.int8_gops, d.f32_gflops) for d in result.lab.devices))
    if not peak:
        return  # nobody measured one
    rate = 2 * least_params_per_token(result.model) * tokens_per_s / 1e9
    if rate > MARGIN * peak:
        sentence = f"it would have computed {rate:.0f} Gop/s, above the peak of {peak:.0f} that was measured"
        yield Flag("above-peak", label, sentence)


def fits_caches(result: Result) -> bool:
    """Whether the model's weights could lie in the processors' last caches."""
    known = result.machine.cache_bytes
    return result.model.n_bytes <= (UNKNOWN_CACHE_BYTES if known is None else known)


def least_bytes_per_token(model: Model) -> float:
    """That a token reads at least, from the model's sizes alone: a result's own figure is whatever its author wrote.
    The embedding table may be left out, and of the rest all but the experts that are not chosen is read."""
    return _active_share(model) * max(0.0, model.n_bytes - 4 * model.vocab_size * model.d_model)


def least_params_per_token(model: Model) -> float:
    """That a token is multiplied with at least: neither embedding nor output matrix, which prompts hardly use."""
    return _active_share(model) * max(0, model.n_params - 2 * model.vocab_size * model.d_model)


def _active_share(model: Model) -> float:
    return model.n_experts_used / model.n_experts if model.n_experts else 1.0
