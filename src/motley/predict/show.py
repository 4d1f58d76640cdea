"""Predictions as a person and as a program read them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from motley.predict.predict import Prediction
from motley.predict.workload import Workload

_WORDS = ("architecture", "family", "status", "proof")
_LEFT = ("", "workload", "limited by", "on", "device", "term", "of", "rate from", *_WORDS)


@dataclass(frozen=True)
class Refusal:
    """A workload that is not predicted, and why."""

    workload: Workload
    reason: str


def prediction_rows(found: Sequence[Prediction | Refusal]) -> list[str]:
    """A line for each workload: speed, interval, a step's time and what limits it."""
    rows = []
    for one in found:
        if isinstance(one, Refusal):
            rows.append([one.workload.name, "-", "", "", one.reason])
        else:
            rows.append([one.workload.name, number(one.p50), interval(one), number(one.ms_per_step), limit(one)])
    return table(["workload", "tokens/s", "p10-p90", "ms a step", "limited by"], rows)


def interval(prediction: Prediction) -> str:
    return f"{number(prediction.p10)}-{number(prediction.p90)}"


def limit(prediction: Prediction) -> str:
    """`experts on big, 61 %, bandwidth`"""
    term = prediction.largest
    part = 100 * term.ms / prediction.ms_per_step
    return f"{term.name} on {term.device}, {part:.0f} %" + (f", {term.limited_by}" if term.limited_by != "link" else "")


def predictions_json(found: Sequence[Prediction | Refusal]) -> list[dict[str, Any]]:
    return [_one_json(one) for one in found]


def _one_json(one: Prediction | Refusal) -> dict[str, Any]:
    if isinstance(one, Refusal):
        return {"workload": one.workload.name, "reason": one.reason}
    return {
        "workload": one.workload.name,
        "tokens_per_s": {"p10": one.p10, "p50": one.p50, "p90": one.p90},
        "ms_per_step": one.ms_per_step,
        "limited_by": limit(one),
        "terms": [asdict(term) for term in one.terms],
    }


def experts_words(used: int, of: int) -> str:
    """`8 of 64 experts a token`, or `dense`"""
    return f"{used} of {of} experts a token" if of else "dense"


def number(value: float) -> str:
    """Three digits that matter: 0.0123, 1.23, 12.3, 123, 12,345."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 1:
        return f"{value:.3g}"
    return f"{value:.2g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def duration(seconds: float) -> str:
    """67.4 ms, 1.23 s, 8,353 s"""
    return f"{number(seconds)} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Words to the left, numbers to the right, two spaces between."""
    every = [head, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]
    lines = []
    for row in every:
        cells = [
            cell.ljust(width) if name in _LEFT else cell.rjust(width) for cell, width, name in zip(row, widths, head)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
