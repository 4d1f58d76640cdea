"""Results kept on this machine: SQLite, the whole JSON of each bench beside the columns that lists are sorted by.

The file lies in the user's data folder (`data_folder`). Several processes may use it: WAL, short transactions. The
schema's version is SQLite's `user_version`; `MIGRATIONS[i]` leads from version i to i + 1.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from motley.bench.folders import data_folder
from motley.bench.result import Result, from_json, to_json
from motley.errors import MotleyError, UsageError

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
    devices: int
    tg_tokens_per_s: float | None  # the first tg test's median
    check_passed: bool | None


class Store:
    """`path`: the database file; made, with its folder, when the first result is saved."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or data_folder() / "results.sqlite"

    def save(self, result: Result) -> int:
        """The new row's id."""
        first_tg = next((t for t in result.results if t.test.startswith("tg")), None)
        values = (
            result.date,
            result.model.name,
            result.model.quant,
            len(result.lab.devices),
            first_tg.tokens_per_s.median if first_tg else None,
            result.check.passed if result.check else None,
            to_json(result),
        )
        with self._connected() as db:
            added = db.execute(
                "INSERT INTO result (date, model, quant, devices, tg_tokens_per_s, check_passed, json)"
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

    def get(self, id: int) -> Result:
        """UsageError if there is none."""
        with self._connected() as db:
            row = db.execute("SELECT json FROM result WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise UsageError(f"no result {id} in {self.path}: `motley report` lists what there is")
        return from_json(row[0], f"result {id} of {self.path}")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction, at the newest schema."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=10)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                self._migrate(db)
                with db:
                    yield db
        except (sqlite3.DatabaseError, OSError) as error:
            raise MotleyError(
                f"the results store {self.path} can't be used: {error}; MOTLEY_DATA names another folder"
            ) from error

    def _migrate(self, db: sqlite3.Connection) -> None:
        version = _version(db)
        if version > len(MIGRATIONS):
            raise MotleyError(f"{self.path} was written by a newer Motley (schema {version}): update Motley")
        while version < len(MIGRATIONS):
            # The version is read again under the lock: another process may have migrated meanwhile.
            db.execute("BEGIN IMMEDIATE")
            if _version(db) == version:
                for statement in filter(str.strip, MIGRATIONS[version].split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {version + 1}")
            db.commit()
            version = _version(db)


def _row(*columns: Any) -> Row:
    row = Row(*columns)  # SQLite has no booleans
    return row if row.check_passed is None else replace(row, check_passed=bool(row.check_passed))


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
