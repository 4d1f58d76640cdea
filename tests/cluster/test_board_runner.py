"""The runner with real processes: killed in the middle, interrupted, out of time, failing; nothing is left over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from board_fakes import board, result_json
from motley.board.ask import Ask
from motley.board.board import Board
from motley.board.question import Understood
from motley.board.runner import Runner
from motley.board.states import State
from motley.board.store import Request
from motley.cli.main import build_parser
from motley.errors import UsageError

# A runner whose bench is another program: what it does is the test's, all around it is the real thing.
SCRIPT = """
import sys
from pathlib import Path
from motley.board.board import Board
from motley.board.runner import Runner
from motley.cli import main

class Short(Runner):
    def command(self, asked, request):
        return ["--version"]
    def _program(self):
        return [sys.executable, "-c", {program!r}]

def work():
    Short(Board(Path({folder!r})), lambda words: print(words, flush=True)).work(watch=False)
    return 0

import signal
signal.signal(signal.SIGTERM, main._interrupt)
try:
    work()
except KeyboardInterrupt:
    sys.exit(130)
"""

SLEEPS = "import os, pathlib, time; pathlib.Path('runs/pid').write_text(str(os.getpid())); time.sleep(600)"


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def bench_of(there: Board) -> int:
    """The process of the bench that runs now."""
    file = there.folder / "runs" / "pid"
    wait_for(lambda: file.exists() and file.read_text())
    pid = int(file.read_text())
    file.unlink()
    return pid


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def started(there: Board, program: str = SLEEPS) -> "subprocess.Popen[str]":
    text = SCRIPT.format(program=program, folder=str(there.folder))
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)


class Fake(Runner):
    """In this process; `program` is what runs instead of the bench."""

    program = ""

    def _program(self) -> list[str]:
        return [sys.executable, "-c", self.program]

    def command(self, asked: Understood, request: Request) -> list[str]:
        return [str(request.id)]


def ran(there: Board, program: str) -> list[str]:
    said: list[str] = []
    runner = Fake(there, said.append)
    runner.program = program
    runner.work(watch=False)
    return said


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """SIGKILL to the runner: the bench ends, too; the next runner queues the request again. When it ends so once more,
    it is refused, and says why."""
    there = board(tmp_path / "board")
    id, _ = there.ask(Ask(pp=8, tg=0))
    runner = started(there)
    bench = bench_of(there)
    found = there.store.get(id)
    assert (found.state, found.attempts, alive(bench)) == (State.RUNNING, 1, True)
    runner.send_signal(signal.SIGKILL)
    runner.communicate()
    wait_for(lambda: not alive(bench))
    assert there.store.get(id).state is State.RUNNING  # nobody was there to say otherwise
    said: list[str] = []
    Fake(there, said.append).recover()
    assert said == ["request 1 was left running: queued"]
    there.store.take()
    Fake(there, said.append).recover()
    found = there.store.get(id)
    assert (found.state, found.reason) == (State.REFUSED, "the runner ended in the middle (2 attempts)")


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C costs the request no attempt that counts: it is queued again at once, and nothing runs on."""
    there = board(tmp_path / "board", "[limits]\nattempts = 1")
    id, _ = there.ask(Ask(pp=8, tg=0))
    runner = started(there)
    bench = bench_of(there)
    runner.send_signal(signal.SIGINT)
    runner.communicate(timeout=30)
    assert runner.returncode == 130
    assert not alive(bench)
    assert there.store.get(id).state is State.QUEUED
    assert "refused" not in {event.state for event in there.store.events(id)}


def test_out_of_time(tmp_path: Path) -> None:
    there = board(tmp_path / "board", "[limits]\nminutes = 0.005")
    id, _ = there.ask(Ask(pp=8, tg=0))
    ran(there, "import time; time.sleep(60)")
    found = there.store.get(id)
    assert (found.state, found.reason) == (State.REFUSED, "it did not end within 0.005 minutes, this host's limit")


