"""SQLite files: WAL, short transactions, numbered migrations. Several processes may use one file.

The schema's version is SQLite's `user_version`; `migrations[i]` leads from version i to i + 1. A released migration is
never edited.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from motley.errors import MotleyError


@contextmanager
def connected(path: Path, migrations: Sequence[str], unusable: str) -> Iterator[sqlite3.Connection]:
    """At the newest schema, each statement for itself (`transaction` holds several together). `path` is made, with its
    folder. MotleyError, `unusable` and why, where the file can't be used; and where a newer Motley wrote it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA foreign_keys = ON")
            _migrate(db, path, migrations)
            yield db
    except (sqlite3.DatabaseError, OSError) as error:
        raise MotleyError(f"{unusable}: {error}") from error


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Alone from its first statement on: what it read is still so when it writes."""
    db.execute("BEGIN IMMEDIATE")
    with db:
        yield


def _migrate(db: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    version = _version(db)
    if version > len(migrations):
        raise MotleyError(f"{path} was written by a newer Motley (schema {version}): update Motley")
    while version < len(migrations):
        with transaction(db):
            version = _version(db)  # again, under the lock: another process may have migrated meanwhile
            if version < len(migrations):
                for statement in filter(str.strip, migrations[version].split(";")):
                    db.execute(statement)
                version += 1
                db.execute(f"PRAGMA user_version = {version}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
