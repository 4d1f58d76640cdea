"""Store: migrations, states, duplicates, the queue's order."""

import itertools
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec import structs

from board_fakes import board, sample
from motley.bench import facts
from motley.bench.result import to_json
from motley.board import database
from motley.board.ask import Ask
from motley.board.board import HOST, Board
from motley.board.database import MIGRATIONS, Database
from motley.board.states import MAY_FOLLOW, Shown, State, require_move
from motley.board.store import Filter
from motley.board.tables import csv_of
from motley.board.views import flags, request_view
from motley.errors import MotleyError, UsageError
from motley.lab.placement import LayerPlacement, Placement


@pytest.fixture
def there(tmp_path: Path) -> Board:
    return board(tmp_path / "board")


def version(path: Path) -> int:
    return int(sqlite3.connect(path).execute("PRAGMA user_version").fetchone()[0])


def test_a_new_file_has_the_newest_schema(tmp_path: Path) -> None:
    with Database(tmp_path / "new" / "b.sqlite").reading() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert version(tmp_path / "new" / "b.sqlite") == len(MIGRATIONS)


def test_migrations_run_once_each_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.sqlite"
    with Database(path).writing() as db:
        db.execute("INSERT INTO meta VALUES ('kept', 'yes')")
    later = (*MIGRATIONS, "ALTER TABLE request ADD COLUMN extra TEXT", "UPDATE meta SET value = value || '!'")
    monkeypatch.setattr(database, "MIGRATIONS", later)
    for _ in range(2):
        with Database(path).reading() as db:
            assert db.execute("SELECT value FROM meta WHERE name = 'kept'").fetchone()[0] == "yes!"
            assert db.execute("SELECT extra FROM request").fetchall() == []
    assert version(path) == len(later)


