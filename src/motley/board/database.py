"""The board's one small file: its tables, and how they came to be what they are (`motley.database`)."""

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from motley.database import connected, transaction

MIGRATIONS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    INSERT INTO meta VALUES ('secret', lower(hex(randomblob(32))));
    CREATE TABLE request (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        ask TEXT NOT NULL,
        model TEXT NOT NULL,
        quant TEXT NOT NULL,
        pp INTEGER NOT NULL,
        tg INTEGER NOT NULL,
        depth INTEGER NOT NULL,
        batch INTEGER NOT NULL,
        hardware TEXT NOT NULL,
        note TEXT NOT NULL,
        state TEXT NOT NULL,
        shown TEXT NOT NULL,
        reason TEXT NOT NULL DEFAULT '',
        forecast TEXT,
        width REAL NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        asked_at TEXT NOT NULL,
        changed_at TEXT NOT NULL
    );
    CREATE INDEX request_by_state ON request (state, shown);
    CREATE TABLE vote (
        request INTEGER NOT NULL REFERENCES request (id),
        voter TEXT NOT NULL,
        at TEXT NOT NULL,
        PRIMARY KEY (request, voter)
    ) WITHOUT ROWID;
    CREATE TABLE result (
        id INTEGER PRIMARY KEY,
        request INTEGER REFERENCES request (id),
        digest TEXT NOT NULL UNIQUE,
        shown TEXT NOT NULL,
        at TEXT NOT NULL,
        model TEXT NOT NULL,
        quant TEXT NOT NULL,
        note TEXT NOT NULL DEFAULT '',
        flags TEXT NOT NULL DEFAULT '[]',
        json BLOB NOT NULL
    );
    CREATE INDEX result_by_request ON result (request);
    CREATE INDEX result_by_model ON result (model, quant);
    CREATE TABLE event (
        id INTEGER PRIMARY KEY,
        request INTEGER NOT NULL REFERENCES request (id),
        at TEXT NOT NULL,
        state TEXT NOT NULL,
        words TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX event_by_request ON event (request);
    """,
    # Requests of before keep the only name they had. `result.flags` is neither written nor read any more, as flags are
    # worked out when a result is read; to drop a column takes an SQLite (3.35) that some systems don't have yet.
    """
    ALTER TABLE request ADD COLUMN weights TEXT NOT NULL DEFAULT '';
    UPDATE request SET weights = quant;
    """,
)


class Database:
    """`path` is made, with its folder, when it is first used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return connected(self.path, MIGRATIONS, f"the board's file {self.path} can't be used")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """In one transaction."""
        with self.reading() as db, transaction(db):
            yield db
