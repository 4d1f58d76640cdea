"""Results kept on this machine: the whole JSON of each bench beside the columns that lists are sorted by, in SQLite
(`motley.database`). The file lies in the user's data folder (`data_folder`).
"""

import sqlite3
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from motley.bench.folders import data_folder
from motley.bench.result import to_json
from motley.bench.served import AnyResult, ServedResult, parse_any
from motley.database import connected
from motley.errors import UsageError

MIGRATIONS = (
    """
    CREATE TABLE result (
        id INTEGER PRIMARY KEY,
        date TEXT NOT NULL,
        model TEXT NOT NULL,
        quant TEXT NOT NULL,
        devices INTEGER NOT NULL,
        tg_tokens_per_s REAL,
        check_passed INTEGER,
        json BLOB NOT NULL
    );
    CREATE INDEX result_by_model ON result (model, quant, date);
    """,
)


@dataclass(frozen=True)
class Row:
    """A line of the list."""

    id: int
    date: str
    model: str
    quant: str
    devices: int  # 0: a server, of which nobody knows
    tg_tokens_per_s: float | None  # the first tg test's median
    check_passed: bool | None


class Store:
    """`path`: the database file; made, with its folder, when the first result is saved."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or data_folder() / "results.sqlite"

    def save(self, result: AnyResult) -> int:
        """The new row's id."""
        speeds = [t.tokens_per_s.median for t in result.results if t.test.startswith("tg")]
        values = (result.date, *_columns(result), speeds[0] if speeds else None, to_json(result))
        with self._connected() as db:
            added = db.execute(
                "INSERT INTO result (date, model, quant, devices, check_passed, tg_tokens_per_s, json)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            return int(added.lastrowid or 0)

    def rows(self, model: str | None = None, limit: int = 20) -> list[Row]:
        """Newest first."""
        with self._connected() as db:
            rows = db.execute(
                "SELECT id, date, model, quant, devices, tg_tokens_per_s, check_passed FROM result"
                " WHERE ?1 IS NULL OR model = ?1 ORDER BY id DESC LIMIT ?2",
                (model, limit),
            ).fetchall()
        return [_row(*columns) for columns in rows]

    def get(self, id: int) -> AnyResult:
        """UsageError if there is none."""
        with self._connected() as db:
            row = db.execute("SELECT json FROM result WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise UsageError(f"no result {id} in {self.path}: `motley report` lists what there is")
        return parse_any(row[0], f"result {id} of {self.path}")

    def _connected(self) -> AbstractContextManager[sqlite3.Connection]:
        what = f"the results store {self.path} can't be used (MOTLEY_DATA names another folder)"
        return connected(self.path, MIGRATIONS, what)


def _columns(result: AnyResult) -> tuple[str, str, int, bool | None]:
    """model, quant, devices, check_passed"""
    if isinstance(result, ServedResult):
        return result.server.model, "", 0, None
    passed = result.check.passed if result.check else None
    return result.model.name, result.model.quant, len(result.lab.devices), passed


def _row(*columns: Any) -> Row:
    row = Row(*columns)  # SQLite has no booleans
    return row if row.check_passed is None else replace(row, check_passed=bool(row.check_passed))