def test_a_file_of_the_first_schema_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests and results of before are read, and flags that were stored make no difference."""
    monkeypatch.setattr(database, "MIGRATIONS", MIGRATIONS[:1])
    old = Database(tmp_path / "board" / "board.sqlite")
    values = (
        "1, 'k', '{}', 'motley-8m', 'q8_0', 8, 4, 0, 1, '', '', 'measured', 'shown', '', NULL, 0, 1, 'then', 'then'"
    )
    with old.writing() as db:
        db.execute(f"INSERT INTO request VALUES ({values})")
        kept = (1, 1, "d", "shown", "then", "motley-8m", "q8_0", "", '["odd"]', to_json(sample()))
        db.execute(f"INSERT INTO result VALUES ({', '.join('?' * len(kept))})", kept)
    monkeypatch.undo()
    there = board(tmp_path / "board")
    view = request_view(there, there.store.get(1))
    assert (view.request.weights, view.result) == ("q8_0", sample())
    assert view.kept
    assert flags(view.kept.json) == ()


def test_a_broken_migration_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.sqlite"
    with Database(path).reading():
        pass
    monkeypatch.setattr(database, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE half (x); SELECT nonsense"))
    with pytest.raises(MotleyError, match="can't be used"), Database(path).reading():
        pass
    db = sqlite3.connect(path)
    assert version(path) == len(MIGRATIONS)
    assert db.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall() == []


def test_a_file_of_a_newer_motley_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.sqlite"
    sqlite3.connect(path).execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(MotleyError, match="newer Motley"), Database(path).reading():
        pass


def test_the_table_of_states() -> None:
    """Each pair is allowed or refused as the table says, and every state can be reached from the first."""
    for before, after in itertools.product(State, State):
        if after in MAY_FOLLOW[before]:
            require_move(before, after)
        else:
            with pytest.raises(UsageError, match=f"{before} can't become {after}"):
                require_move(before, after)
    reached, todo = set[State](), [State.ASKED]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += MAY_FOLLOW[state]
    assert reached == set(State)


def test_a_refused_move_changes_nothing(there: Board) -> None:
    id, _ = there.ask(Ask(pp=8, tg=4))
    before = (there.store.get(id), there.store.events(id))
    with pytest.raises(UsageError, match="queued can't become measured"):
        there.store.measured(id, "digest", to_json(sample()))
    assert (there.store.get(id), there.store.events(id)) == before
    assert there.store.results(request=id) == []


def test_from_asked_to_measured(there: Board) -> None:
    id, new = there.ask(Ask(pp=8, tg=4))
    assert new
    assert there.store.get(id).state is State.QUEUED
    taken = there.store.take()
    assert taken
    assert (taken.id, taken.state, taken.attempts) == (id, State.RUNNING, 1)
    assert there.store.take() is None
    there.store.measured(id, "digest", to_json(sample()))
    assert [e.state for e in there.store.events(id)] == ["asked", "predicted", "queued", "running", "measured"]
    [kept] = there.store.results(request=id)
    assert kept.model == "motley-8m"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Ask(model="olmoe-1b-7b"), Ask(model="allenai/OLMoE-1B-7B-0924-Instruct", quant="Q4_K")),
        (Ask(), Ask(model="motley-8m", quant="q8_0")),
        (Ask(hardware="rtx 5090"), Ask(hardware="NVIDIA GeForce RTX-5090")),
        (Ask(note="first"), Ask(note="second", hardware="here")),
    ],
)
def test_equal_requests_are_one_with_two_votes(there: Board, first: Ask, second: Ask) -> None:
    id, _ = there.ask(first, "a")
    assert there.ask(second, "b") == (id, False)
    assert there.ask(second, "b") == (id, False)
    found = there.store.get(id)
    assert (found.votes, found.note) == (2, first.note)


@pytest.mark.parametrize("other", [Ask(pp=511), Ask(depth=1), Ask(batch=2), Ask(hardware="rtx-5090")])
def test_different_requests_stay_apart(there: Board, other: Ask) -> None:
    assert there.ask(Ask())[0] != there.ask(other)[0]


def test_a_voter_has_one_vote(there: Board) -> None:
    id, _ = there.ask(Ask(), "a")
    assert [there.store.vote(id, v) for v in ("a", "b", "b", HOST)] == [False, True, False, True]
    assert there.store.get(id).votes == 3
    with pytest.raises(UsageError, match="no request 99"):
        there.store.vote(99, "a")


def test_the_queue_goes_by_votes_times_width_then_age(there: Board) -> None:
    """Against the obvious: all in a list, sorted."""
    ids = [there.ask(Ask(pp=n, tg=0))[0] for n in range(1, 7)]
    widths, votes = (0.3, 0.3, 0.9, 0.31, 0.3, 0.05), (1, 3, 1, 1, 1, 9)
    with there.store.database.writing() as db:
        for id, width in zip(ids, widths):
            db.execute("UPDATE request SET width = ? WHERE id = ?", (width, id))
    for id, n in zip(ids, votes):
        for voter in range(n - 1):
            there.store.vote(id, f"v{voter}")
    wanted = [id for _, id in sorted((-v * w, id) for id, v, w in zip(ids, votes, widths))]
    assert [r.id for r in there.store.requests(Filter())] == wanted
    taken = []
    while (request := there.store.take()) is not None:
        taken.append(request.id)
    assert taken == wanted


def test_what_waits_or_is_hidden_does_not_run(tmp_path: Path) -> None:
    there = board(tmp_path / "b", "")
    id, _ = there.ask(Ask(), "visitor")
    assert there.store.get(id).shown is Shown.WAITING
    assert there.store.take() is None
    there.store.show("request", id, Shown.HIDDEN)
    assert there.store.take() is None
    assert there.store.requests(Filter()) == []
    there.store.show("request", id, Shown.SHOWN)
    assert there.store.take() is not None


def test_lists_are_whole_unless_a_limit_is_asked_for(there: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what a start of the runner or the server goes through, and the export."""
    n = 10_050
    id, _ = there.ask(Ask(tg=0))
    columns = "ask, model, quant, weights, pp, tg, depth, batch, hardware, note, state, shown, asked_at, changed_at"
    with there.store.database.writing() as db:
        numbers = f"WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {n})"
        db.execute(
            f"{numbers} INSERT INTO request (key, {columns}) SELECT i, {columns} FROM n, request WHERE id = {id}"
        )
    assert len(there.store.requests(Filter())) == n
    assert len(there.store.requests(Filter(limit=7))) == 7
    view = request_view(there, there.store.get(id))  # a millisecond each: of one only
    monkeypatch.setattr("motley.board.views.request_view", lambda board, request: view)
    assert len(csv_of(there).splitlines()) == 1 + n


