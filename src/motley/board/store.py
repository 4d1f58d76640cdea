"""Store: requests, votes, results and what happened to them, as rows; no rule but the table of states.

Every change of state is one transaction with its event. Times are ISO 8601, UTC.
"""

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from motley.bench.facts import now
from motley.board.ask import Ask
from motley.board.database import Database
from motley.board.forecast import Forecast
from motley.board.question import Understood
from motley.board.states import Shown, State, require_move
from motley.errors import UsageError

# The queue: votes times the uncertainty of the prediction, ln(p90 / p10) of its least sure test; of equals the older.
# A vote says that somebody wants to know, the width how much there is to be learned: an answer that is known to 10 %
# can wait. Whoever asks has one vote.
QUEUE_ORDER = "votes * width DESC, id"
# What runs, the queue in its order, then the rest, newest first.
LIST_ORDER = """CASE state WHEN 'running' THEN 0 WHEN 'queued' THEN 1 ELSE 2 END,
    CASE state WHEN 'queued' THEN -votes * width ELSE 0 END, CASE state WHEN 'queued' THEN id ELSE -id END"""

_ROWS = "SELECT *, (SELECT count(*) FROM vote WHERE vote.request = request.id) AS votes FROM request"


@dataclass(frozen=True)
class Request:
    id: int
    ask: Ask
    model: str
    quant: str
    weights: str  # the quantisation that results say: of most of its bytes, where `quant` names a mix
    pp: int
    tg: int
    depth: int
    batch: int
    hardware: str  # in words; "" for the host's
    note: str
    state: State
    shown: Shown
    reason: str
    forecast: Forecast | None
    width: float
    votes: int
    attempts: int
    asked_at: str
    changed_at: str

    @property
    def score(self) -> float:
        return self.votes * self.width


@dataclass(frozen=True)
class Kept:
    """A result: `request` where the host measured it, None where somebody submitted it."""

    id: int
    request: int | None
    shown: Shown
    at: str
    model: str
    quant: str
    note: str
    json: bytes = field(repr=False)


@dataclass(frozen=True)
class Event:
    at: str
    state: str
    words: str


@dataclass(frozen=True)
class Filter:
    """What a list shows; empty: everything."""

    states: tuple[State, ...] = ()
    shown: tuple[Shown, ...] = (Shown.SHOWN,)
    words: str = ""  # in model, quantisation or hardware
    limit: int | None = None
    offset: int = 0