@pytest.mark.parametrize(
    ("program", "attempts", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", 2, "it ended with status 137 and no result (2 attempts)"),
        (
            "print('motley bench: /home/me/x.gguf is truncated'); raise SystemExit(2)",
            1,
            "x.gguf is truncated (1 attempt)",
        ),
        ("import sys; open(f'runs/{sys.argv[1]}.json', 'w').write('nonsense')", 2, "1.json: not JSON"),
    ],
)
def test_without_a_result(tmp_path: Path, program: str, attempts: int, reason: str) -> None:
    there = board(tmp_path / "board")
    id, _ = there.ask(Ask(pp=8, tg=0))
    ran(there, program)
    found = there.store.get(id)
    assert (found.state, found.attempts) == (State.REFUSED, attempts)
    assert found.reason.startswith(reason)
    assert "/home" not in found.reason


def test_works_through_the_queue_in_its_order(tmp_path: Path) -> None:
    """And keeps each result without the host's folders."""
    there = board(tmp_path / "board")
    ids = [there.ask(Ask(pp=n, tg=0))[0] for n in (1, 2, 3)]
    there.store.vote(ids[2], "a")
    result = tmp_path / "result.json"
    result.write_bytes(result_json(command="motley bench /secret/folder/model.gguf --lab lab.toml"))
    said = ran(there, f"import shutil, sys; shutil.copy({str(result)!r}, f'runs/{{sys.argv[1]}}.json')")
    assert [line.split(":")[0] for line in said if "attempt" in line] == [f"request {ids[i]}" for i in (2, 0, 1)]
    assert {there.store.get(id).state for id in ids} == {State.MEASURED}
    [kept] = there.store.results(request=ids[0])
    assert b"motley bench model.gguf --lab lab.toml" in kept.json
    assert b"secret" not in kept.json
    there.retry(ids[0])
    assert there.store.get(ids[0]).state is State.QUEUED


def test_a_measurement_of_other_nodes_is_not_taken(tmp_path: Path) -> None:
    """Of a cluster that somebody left or joined since its lab was measured: the prediction was of that lab.
    The request waits until the host mends it."""
    there = board(tmp_path / "board", 'cluster = "motley"')
    id, _ = there.ask(Ask(pp=8, tg=0))
    result = tmp_path / "result.json"
    result.write_bytes(result_json())
    with pytest.raises(UsageError, match="the cluster is not the one that was measured"):
        ran(there, f"import shutil, sys; shutil.copy({str(result)!r}, f'runs/{{sys.argv[1]}}.json')")
    assert there.store.get(id).state is State.QUEUED
    assert not there.store.results(request=id)


def test_on_a_cluster_this_machine_gives_what_its_lab_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = board(tmp_path / "board", 'cluster = "lan"\ntrusted_lan = true')
    (there.folder / "runs").mkdir()
    monkeypatch.chdir(there.folder)
    asked, request = there.understand(Ask()), there.store.get(there.ask(Ask())[0])
    args = build_parser(only="bench").parse_args(Runner(there, print).command(asked, request))
    assert (args.cluster, args.memory, args.threads, args.trusted_lan) == ("lan", 8_000_000_000, 1, True)
    assert args.lab is None


def test_one_runner_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motley.board.leash.GRACE_S", 0.1)
    there = board(tmp_path / "board")
    runner = Fake(there, print)
    with runner._alone(), pytest.raises(Exception, match="another `motley board run`"):
        Fake(there, print).once()


ALLOWED = "hf:someone/OLMoE-1B-7B-GGUF:OLMoE-1B-7B-Q4_K_M.gguf"


@pytest.mark.parametrize(
    ("ask", "offline"),
    [(Ask(), True), (Ask(model="olmoe-1b-7b", quant="q8_0"), True), (Ask(model="olmoe-1b-7b", quant="q4_k_m"), False)],
)
def test_the_command_is_benchs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask, offline: bool) -> None:
    """It parses, names the host's lab, and reaches the hub only for an allowed download."""
    there = board(tmp_path / "board", f'[models]\ndownloads = ["{ALLOWED}"]')
    (there.folder / "runs").mkdir()
    monkeypatch.chdir(there.folder)
    runner, asked = Runner(there, print), there.understand(ask)
    request = there.store.get(there.ask(ask)[0])
    args = build_parser(only="bench").parse_args(runner.command(asked, request))
    assert (args.pp, args.tg, args.lab, args.json) == ([512], [64], Path("lab.toml"), Path("runs/1.json"))
    assert (runner._environment(asked).get("HF_HUB_OFFLINE") == "1") is offline
    assert str(args.model or "").startswith("hf:") is not offline