def test_what_the_host_hid_is_not_taken_again(there: Board) -> None:
    """Rather than leading to a page that is not there."""
    id, _ = there.ask(Ask(), "a")
    result, _ = there.submit(to_json(sample()), "", "a")
    there.store.show("request", id, Shown.HIDDEN)
    there.store.show("result", result, Shown.HIDDEN)
    with pytest.raises(UsageError, match="the host does not want this request"):
        there.ask(Ask(), "b")
    with pytest.raises(UsageError, match="the host does not want this result"):
        there.submit(to_json(sample()), "", "b")
    assert there.store.get(id).votes == 1
    assert there.ask(Ask()) == (id, False)
    assert there.submit(to_json(sample())) == (result, False)


def test_attempts_end(there: Board) -> None:
    id, _ = there.ask(Ask())
    there.store.take()
    assert there.store.again(id, "it was killed", attempts=2) is State.QUEUED
    there.store.take()
    assert there.store.again(id, "it was killed", attempts=2) is State.REFUSED
    assert there.store.get(id).reason == "it was killed (2 attempts)"
    there.retry(id)
    found = there.store.get(id)
    assert (found.state, found.attempts, found.reason) == (State.QUEUED, 0, "")


def test_only_what_is_refused_or_measured_is_tried_again(there: Board) -> None:
    """A run in progress ends as it would have, and its result is kept."""
    elsewhere, _ = there.ask(Ask(model="olmoe-1b-7b", hardware="rtx-5090"))
    id, _ = there.ask(Ask(pp=8, tg=4))
    for n, state in ((elsewhere, State.PREDICTED), (id, State.QUEUED)):
        with pytest.raises(UsageError, match=f"request {n} is {state}: only one that is refused or measured"):
            there.retry(n)
    there.store.take()
    with pytest.raises(UsageError, match="is running"):
        there.retry(id)
    there.store.measured(id, "digest", to_json(sample()))
    there.retry(id)
    assert there.store.get(id).state is State.QUEUED


def test_two_runners_never_take_the_same(there: Board) -> None:
    ids = [there.ask(Ask(pp=n, tg=0))[0] for n in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: there.store.take(), range(8)))
    assert sorted(r.id for r in taken if r) == ids


def test_a_process_that_ends_while_predicting_leaves_nothing_undone(there: Board) -> None:
    ask = Ask()
    id, _ = there.store.file(there.understand(ask), ask, Shown.SHOWN, "a")
    assert there.store.get(id).state is State.ASKED
    there.catch_up()
    assert there.store.get(id).state is State.QUEUED


@pytest.mark.parametrize(
    "ask", [Ask(model="olmoe-1b-7b", quant="q4_k_m"), Ask(model="qwen3-0.6b", quant="q4_k_m"), Ask()]
)
def test_others_results_of_the_same_weights_stand_beside_a_request(there: Board, ask: Ask) -> None:
    """Whatever mix it was asked for by, with experts or dense: a result says the quantisation of most bytes."""
    id, _ = there.ask(ask)
    shape = there.understand(ask).shape
    layers = (LayerPlacement("small", ("big",) * shape.n_experts),) * shape.n_layers
    theirs = structs.replace(sample(), model=facts.model(shape), placement=Placement(layers), routes=None)
    result, _ = there.submit(to_json(theirs))
    assert [kept.id for kept in request_view(there, there.store.get(id)).elsewhere] == [result]


def test_submitted_results_are_kept_once(there: Board) -> None:
    data = to_json(sample())
    id, new = there.submit(data, "mine", "a")
    assert new
    assert there.submit(data, "again", "b") == (id, False)
    assert there.store.result(id).note == "mine"
    assert there.store.results(elsewhere=True)[0].request is None
