"""A result as a table of rows: one for each test and each load, the same columns for every kind of result."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from motley.bench.gate import Flag, flags
from motley.bench.load import LoadResult
from motley.bench.records import Interval, Spread
from motley.bench.result import Result, TestResult
from motley.bench.served import AnyResult, ServedResult, ServedTest
from motley.predict.workload import STEP_TOKENS

COLUMNS = (
    "date", "model", "quant", "test", "depth", "batch", "concurrency", "step_tokens", "samples", "tokens_per_s_mean",
    "tokens_per_s_stdev", "tokens_per_s_median", "cv", "predicted_p10", "predicted_p50", "predicted_p90", "ms_per_step",
    "bandwidth_fraction", "sparse_bandwidth_utilisation", "experts_activated", "experts_uniform", "joules_per_token",
    "requests_per_s", "goodput_requests_per_s", "ttft_ms_p50", "ttft_ms_p90", "ttft_ms_p99", "itl_ms_p50", "itl_ms_p90",
    "itl_ms_p99", "tpot_ms_p50", "tpot_ms_p90", "tpot_ms_p99", "e2e_ms_p50", "failed_requests", "check", "flags",
    "commit", "command",
)  # fmt: skip


def csv_text(result: AnyResult) -> str:
    """RFC 4180, with a header; what does not apply is empty. No cell is a formula: results are other people's text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    for row in rows(result):
        writer.writerow({key: cell(value) for key, value in row.items()})
    return text.getvalue()


def cell(value: Any) -> Any:
    """For one cell of a CSV: a text that a spreadsheet would compute, if only after the space before it, gets a quote;
    characters that are not seen become space."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def rows(result: AnyResult) -> Iterator[dict[str, Any]]:
    against = flags(result)
    whole = _whole(result)
    for test in result.results:
        yield {**whole, **_test(test), "flags": _codes(against, test.label)}
    for load in result.loads:
        found = {"test": f"{load.prompt_tokens}+{load.output_tokens}", **_speed(load.output_tokens_per_s)}
        yield {**whole, **found, **_load(load), "flags": _codes(against, load.label)}


def _whole(result: AnyResult) -> dict[str, Any]:
    facts = {"date": result.date, "commit": result.commit, "command": result.command}
    if isinstance(result, ServedResult):
        return facts | {"model": result.server.model}
    check = result.check
    verdict = "not run" if check is None else "passed" if check.passed else "failed"
    model = {"model": result.model.name, "quant": result.model.quant}
    return facts | model | {"check": verdict, "step_tokens": result.step_tokens or STEP_TOKENS}


def _test(test: TestResult | ServedTest) -> Mapping[str, Any]:
    same = {"test": test.test, "depth": test.depth, **_speed(test.tokens_per_s)}
    if isinstance(test, ServedTest):
        return same | _load(test.load)
    seen, energy = test.experts_activated, test.energy
    return same | {
        "batch": test.batch,
        **_predicted(test.predicted_tokens_per_s),
        "ms_per_step": test.ms_per_step,
        "bandwidth_fraction": test.bandwidth_fraction,
        "sparse_bandwidth_utilisation": test.sparse_bandwidth_utilisation,
        "experts_activated": seen and seen.measured,
        "experts_uniform": seen and seen.uniform,
        "joules_per_token": energy and energy.joules_per_token,
    }


def _speed(spread: Spread) -> dict[str, Any]:
    return {
        "samples": len(spread.samples),
        "tokens_per_s_mean": spread.mean,
        "tokens_per_s_stdev": spread.stdev,
        "tokens_per_s_median": spread.median,
        "cv": spread.cv,
    }


def _predicted(p: Interval | None) -> dict[str, Any]:
    return {f"predicted_{name}": p and getattr(p, name) for name in ("p10", "p50", "p90")}


def _load(load: LoadResult) -> dict[str, Any]:
    found: dict[str, Any] = {
        "concurrency": load.concurrency,
        **_predicted(load.predicted_tokens_per_s),
        "requests_per_s": load.requests_per_s,
        "goodput_requests_per_s": load.goodput and load.goodput.requests_per_s,
        "e2e_ms_p50": load.e2e_ms.p50,
        "failed_requests": load.failed,
    }
    for name in ("ttft_ms", "itl_ms", "tpot_ms"):
        percentiles = getattr(load, name)
        for p in ("p50", "p90", "p99") if percentiles else ():
            found[f"{name}_{p}"] = getattr(percentiles, p)
    return found


def _codes(against: tuple[Flag, ...], label: str) -> str:
    return " ".join(dict.fromkeys(flag.code for flag in against if flag.test in ("", label)))


def machine_name(result: Result) -> str:
    """`CPU`, `CPU + CUDA`: the kinds of its devices, as llama-bench's backend column."""
    return " + ".join(dict.fromkeys(device.kind.upper() for device in result.lab.devices))
