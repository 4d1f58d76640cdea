"""What `motley bench` and `motley report` say about arguments that don't go together, before any work is done."""

from pathlib import Path

import pytest

from motley.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "none.gguf", "--suite", "quick", "--pp", "8"], "leave --pp out"),
        (["bench", "none.gguf", "--suite", "brisk"], "concurrency, moe-depth"),
        (["bench", "none.gguf", "--resume"], "--suite"),
        (["bench", "none.gguf", "--model", "x"], "--endpoint"),
        (["bench", "none.gguf", "--endpoint", "http://h"], "leave FILE out"),
        (["bench", "--endpoint", "http://h", "--step-tokens", "64"], "leave --step-tokens out"),
        (["bench", "--endpoint", "http://127.0.0.1:9", "--pp", "8"], "does not answer"),
        (["bench", "--endpoint", "http://h", "--api-key-env", "NOT_SET"], "NOT_SET"),
        (["report", "--markdown"], "--markdown takes one result"),
    ],
)
def test_wrong_use_is_one_sentence_and_status_2(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MOTLEY_DATA", str(tmp_path))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
