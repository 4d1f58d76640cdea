"""`motley board ACTION`: what a host sees in a terminal."""

from pathlib import Path

import pytest

from board_fakes import board, sample
from motley.bench.result import to_json
from motley.board.ask import Ask
from motley.board.board import Board
from motley.cli.main import main


@pytest.fixture
def there(tmp_path: Path) -> Board:
    return board(tmp_path / "board")


def motley(there: Board, *words: str) -> None:
    assert main(["board", *words, "--board", str(there.folder)]) == 0


def test_a_hidden_measurement_is_no_longer_listed(there: Board, capsys: pytest.CaptureFixture[str]) -> None:
    id, _ = there.ask(Ask(pp=128, tg=64))
    there.store.take()
    result = there.store.measured(id, "digest", to_json(sample()))
    for words in (("show", str(id)), ("hide", f"r{result}"), ("show", str(id)), ("list",), ("ask", "--pp", "128")):
        motley(there, *words)
    shown, hidden = capsys.readouterr().out.split(f"r{result}: hidden")
    assert "  measured: " in shown
    assert "  measured: " not in hidden
    motley(there, "retry", str(id))


@pytest.mark.parametrize(("words", "field"), [(("--batch", "5000"), "batch"), (("--note", "\u0958" * 600), "note")])
def test_a_terminal_is_no_way_around_the_limits(
    there: Board, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], field: str
) -> None:
    assert main(["board", "ask", *words, "--board", str(there.folder)]) == 2
    assert f"{field}: Expected " in capsys.readouterr().err
    assert Board(there.folder).store.counts() == {}


@pytest.mark.parametrize("title", ["x" * 81, "\u0958" * 50, " \u200b", '"' + "x" * 80])
def test_a_title_that_could_not_be_read_again_makes_no_board(
    there: Board, capsys: pytest.CaptureFixture[str], tmp_path: Path, title: str
) -> None:
    words = ["board", "init", "--lab", str(there.folder / "lab.toml"), "--board", str(tmp_path / "new"), "--title"]
    assert main([*words, title]) == 2
    assert "--title: give it 1 to 80 characters" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main([*words, 'my "own" \\ x' + "y" * 60]) == 0
    assert Board(tmp_path / "new").settings.title.startswith("my 'own' ")
