"""Rows: published measurements as a table, one a line, and the answers to them.

Owns the columns that `motley predict --rows` reads and writes. What a row means as a question to the cost model is in
`question`. An unknown column is left alone: the table is others'.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from motley.errors import UsageError

NEEDED = ("row_id", "model", "quant", "engine", "hardware", "n_devices", "mode")
ANSWER = ("row_id", "predicted_p10", "predicted_p50", "predicted_p90", "reason")


@dataclass(frozen=True)
class Row:
    """One published measurement; numbers that are not stated are None. Tokens are counts, speeds tokens a second."""

    row_id: str
    model: str
    quant: str
    engine: str
    hardware: str
    mode: str  # pp, tg or tg_serving
    n_devices: str = "1"  # as text: `1-4` occurs
    arch: str = ""  # moe, dense
    hw_key: str = ""
    backend: str = ""
    link: str = ""
    parallelism: str = ""
    batch: str = "1"  # as text: `server`, `offline` occur
    spec_decode: str = "no"
    notes: str = ""
    total_params_b: float | None = None
    active_params_b: float | None = None
    bits_per_weight: float | None = None
    model_file_gib: float | None = None
    prompt_tokens: float | None = None
    gen_tokens: float | None = None
    context_depth: float | None = None
    tokens_per_s: float | None = None  # what was measured; predicting does not need it


_NUMBERS = {name for name, kind in Row.__annotations__.items() if kind == float | None}


def read_rows(path: str | Path) -> list[Row]:
    """Empty lines are no rows. Raises UsageError where it is no table, or a needed column is missing."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns = table.fieldnames or []
            if missing := [name for name in NEEDED if name not in columns]:
                hint = "separate them by commas" if ";" in "".join(columns) else "the first line must name the columns"
                raise UsageError(f"{path}: no column {', '.join(missing)}: {hint}")
            rows = [_row(cells) for cells in table if any(cells.get(name) for name in columns)]
    except UnicodeDecodeError:
        raise UsageError(f"cannot read the rows in {path}: it is not UTF-8 text; save it as that") from None
    except (OSError, csv.Error) as error:
        raise UsageError(f"cannot read the rows in {path}: {error}") from None
    return rows


def _row(cells: dict[str, str | None]) -> Row:
    known = {name: (cells.get(name) or "").strip() for name in Row.__annotations__}
    text = {name: value for name, value in known.items() if name not in _NUMBERS}
    text = {name: value for name, value in text.items() if value or name in NEEDED}
    return Row(**text, **{name: _number(known[name]) for name in _NUMBERS})  # type: ignore[arg-type]


def _number(text: str) -> float | None:
    """A cell that is no number (`unknown`, `~4k`) says nothing."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None


@dataclass(frozen=True)
class Answer:
    row_id: str
    p10: float | None = None  # tokens a second
    p50: float | None = None
    p90: float | None = None
    reason: str = ""  # why there is no prediction; or what widened it


def write_answers(path: str | Path, answers: Iterable[Answer]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(ANSWER)
        for a in answers:
            table.writerow([a.row_id, *("" if p is None else f"{p:.5g}" for p in (a.p10, a.p50, a.p90)), a.reason])
