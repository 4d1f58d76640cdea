"""What a user reads when something is wrong: one sentence, a remedy, exit status 2."""

import socket
from pathlib import Path

import pytest

from motley.cli.main import COMMANDS, build_parser, main
from motley.cli.options import memory
from motley.lab.machine import Machine
from tiny_models import write_tiny

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
        (["bench", "--shape", "olmoe-1b-7b", "--quant", "q3_x"], "iq3_xs"),
        (["bench", "--pp", "0", "--tg", "0"], "nothing to measure"),
        (["plan", "olmoe-1b-7b", "--lab", "nowhere.toml"], "cannot read the lab file nowhere.toml"),
        (["report", "nowhere.json"], "nowhere.json"),
        (["serve", "nowhere.gguf"], "there is no file nowhere.gguf"),
        (["serve", "--host", "0.0.0.0"], "give an --api-key"),
        (["serve", "--api-key", "k\u00e9y"], "can't be sent in a header"),
        (["serve", "--cluster", "nobody"], "`motley cluster init` makes one"),
        (["serve", "--lab", "nowhere.toml"], "name one that `motley probe -o FILE` wrote"),
        (["serve", "--lab", "nowhere.toml", "--threads", "2"], "--threads with --lab: the file says it"),
        (["bench", "--lab", "nowhere.toml", "--threads", "2"], "--threads with --lab: the file says it"),
        (["eval", "perplexity", "--lab", "nowhere.toml", "--device", "cpu"], "--device with --lab: the file says"),
        (["serve", "--board", "nowhere"], "there is no board at nowhere: `motley board init` makes one"),
        (["serve", "--context", "9999999"], "exceeds the 1024 that Motley 8M was trained for"),
        (["serve", "--host", "nowhere.invalid", "--api-key", "k"], "there is no address nowhere.invalid"),
        (["board", "run", "--board", "nowhere"], "there is no board at nowhere: `motley board init` makes one"),
        (["report", "99999999"], "99999999"),
        (["run", "--memory", "4GB", "-p", "x"], "--memory goes with --cluster"),
        (["bench", "--trusted-lan"], "--trusted-lan goes with --cluster"),
        (["serve", "--grow"], "--grow goes with --cluster"),
        (["board", "init", "--trusted-lan", "--board", "none"], "--trusted-lan goes with --cluster"),
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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bench", "--pp", "x"], "'x' must be a number or a list such as 0,4096"),
        (["node", "--memory", "9Q"], "'9Q' must be a size"),
        (["nonsense"], "nonsense"),
        ([], "COMMAND"),
        (["serve", "--port", "http"], "'http' must be a whole number"),
        (["serve", "--port", "99999"], "99999 is no port"),
        (["serve", "--slots", "0"], "0 must be at least 1"),
    ],
)
def test_wrong_arguments_exit_2(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    [said] = capsys.readouterr().err.splitlines()
    assert sentence in said
    assert "--help` shows what there is" in said


def test_a_taken_port_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("uvicorn", reason="serving needs the extra [serve]")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1 is taken: end what listens there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "n_bytes"), [("8GB", 8 * 10**9), ("512MiB", 512 << 20), ("6e9", 6 * 10**9), ("1.5 g", 15 * 10**8)]
)
def test_memory_sizes(text: str, n_bytes: int) -> None:
    assert memory(text) == n_bytes


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "--json"],
        ["bench", "--html"],
        ["plan", "olmoe-1b-7b", "--lab", "x.toml", "--json"],
        ["probe", "-o"],
        ["synth", "--shape", "olmoe-1b-7b", "-o"],
        ["report", "1", "--html"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(("place", "sentence"), [("", "is a folder"), ("nowhere/x", "there is no folder")])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    words: list[str], place: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, str(tmp_path / place)])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_errors_of_the_system_are_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, sentence in [
        (OSError(28, "No space left on device", "x.gguf"), "No space left"),
        (MemoryError(), "memory"),
    ]:

        def run(args: object, error: BaseException = error) -> int:
            raise error

        monkeypatch.setattr("motley.cli.report.run", run)
        assert main(["report"]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("context", [10**14, 10**30])
def test_an_absurd_context_is_a_sentence(context: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(write_tiny(tmp_path, "olmoe", "q8_0"))
    assert main(["run", model, "-p", "hi", "--context", str(context)]) == 2
    assert "the 256 that" in capsys.readouterr().err
    assert main(["run", model, "-p", "hi", "-n", "300"]) == 2
    assert "the 256 that" in capsys.readouterr().err


def test_an_interrupt_during_the_imports_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("motley.cli.main.command", interrupted)
    assert main(["report"]) == 130
    assert capsys.readouterr().err == "motley: interrupted\n"


@pytest.mark.parametrize(
    ("words", "how"),
    [
        ([], "kept as int8 with their exact values, 2.6 times the file's bytes"),
        (["--no-repack"], "unpacked from the file at every use, which makes them several times slower"),
    ],
)
def test_a_format_without_kernels_is_run_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], how: str
) -> None:
    assert main(["run", str(write_tiny(tmp_path, "olmoe", "iq3_s")), "-p", "hi", "-n", "4", *words]) == 0
    assert f"IQ3_S has no kernel of its own: its weights are {how}\n" in capsys.readouterr().err


def test_weights_stay_in_the_file_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write_tiny(tmp_path, "olmoe", "q4_k"))
    said = {}
    for words in ([], ["--no-repack"]):
        assert main(["run", model, "-p", "hi", "-n", "4", *words]) == 0
        said[len(words)] = capsys.readouterr()
    monkeypatch.setattr("motley.cli.run.this_machine", lambda: Machine("host", "cpu", 1, 1 << 30, 1 << 20))
    assert main(["run", model, "-p", "hi", "-n", "4"]) == 0
    short = capsys.readouterr()
    assert "its weights stay in the mapped file" in short.err
    assert "mapped file" not in said[0].err
    assert short.out == said[0].out == said[1].out
