"""The results store: what goes in comes out, several writers, old and foreign files."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench_sample import sample_result
from motley.bench.store import MIGRATIONS, Store, data_folder
from motley.errors import MotleyError, UsageError


def test_round_trip_and_order(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "results.sqlite")
    ids = [store.save(sample_result(seed)) for seed in range(3)]
    assert [row.id for row in store.rows()] == ids[::-1]
    assert store.get(ids[1]) == sample_result(1)
    newest = store.rows(limit=1)[0]
    assert (newest.model, newest.quant, newest.devices, newest.check_passed) == ("motley-tales-10m", "q8_0", 2, True)
    assert newest.tg_tokens_per_s == sample_result(2).results[2].tokens_per_s.median
    assert store.rows(model="another") == []


def test_an_unknown_id_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no result 7"):
        Store(tmp_path / "r.sqlite").get(7)


def test_many_writers(tmp_path: Path) -> None:
    store = Store(tmp_path / "r.sqlite")
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda seed: store.save(sample_result(seed)), range(40)))
    assert len(set(ids)) == 40
    assert len(store.rows(limit=100)) == 40


def test_schema_version_is_recorded_and_newer_ones_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "r.sqlite")
    store.save(sample_result())
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(MotleyError, match="newer Motley"):
        store.rows()


def test_a_foreign_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at" * 50)
    with pytest.raises(MotleyError, match="can't be used"):
        Store(path).rows()


def test_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOTLEY_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    assert Store().path == tmp_path / "results.sqlite"
    monkeypatch.delenv("MOTLEY_DATA")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert data_folder() == tmp_path / "xdg" / "motley"
    monkeypatch.setattr("sys.platform", "darwin")
    assert data_folder() == Path.home() / "Library" / "Application Support" / "motley"
