"""Results for a terminal, by rich: one result in full, several side by side, the list of what is stored."""

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from motley.bench.gate import Flag, by_kind, flags
from motley.bench.load import LoadResult, Percentiles
from motley.bench.records import Spread
from motley.bench.result import Check, Exchange, PeerResult, Result, TestResult
from motley.bench.served import AnyResult, ServedResult
from motley.bench.store import Row
from motley.bench.words import (
    check_words,
    experts_per_device,
    machine_words,
    model_words,
    placement_words,
    reasons,
    settings_words,
)
from motley.predict.show import number


def view(result: AnyResult) -> RenderableType:
    return served_view(result) if isinstance(result, ServedResult) else result_view(result)


def result_view(result: Result) -> RenderableType:
    """Everything a person wants to know after a bench."""
    parts: list[RenderableType] = [
        Text(f"{result.model.name} {result.model.quant}: {model_words(result)}", style="bold"),
        Text(machine_words(result)),
        Text(placement_words(result)),
        *(Text(f"- {reason}", style="dim") for reason in reasons(result)),
    ]
    if result.results:
        parts += [speed_table(result.results), time_table(result.results)]
    if any(test.experts_activated for test in result.results):
        parts.append(experts_table(result.results))
    if result.loads:
        parts.append(load_table(result.loads))
    if result.exchanges:
        parts.append(exchange_table(result.exchanges))
    if result.peers:
        parts.append(peer_table(result.peers))
    parts += [_line(f"Not measured: {s.test}: {s.why}", "dim") for s in result.skipped]
    parts.append(check_line(result.check))
    parts += flag_lines(flags(result))
    return Group(*parts)


def served_view(result: ServedResult) -> RenderableType:
    """As `result_view`, of a server."""
    server, client = result.server, result.client
    parts: list[RenderableType] = [
        Text(f"{server.model} at {server.url} ({server.software or 'unnamed software'}, {server.api})", style="bold"),
        Text(f"Client: {client.cpu}, {client.cores} cores; prompts counted by {server.prompts_counted_by}"),
    ]
    if result.results:
        table = _table("Speed, seen by one client", "test", "tok/s (min-max)", "samples")
        for test in result.results:
            spread = test.tokens_per_s
            table.add_row(test.label, _speed_words(spread), str(len(spread.samples)))
        parts.append(table)
    if result.loads:
        parts.append(load_table(result.loads))
    parts += [_line(f"Not measured: {s.test}: {s.why}", "dim") for s in result.skipped]
    parts += flag_lines(flags(result))
    return Group(*parts)


def flag_lines(against: Sequence[Flag]) -> list[Text]:
    if not against:
        return [_line("Nothing speaks against publishing this result", "green")]
    found = [
        _line(f"Flagged ({kind.code}): {'; '.join(map(str, kind.flags))}. Remedy: {kind.remedy}", "yellow")
        for kind in by_kind(against)
    ]
    return [*found, _line("Reports and boards show a flagged result as flagged", "dim")]


def _line(words: str, style: str) -> Text:
    return Text(words, style=style)


def load_table(loads: Sequence[LoadResult]) -> Table:
    """Fits 80 columns. Medians and the 99th percentile, in milliseconds."""
    table = _table(
        "Loads: prompt+answer, cN at once (tok/s of answers; ms: p50/p99)",
        "load",
        "tok/s",
        "predicted",
        "TTFT",
        "ITL",
        "TPOT",
        "good/s",
        "failed",
    )
    for load in loads:
        table.add_row(
            load.label,
            Text(number(load.output_tokens_per_s.median), style="bold"),
            number(load.predicted_tokens_per_s.p50) if load.predicted_tokens_per_s else "-",
            *(_two(p) for p in (load.ttft_ms, load.itl_ms, load.tpot_ms)),
            number(load.goodput.requests_per_s) if load.goodput else "-",
            str(load.failed),
        )
    return table


def _two(p: Percentiles | None) -> str:
    return f"{number(p.p50)}/{number(p.p99)}" if p else "-"


def experts_table(tests: Sequence[TestResult]) -> Table:
    """What a step reads: experts a layer, beside the prior of equal chances, and the bandwidth that this makes."""
    table = _table("Experts a step reads, by layer", "test", "at once", "measured", "uniform", "sparse bandwidth")
    for test in tests:
        if (seen := test.experts_activated) is None:
            continue
        used = test.sparse_bandwidth_utilisation
        shown = "-" if used is None else f"{used:.0%}"
        table.add_row(test.label, str(test.batch), f"{seen.measured:.2f}", f"{seen.uniform:.2f}", shown)
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    """First column words, the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def speed_table(tests: Sequence[TestResult]) -> Table:
    """Fits 80 columns. `ratio`: measured / predicted; `bandwidth`: the part of it that the tokens' bytes needed."""
    table = _table("Speed", "test", "tok/s (min-max)", "predicted (p10-p90)", "ratio", "ms/step", "bandwidth")
    for test in tests:
        p, ratio, used = test.predicted_tokens_per_s, test.measured_over_predicted, test.bandwidth_fraction
        table.add_row(
            test.label,
            _speed_words(test.tokens_per_s),
            f"{number(p.p50)} ({number(p.p10)}-{number(p.p90)})" if p else "-",
            f"{ratio:.2f}" if ratio else "-",
            number(test.ms_per_step),
            "-" if used is None else f"{used:.0%}",
        )
    return table


