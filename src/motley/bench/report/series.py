"""Which curves a result has: speed by depth, by batch, by length of prompt; experts by batch; and loads by requests at
once. Everything that was measured in more than one place."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from motley.bench.load import LoadResult, Percentiles
from motley.bench.records import Interval
from motley.bench.report.curves import Curves, Point, Series
from motley.bench.result import Result, TestResult
from motley.bench.served import AnyResult, ServedResult, ServedTest


def curves_of(result: AnyResult) -> list[Curves]:
    if isinstance(result, ServedResult):
        found = [*_by_length(result.results), *_by_depth(result.results), *_by_load(result.loads)]
    else:
        tests = result.results
        found = [*_by_length(tests), *_by_depth(tests), *_by_batch(tests), *_experts(result), *_by_load(result.loads)]
    return [chart for chart in found if chart.shown]


AnyTest = TestResult | ServedTest


def _batch(test: AnyTest) -> int:
    return test.batch if isinstance(test, TestResult) else 1


def _tokens(test: AnyTest) -> int:
    return int(test.test[2:])


def _point(x: float, test: AnyTest) -> Point:
    spread = test.tokens_per_s
    return Point(x, spread.median, spread.min, spread.max)


def _predicted(found: Iterable[tuple[float, Interval | None]]) -> Iterator[Series]:
    points = [Point(x, p.p50, p.p10, p.p90) for x, p in found if p]
    if points:
        yield Series("predicted (p10-p90)", points, dashed=True)


def _chart(
    title: str, x_name: str, place: Callable[[AnyTest], float], tests: Sequence[AnyTest], linear: bool = False
) -> Curves:
    """Measured, beside what was predicted."""
    ordered = sorted(tests, key=place)
    measured = Series("measured (min-max)", [_point(place(t), t) for t in ordered])
    predicted = _predicted((place(t), t.predicted_tokens_per_s) for t in ordered if isinstance(t, TestResult))
    return Curves(title, x_name, "tokens/s", [measured, *predicted], linear)


def _by_length(tests: Sequence[AnyTest]) -> Iterator[Curves]:
    plain = [t for t in tests if t.test.startswith("pp") and not t.depth and _batch(t) == 1]
    yield _chart("Reading a prompt", "tokens of the prompt", _tokens, plain)


def _by_depth(tests: Sequence[AnyTest]) -> Iterator[Curves]:
    for kind, title in (("tg", "Generating, by depth"), ("pp", "Reading a prompt, by depth")):
        for name in dict.fromkeys(t.test for t in tests if t.test.startswith(kind)):
            same = [t for t in tests if t.test == name and _batch(t) == 1]
            yield _chart(f"{title}: {name}", "tokens in the cache beforehand", lambda t: t.depth, same, linear=True)


def _by_batch(tests: Sequence[TestResult]) -> Iterator[Curves]:
    for name, depth in dict.fromkeys((t.test, t.depth) for t in tests):
        same = [t for t in tests if (t.test, t.depth) == (name, depth)]
        behind = f" @ d{depth}" if depth else ""
        yield _chart(f"All sequences together: {name}{behind}", "sequences at once", _batch, same)


def _experts(result: Result) -> Iterator[Curves]:
    """Of one kind of test: others have texts of other places."""
    for name, depth in dict.fromkeys((t.test, t.depth) for t in result.results):
        same = [
            (t.batch, t.experts_activated)
            for t in sorted(result.results, key=lambda t: t.batch)
            if (t.test, t.depth) == (name, depth) and t.experts_activated
        ]
        measured = Series("measured", [Point(batch, seen.measured) for batch, seen in same if seen])
        uniform = Series(
            "if every choice were equally likely", [Point(b, s.uniform) for b, s in same if s], dashed=True
        )
        behind = f" @ d{depth}" if depth else ""
        yield Curves(
            f"Experts that a step reads in a layer: {name}{behind}",
            "sequences at once",
            f"experts of {result.model.n_experts}",
            [measured, uniform],
        )


def _by_load(loads: Sequence[LoadResult]) -> Iterator[Curves]:
    for tokens in dict.fromkeys((load.prompt_tokens, load.output_tokens) for load in loads):
        same = sorted(
            (load for load in loads if (load.prompt_tokens, load.output_tokens) == tokens), key=lambda x: x.concurrency
        )
        name = f"{tokens[0]} tokens in, {tokens[1]} out"
        speeds = [(load.concurrency, load.output_tokens_per_s) for load in same]
        together = [Point(n, s.median, s.min, s.max) for n, s in speeds]
        each = [Point(n, s.median / n) for n, s in speeds]
        predicted = _predicted((load.concurrency, load.predicted_tokens_per_s) for load in same)
        at_once = "requests at once"
        yield Curves(
            f"Throughput: {name}",
            at_once,
            "output tokens/s",
            [Series("all (min-max)", together), Series("each", each), *predicted],
        )
        yield Curves(f"TTFT: {name}", at_once, "milliseconds", list(_percentiles("p", same, lambda x: x.ttft_ms)))
        itl = [*_percentiles("ITL p", same, lambda x: x.itl_ms)][:3]
        tpot = [*_percentiles("TPOT p", same, lambda x: x.tpot_ms)][:1]
        yield Curves(f"Between tokens: {name}", at_once, "milliseconds", [*itl, *tpot])


def _percentiles(
    name: str, loads: Sequence[LoadResult], of: Callable[[LoadResult], Percentiles | None]
) -> Iterator[Series]:
    for p in ("p50", "p90", "p99"):
        points = [(load.concurrency, of(load)) for load in loads]
        found = [Point(x, float(getattr(one, p))) for x, one in points if one]
        if found:
            yield Series(f"{name[:-1]}{p}", found)
