"""What a user reads when something is wrong: one sentence, a remedy, exit status 2."""

from pathlib import Path

import pytest

from motley.cli.main import COMMANDS, build_parser, main
from motley.cli.options import memory

LAB = "tests/unit/cli"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([name, "--help"])
    assert ended.value.code == 0
    assert "usage: motley " + name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bench", "nowhere.gguf"], "there is no file nowhere.gguf"),
        (["bench", "--shape", "olmo-1b-7b"], "olmoe-1b-7b"),
        (["bench", "--shape", "olmoe-1b-7b", "--quant", "q3_x"], "q4_k"),
        (["bench", "--pp", "0", "--tg", "0"], "nothing to measure"),
        (["plan", "olmoe-1b-7b", "--lab", "nowhere.toml"], "cannot read the lab file nowhere.toml"),
        (["report", "nowhere.json"], "nowhere.json"),
        (["report", "99999999"], "99999999"),
        (["synth", "--shape", "olmoe-1b-7b", "--layers", "99", "-o", "x.gguf"], "16 layers"),
    ],
)
def test_wrong_use_is_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOTLEY_DATA", str(tmp_path))
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"motley {words[0]}: ")
    assert sentence in said[0]


@pytest.mark.parametrize("words", [["bench", "--pp", "x"], ["node", "--memory", "9Q"], ["nonsense"], []])
def test_wrong_arguments_exit_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("text", "n_bytes"), [("8GB", 8 * 10**9), ("512MiB", 512 << 20), ("6e9", 6 * 10**9), ("1.5 g", 15 * 10**8)]
)
def test_memory_sizes(text: str, n_bytes: int) -> None:
    assert memory(text) == n_bytes