def time_table(tests: Sequence[TestResult]) -> Table:
    parts = list(dict.fromkeys(part for test in tests for part in test.time.parts()))
    table = _table("Where a step's time goes (%)", "test", *parts)
    for test in tests:
        spent = test.time.parts()
        total = sum(spent.values()) or 1.0
        table.add_row(test.label, *(f"{100 * spent.get(part, 0.0) / total:.1f}" for part in parts))
    return table


def exchange_table(exchanges: Sequence[Exchange]) -> Table:
    """Microseconds: a whole round, the computing in it, the rest (what being apart costs), and the bare link."""
    table = _table("Exchanges while generating (us)", "link", "per token", "round", "computing", "apart", "bare link")
    for x in exchanges:
        table.add_row(
            f"{x.a} - {x.b} ({x.transport})",
            number(x.per_token),
            number(x.round_us),
            number(x.work_us),
            Text(number(x.us_per_exchange), style="bold"),
            "-" if x.rtt_us is None else number(x.rtt_us),
        )
    return table


def peer_table(peers: Sequence[PeerResult]) -> Table:
    table = _table(
        "Against a peer, pair by pair (* its best settings)",
        "test",
        "peer",
        "peer tok/s",
        "Motley tok/s",
        "ratio (min-max)",
    )
    for p in peers:
        table.add_row(
            p.label,
            f"{p.peer}, {settings_words(p)}" + (" *" if p.best else ""),
            number(p.tokens_per_s.median),
            number(p.motley_tokens_per_s.median),
            Text(f"{p.ratio.median:.2f} ({p.ratio.min:.2f}-{p.ratio.max:.2f})", style="bold" if p.best else ""),
        )
    return table


def check_line(check: Check | None) -> Text:
    if check is None:
        return Text("Check: not run", style="yellow")
    return Text(check_words(check), style="green" if check.passed else "bold red")


def list_view(rows: Sequence[Row]) -> Table:
    """What the store holds, newest first."""
    table = _table("Results on this machine", "id", "date", "model", "devices", "tok/s (tg)", "check")
    for row in rows:
        passed = {True: "passed", False: "FAILED", None: "-"}[row.check_passed]
        speed = "-" if row.tg_tokens_per_s is None else number(row.tg_tokens_per_s)
        table.add_row(
            str(row.id), row.date, f"{row.model} {row.quant}".strip(), str(row.devices or "server"), speed, passed
        )
    return table


def side_by_side(results: Sequence[tuple[str, AnyResult]]) -> Table:
    """Runs as columns, tests as rows: tok/s medians, and each against the first run that has the test."""
    table = _table("Runs side by side: tok/s", "test", *(name for name, _ in results))
    placed: dict[str, Callable[[Result], str]] = {
        "threads": lambda r: str(r.machine.threads),
        "experts": lambda r: experts_per_device(r) or "none",
        "read GB/s": lambda r: number(r.machine.read_gb_s),
        "check": lambda r: "-" if r.check is None else "passed" if r.check.passed else "FAILED",
    }
    known: dict[str, Callable[[AnyResult], str]] = {
        "model": lambda r: r.server.model if isinstance(r, ServedResult) else f"{r.model.name} {r.model.quant}",
        "date": lambda r: r.date,
        "commit": lambda r: r.commit or "-",
        "flags": lambda r: str(len(flags(r)) or "none"),
    }
    for title, words in known.items():
        table.add_row(title, *(words(result) for _, result in results), style="dim")
    for title, placed_words in placed.items():
        shown = [placed_words(result) if isinstance(result, Result) else "-" for _, result in results]
        table.add_row(title, *shown, style="dim")
    labels = dict.fromkeys(test.label for _, result in results for test in [*result.results, *result.loads])
    for label in labels:
        medians = [_median(result, label) for _, result in results]
        base = next(m for m in medians if m is not None)
        table.add_row(label, *("-" if m is None else f"{number(m)} ({m / base:.2f}x)" for m in medians))
    return table


def _median(result: AnyResult, label: str) -> float | None:
    speeds = {test.label: test.tokens_per_s for test in result.results}
    speeds |= {load.label: load.output_tokens_per_s for load in result.loads}
    return speeds[label].median if label in speeds else None


def _speed_words(spread: Spread) -> Text:
    return Text.assemble((number(spread.median), "bold"), f" ({_extent(spread)})")


def _extent(spread: Spread) -> str:
    return f"{number(spread.min)}-{number(spread.max)}"
