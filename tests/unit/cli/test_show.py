"""Progress on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from motley.cli import show


def said(console: Console, quiet_s: float, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(show, "QUIET_S", quiet_s)
    with show.shown(console) as progress:
        for i in range(3):
            progress(f"loading: {i} MB", i / 9)
        progress("tg64: sample 1 of 5", 0.5)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_a_line_for_each_new_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(Console(file=io.StringIO()), 0.0, monkeypatch) == "loading\ntg64\n"


def test_nothing_is_said_in_the_first_second(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (False, True):
        assert said(Console(file=io.StringIO(), force_terminal=terminal), 60.0, monkeypatch) == ""


def test_a_terminal_gets_a_bar_with_the_newest_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tg64: sample 1 of 5" in said(Console(file=io.StringIO(), force_terminal=True), 0.0, monkeypatch)
