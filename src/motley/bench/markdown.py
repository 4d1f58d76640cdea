"""The block that one pastes where one posts benchmarks: llama-bench's table, then what that table leaves out."""

import re
from collections.abc import Iterator

from motley.bench.export import machine_name
from motley.bench.gate import Flag, by_kind, flags
from motley.bench.load import LoadResult, Percentiles
from motley.bench.records import Interval, Spread
from motley.bench.served import AnyResult, ServedResult
from motley.bench.words import check_words, machine_words, placement_words
from motley.predict.show import number
from motley.predict.workload import STEP_TOKENS


def markdown(result: AnyResult) -> str:
    """GitHub's and Reddit's dialect; everything that others wrote is escaped."""
    against = flags(result)
    parts = [_flagged(against), _speeds(result), _loads(result.loads), _facts(result)]
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part) + "\n"


def _flagged(against: tuple[Flag, ...]) -> Iterator[str]:
    if not against:
        return
    yield "**Flagged: not for publication.**"
    yield ""
    for kind in by_kind(against):
        yield f"- `{kind.code}` {_text('; '.join(map(str, kind.flags)))}. Remedy: {_text(kind.remedy)}."


def _speeds(result: AnyResult) -> Iterator[str]:
    if isinstance(result, ServedResult):
        yield from _table(
            ["model", "backend", "test", "t/s"],
            "--->",
            [
                [result.server.model, result.server.software or result.server.url, test.label, _t_s(test.tokens_per_s)]
                for test in result.results
            ],
        )
        return
    m = result.model
    first = [f"{m.architecture} {m.name} {m.quant}", _gib(m.n_bytes), _params(m.n_params), machine_name(result)]
    rows = []
    for test in result.results:
        predicted = _predicted(test.predicted_tokens_per_s)
        rows.append([*first, str(result.machine.threads), test.label, _t_s(test.tokens_per_s), predicted])
    yield from _table(
        ["model", "size", "params", "backend", "threads", "test", "t/s", "predicted t/s (p10 - p90)"], "->>->>>>", rows
    )


def _loads(loads: tuple[LoadResult, ...]) -> Iterator[str]:
    rows = []
    for load in loads:
        good = load.goodput
        rows.append(
            [
                str(load.concurrency),
                f"{load.prompt_tokens} + {load.output_tokens}",
                _t_s(load.output_tokens_per_s),
                _predicted(load.predicted_tokens_per_s),
                *(_percentiles(p) for p in (load.ttft_ms, load.itl_ms, load.tpot_ms)),
                f"{good.requests_per_s:.2f} ({good.share:.0%})" if good else "",
                str(load.failed),
            ]
        )
    yield from _table(
        ["at once", "tokens", "output t/s", "predicted t/s (p10 - p90)",
         *(f"{n} ms p50 / p90 / p99" for n in ("TTFT", "ITL", "TPOT")),
         "goodput req/s", "failed"],
        ">>>>>>>>>",
        rows,
    )  # fmt: skip


def _facts(result: AnyResult) -> Iterator[str]:
    if isinstance(result, ServedResult):
        server, client = result.server, result.client
        yield f"- server: {_text(server.url)}, {server.api}; prompts counted by {server.prompts_counted_by}"
        yield f"- client: {_text(client.cpu)}, {client.cores} cores, {_text(client.os)}"
        yield "- prompts are timed by TTFT and generation by what follows it, with network, queue and sampling"
    else:
        yield f"- machine: {_text(machine_words(result))}; {_text(result.machine.os)}"
        yield f"- placement: {_text(placement_words(result))}"
        links = ", ".join(f"{x.a} - {x.b} by {x.transport}, {number(x.rtt_us)} us" for x in result.lab.links)
        if links:
            yield f"- links: {_text(links)}"
        if result.step_tokens:
            yield f"- a step carries up to {result.step_tokens:,} tokens, not {STEP_TOKENS}"
        yield f"- {_text(check_words(result.check)) if result.check else 'the answer was not checked'}"
        if result.energy_why:
            yield f"- no energy: {_text(result.energy_why)}"
    least = min([len(t.tokens_per_s.samples) for t in result.results] + [load.runs for load in result.loads])
    yield f"- at least {least} samples a test; mean ± standard deviation; raw samples in the JSON"
    for skipped in result.skipped:
        yield f"- not measured: {_text(skipped.test)} ({_text(skipped.why)})"
    if len(result.sessions) > 1:
        yield f"- measured in {len(result.sessions)} sessions, the first of {_text(result.sessions[0])}"
    yield f"- Motley {_text(result.motley)}, commit {_text(result.commit or 'unknown')}, {_text(result.date)}"
    yield f"- command: {_code(result.command)}"


def _table(head: list[str], sides: str, rows: list[list[str]]) -> Iterator[str]:
    """`sides`: - for words, > for numbers, which stand at the right."""
    if not rows:
        return
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---:" if side == ">" else "---" for side in sides) + " |"
    for row in rows:
        yield "| " + " | ".join(_text(cell) for cell in row) + " |"


def _t_s(spread: Spread) -> str:
    return f"{spread.mean:.2f} ± {spread.stdev:.2f}"


def _predicted(p: Interval | None) -> str:
    return f"{p.p50:.2f} ({p.p10:.2f} - {p.p90:.2f})" if p else ""


def _percentiles(p: Percentiles | None) -> str:
    return f"{p.p50:.1f} / {p.p90:.1f} / {p.p99:.1f}" if p else ""


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.2f} MiB"


def _params(n: int) -> str:
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.2f} M"


def _text(words: str) -> str:
    """One line in which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", _line(words))


def _line(words: str) -> str:
    """Without what moves a terminal's cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())


def _code(words: str) -> str:
    """In as many backticks as it needs."""
    line = _line(words)
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    edge = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{edge}{line}{edge}{fence}"