class Store:
    def __init__(self, path: Path) -> None:
        self.database = Database(path)

    @property
    def secret(self) -> bytes:
        """Of this board: addresses are kept only as hashes with it."""
        with self.database.reading() as db:
            return bytes.fromhex(db.execute("SELECT value FROM meta WHERE name = 'secret'").fetchone()[0])

    # -- requests
    def file(self, asked: Understood, ask: Ask, shown: Shown, voter: str) -> tuple[int, bool]:
        """(id, whether it was new). An equal request gets the vote instead."""
        q, when = asked.question, now()
        with self.database.writing() as db:
            known = db.execute("SELECT id FROM request WHERE key = ?", (q.key,)).fetchone()
            if known is None:
                values = (q.key, msgspec.json.encode(ask).decode(), q.model, q.quant, asked.weights)
                tests = (q.pp, q.tg, q.depth, q.batch)
                added = db.execute(
                    "INSERT INTO request (key, ask, model, quant, weights, pp, tg, depth, batch, hardware, note, state,"
                    " shown, asked_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*values, *tests, asked.lab_words, ask.note, State.ASKED, shown, when, when),
                )
                _note_event(db, int(added.lastrowid or 0), State.ASKED, "")
            id = int(known["id"] if known else added.lastrowid or 0)
            db.execute("INSERT OR IGNORE INTO vote VALUES (?, ?, ?)", (id, voter, when))
        return id, known is None

    def vote(self, id: int, voter: str) -> bool:
        """False where this voter had voted."""
        with self.database.writing() as db:
            _request(db, id)
            return db.execute("INSERT OR IGNORE INTO vote VALUES (?, ?, ?)", (id, voter, now())).rowcount > 0

    def get(self, id: int) -> Request:
        with self.database.reading() as db:
            return _request(db, id)

    def shown_of(self, key: str) -> Shown | None:
        """Of the request with this question's key; None where nobody has asked it."""
        with self.database.reading() as db:
            row = db.execute("SELECT shown FROM request WHERE key = ?", (key,)).fetchone()
        return Shown(row["shown"]) if row else None

    def requests(self, what: Filter) -> list[Request]:
        """What runs and what will run first, in its order; then the rest, newest first."""
        where, values = _where(what)
        with self.database.reading() as db:
            rows = db.execute(
                f"SELECT * FROM ({_ROWS}) {where} ORDER BY {LIST_ORDER} LIMIT ? OFFSET ?",
                (*values, _limit(what.limit), what.offset),
            ).fetchall()
        return [_read(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Of shown requests, by state."""
        with self.database.reading() as db:
            rows = db.execute("SELECT state, count(*) FROM request WHERE shown = 'shown' GROUP BY state").fetchall()
        return {state: int(n) for state, n in rows}

    def waiting(self) -> int:
        """Requests and results that wait for the host or for their run."""
        with self.database.reading() as db:
            requests = db.execute(
                "SELECT count(*) FROM request WHERE shown = 'waiting' OR (shown = 'shown' AND state = 'queued')"
            ).fetchone()[0]
            return int(requests + db.execute("SELECT count(*) FROM result WHERE shown = 'waiting'").fetchone()[0])

    def events(self, id: int) -> list[Event]:
        with self.database.reading() as db:
            rows = db.execute("SELECT at, state, words FROM event WHERE request = ? ORDER BY id", (id,)).fetchall()
        return [Event(*row) for row in rows]

    def move(self, id: int, state: State, reason: str = "") -> None:
        """UsageError where the table of states forbids it."""
        with self.database.writing() as db:
            _move(db, id, state, reason)

    def predicted(self, id: int, found: Forecast, why_not: str) -> None:
        """With `why_not` that is all; else it is queued, too."""
        with self.database.writing() as db:
            _move(db, id, State.PREDICTED, why_not)
            text = msgspec.json.encode(found).decode()
            db.execute("UPDATE request SET forecast = ?, width = ? WHERE id = ?", (text, found.width, id))
            if not why_not:
                _move(db, id, State.QUEUED, "")

    def take(self) -> Request | None:
        """The next of the queue, now running; its attempt is counted before it is made."""
        with self.database.writing() as db:
            row = db.execute(
                f"SELECT * FROM ({_ROWS}) WHERE state = 'queued' AND shown = 'shown' ORDER BY {QUEUE_ORDER} LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            _move(db, row["id"], State.RUNNING, "")
            db.execute("UPDATE request SET attempts = attempts + 1 WHERE id = ?", (row["id"],))
            return _request(db, row["id"])

    def again(self, id: int, why: str, attempts: int) -> State:
        """A run that ended without a result: queued once more, or, after so many attempts, refused."""
        with self.database.writing() as db:
            made = _request(db, id).attempts
            state = State.QUEUED if made < attempts else State.REFUSED
            times = "1 attempt" if made == 1 else f"{made} attempts"
            _move(db, id, state, f"{why} ({times})")
            return state

    def retried(self, id: int) -> None:
        """By the host: its attempts count anew. UsageError for what is neither refused nor measured: a run in progress,
        above all, ends as it would have."""
        after = {State.REFUSED: State.ASKED, State.MEASURED: State.QUEUED}
        with self.database.writing() as db:
            before = _request(db, id).state
            if before not in after:
                raise UsageError(f"request {id} is {before}: only one that is refused or measured can be tried again")
            _move(db, id, after[before], "")
            db.execute("UPDATE request SET attempts = 0 WHERE id = ?", (id,))

    def show(self, table: str, id: int, shown: Shown) -> None:
        assert table in ("request", "result")
        with self.database.writing() as db:
            if not db.execute(f"UPDATE {table} SET shown = ? WHERE id = ?", (shown, id)).rowcount:
                raise UsageError(f"the board has no {table} {id}")

    # -- results
    def measured(self, id: int, digest: str, json_: bytes) -> int:
        """The result's id. Earlier results of the request stay."""
        with self.database.writing() as db:
            request = _request(db, id)
            _move(db, id, State.MEASURED, "")
            return _add_result(db, id, digest, Shown.SHOWN, request.model, request.quant, "", json_)

    def submit(self, digest: str, shown: Shown, model: str, quant: str, note: str, json_: bytes) -> tuple[int, bool]:
        """(id, whether it was new)"""
        with self.database.writing() as db:
            known = db.execute("SELECT id FROM result WHERE digest = ?", (digest,)).fetchone()
            if known:
                return int(known["id"]), False
            return _add_result(db, None, digest, shown, model, quant, note, json_), True

    def result(self, id: int) -> Kept:
        with self.database.reading() as db:
            row = db.execute("SELECT * FROM result WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise UsageError(f"the board has no result {id}")
        return _kept(row)

    def results(
        self,
        *,
        request: int | None = None,
        model: str = "",
        quant: str = "",
        elsewhere: bool = False,
        shown: tuple[Shown, ...] = (Shown.SHOWN,),
        limit: int | None = None,
    ) -> list[Kept]:
        """Newest first."""
        where, values = [f"shown IN ({', '.join('?' * len(shown))})"], list[object](shown)
        for clause, value in (("request = ?", request), ("model = ?", model), ("quant = ?", quant)):
            if value:
                where.append(clause)
                values.append(value)
        if elsewhere:
            where.append("request IS NULL")
        with self.database.reading() as db:
            rows = db.execute(
                f"SELECT * FROM result WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?", (*values, _limit(limit))
            ).fetchall()
        return [_kept(row) for row in rows]


def _move(db: sqlite3.Connection, id: int, state: State, reason: str) -> None:
    require_move(_request(db, id).state, state)
    db.execute("UPDATE request SET state = ?, reason = ?, changed_at = ? WHERE id = ?", (state, reason, now(), id))
    _note_event(db, id, state, reason)


def _note_event(db: sqlite3.Connection, id: int, state: State, words: str) -> None:
    db.execute("INSERT INTO event (request, at, state, words) VALUES (?, ?, ?, ?)", (id, now(), state, words))


def _request(db: sqlite3.Connection, id: int) -> Request:
    row = db.execute(f"{_ROWS} WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise UsageError(f"the board has no request {id}")
    return _read(row)


def _read(row: sqlite3.Row) -> Request:
    known = {name: row[name] for name in Request.__dataclass_fields__}
    forecast = msgspec.json.decode(row["forecast"], type=Forecast) if row["forecast"] else None
    ask = msgspec.json.decode(row["ask"], type=Ask)
    return Request(
        **{**known, "ask": ask, "forecast": forecast, "state": State(row["state"]), "shown": Shown(row["shown"])}
    )


def _add_result(
    db: sqlite3.Connection,
    request: int | None,
    digest: str,
    shown: Shown,
    model: str,
    quant: str,
    note: str,
    json_: bytes,
) -> int:
    added = db.execute(
        "INSERT INTO result (request, digest, shown, at, model, quant, note, json) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (request, digest, shown, now(), model, quant, note, json_),
    )
    return int(added.lastrowid or 0)


def _kept(row: sqlite3.Row) -> Kept:
    known = {name: row[name] for name in Kept.__dataclass_fields__}
    return Kept(**{**known, "shown": Shown(row["shown"])})


def _limit(most: int | None) -> int:
    return -1 if most is None else most  # as SQLite writes "all"


def _where(what: Filter) -> tuple[str, list[object]]:
    clauses = [f"shown IN ({', '.join('?' * len(what.shown))})"]
    values = list[object](what.shown)
    if what.states:
        clauses.append(f"state IN ({', '.join('?' * len(what.states))})")
        values += what.states
    for word in what.words.split()[:8]:
        clauses.append("instr(lower(model || ' ' || quant || ' ' || hardware), ?)")
        values.append(word.lower())
    return f"WHERE {' AND '.join(clauses)}", values
