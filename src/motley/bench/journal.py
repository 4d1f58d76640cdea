"""What a bench has measured so far, on disk after every test: an interrupted suite loses nothing and can go on.

A journal is one JSON file in the user's data folder. Its key says what was asked of which Motley and model: only an
equal question goes on with it. Lab and placement are in it, so that a resumed run measures the same thing.
"""

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import msgspec

from motley.bench.folders import data_folder
from motley.bench.load import LoadResult
from motley.bench.records import Count, Name, Record, Text
from motley.bench.result import RouteCounts, Skipped, TestResult
from motley.engine.runner import ExchangeCount
from motley.errors import UsageError
from motley.lab.lab import Lab
from motley.lab.placement import Placement


class Done(Record, frozen=True, kw_only=True):
    """A unit of a bench that needs no second try: a test, a load, or why there is neither."""

    unit: Name
    result: TestResult | None = None
    routes: RouteCounts = ()  # choices while its samples ran
    exchanges: tuple[ExchangeCount, ...] = ()
    tokens: Count = 0  # of all samples
    load: LoadResult | None = None
    skipped: Skipped | None = None


class Placed(Record, frozen=True, kw_only=True):
    """Where the model lives, and why."""

    lab: Lab
    placement: Placement
    stored: tuple[Name, ...] = ()  # devices that leave their weights in the file
    reasons: tuple[Text, ...] = ()


class _File(Record, frozen=True, kw_only=True):
    key: Name
    sessions: tuple[Name, ...]  # when each began
    placed: Placed | None
    done: tuple[Done, ...]


class Journal:
    """Without a path it remembers for this process only."""

    def __init__(self, now: str, path: Path | None = None, key: str = "") -> None:
        self._path, self._key = path, key
        self.sessions: tuple[str, ...] = (now,)
        self.placed: Placed | None = None
        self._done: dict[str, Done] = {}

    @classmethod
    def fresh(cls, suite: str, question: Iterable[object], now: str) -> "Journal":
        """A new one; what an interrupted run of the same question left is forgotten."""
        key = key_of(question)
        return cls(now, path_of(suite, key), key)

    @classmethod
    def resumed(cls, suite: str, question: Iterable[object], now: str) -> "Journal":
        """The one that an interrupted run left. UsageError where there is none of the same question."""
        key = key_of(question)
        path = path_of(suite, key)
        left = left_over(suite, question)
        if left is None:
            raise UsageError(
                f"nothing to resume: no interrupted run of suite {suite} with this model, place and version of Motley "
                f"(looked for {path}): run it without --resume"
            )
        journal = cls(now, path, key)
        journal.sessions = (*left.sessions, now)
        journal.placed = left.placed
        journal._done = {done.unit: done for done in left.done}
        return journal

    @property
    def n_done(self) -> int:
        return len(self._done)

    def get(self, unit: str) -> Done | None:
        return self._done.get(unit)

    def begin(self, placed: Placed) -> None:
        self.placed = placed
        self._write()

    def add(self, done: Done) -> None:
        self._done[done.unit] = done
        self._write()

    def finish(self) -> None:
        """The result is kept elsewhere."""
        if self._path:
            self._path.unlink(missing_ok=True)

    @property
    def path(self) -> Path | None:
        return self._path

    def _write(self) -> None:
        """Whole or not at all, whatever happens meanwhile."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = _File(key=self._key, sessions=self.sessions, placed=self.placed, done=tuple(self._done.values()))
        part = self._path.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(file))
        part.replace(self._path)


def left_over(suite: str, question: Iterable[object]) -> _File | None:
    """What an interrupted run of the same question left; None also where it can't be read any more."""
    key = key_of(question)
    try:
        file = msgspec.json.decode(path_of(suite, key).read_bytes(), type=_File)
    except (OSError, msgspec.MsgspecError):
        return None
    return file if file.key == key and file.done else None


def key_of(question: Iterable[object]) -> str:
    return sha256(json.dumps([str(part) for part in question]).encode()).hexdigest()[:24]


def path_of(suite: str, key: str) -> Path:
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in suite)[:40]
    return data_folder() / "unfinished" / f"{safe}-{key[:12]}.json"
