"""From nothing to a model on three joined nodes, by the commands that a person types. The machines are processes here,
each with a folder of its own; the first has an address of its own on loopback, for the fixed ports."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.answering import a_node_of
from cluster.machines import Machines, await_words
from motley.board.board import Board
from motley.board.states import State
from motley.cluster.access import Access
from motley.cluster.identity import Identity
from motley.cluster.members import expel
from motley.cluster.neighbour import possible

HOST = f"127.77.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"
HEAD_MEMORY, NODE_MEMORY = (
    "112MB",
    "106MB",
)  # whatever they measure: any two can't hold the bundled model, all three can

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    found = Machines(tmp_path_factory.mktemp("machines"))
    made = found.say("a", "cluster", "init", "--name", "a", "--host", HOST)
    assert made.returncode == 0, made.stderr
    token = re.search(r"motley1-\S+", made.stdout)
    assert token
    found.start("a", "--threads", "1")
    await_words(found, "a", "listens on")
    for name in ("b", "c"):
        found.start(name, "--threads", "1", "--memory", NODE_MEMORY, "--name", name, "--join", token[0])
    for name in ("b", "c"):
        await_words(found, name, "listens on")
    yield found
    for process in found.nodes.values():
        process.send_signal(signal.SIGTERM)
    for name, process in found.nodes.items():
        assert process.wait(10) == 0, found.told(name)


def test_all_see_each_other(machines: Machines, tmp_path: Path) -> None:
    for machine in ("a", "b", "c"):
        seen = machines.say(machine, "nodes", "--json", str(tmp_path / "nodes.json"))
        assert seen.returncode == 0, seen.stderr
        there = json.loads((tmp_path / "nodes.json").read_text())
        assert sorted(there) == ["a", "b", "c"]
        assert all(node["encrypted"] for node in there.values())


def test_a_model_on_all_of_them_answers_as_on_one(machines: Machines, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    sizes = ("--pp", "32", "--tg", "16", "--repeat", "1", "--memory", HEAD_MEMORY, "--threads", "1")
    ran = machines.say("a", "bench", "--cluster", *sizes, "--json", str(out))
    assert ran.returncode == 0, ran.stderr
    result = json.loads(out.read_text())
    used = {d for layer in result["placement"]["layers"] for d in layer["experts"]}
    assert used == {"a", "b", "c"}
    assert result["check"]["max_abs_logit_diff"] == 0
    assert {link["transport"] for link in result["lab"]["links"]} == {"local" if possible() else "tcp+tls"}


def test_a_board_runs_on_all_of_them(machines: Machines, tmp_path: Path) -> None:
    """Its figures, its prediction and its measurement are the cluster's."""
    folder = tmp_path / "board"

    def board(action: str, *words: str) -> str:
        ran = machines.say("a", "board", action, *words, "--board", str(folder))
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    board("init", "--cluster", "--memory", HEAD_MEMORY)
    settings = (folder / "board.toml").read_text()
    assert 'cluster = "motley"' in settings
    (folder / "board.toml").write_text(settings.replace("repeat = 5", "repeat = 1"))
    assert "queued" in board("ask", "--pp", "8", "--tg", "4")
    board("run", "--once")
    store = Board(folder).store
    assert store.get(1).state is State.MEASURED, store.get(1).reason
    [kept] = store.results(request=1)
    result = json.loads(kept.json)
    assert {d for layer in result["placement"]["layers"] for d in layer["experts"]} == {"a", "b", "c"}
    assert result["lab"]["devices"][0]["memory_bytes"] == 112_000_000
    assert "measured" in board("show", "1")


def test_trust_must_be_the_same_everywhere(machines: Machines) -> None:
    ran = machines.say("a", "bench", "--cluster", "--trusted-lan", "--no-check")
    assert ran.returncode == 2
    assert "start all with it, or all without" in ran.stderr


def test_tokens_are_listed_and_revoked(machines: Machines) -> None:
    listed = machines.say("a", "cluster", "tokens").stdout
    assert "b, c" in listed or "c, b" in listed
    token_id = re.search(r"^ *([0-9a-f]{8}) +valid", listed, re.MULTILINE)
    assert token_id
    made = machines.say("a", "cluster", "token", "--valid", "10m")
    another = re.search(r"motley1-\S+", made.stdout)
    assert made.returncode == 0
    assert another
    assert machines.say("a", "cluster", "revoke", token_id[1]).returncode == 0
    assert "revoked" in machines.say("a", "cluster", "tokens").stdout
    assert machines.say("b", "cluster", "token").returncode == 2
    late = machines.say("d", "node", "--name", "d", "--join", "motley1-AAAA")
    assert late.returncode == 2
    assert "was it cut?" in late.stderr


def test_no_secret_is_logged(machines: Machines) -> None:
    secret = json.loads((machines.folder / "a" / "clusters" / "motley" / "member.json").read_text())["secret"]
    for machine in ("a", "b", "c"):
        assert secret not in machines.told(machine)
        assert "motley1-" not in machines.told(machine)


def test_a_machine_outside_says_what_to_do(tmp_path: Path) -> None:
    ran = Machines(tmp_path).say("nobody", "nodes")
    assert ran.returncode == 2
    assert "`motley node --join TOKEN` joins one" in ran.stderr


def test_members_are_expelled(machines: Machines) -> None:
    """To the streams of a head that runs meanwhile it is a lost node; and the node ends, with the reason."""
    identity = Identity.load(machines.folder / "a" / "clusters", "motley")
    access = Access.of(identity)
    words = ["run", "-p", "Once upon a time", "-n", "600", "--threads", "1"]
    alone = machines.say("a", *words)
    assert alone.returncode == 0, alone.stderr
    with access.look() as seat:
        assert seat.wait_for_nodes(["a", "b", "c"], 30)
        head = machines.popen("a", *words, "--cluster", "--memory", "118MB")
        first, victim = a_node_of(head)
        expel(identity, victim)  # as the command below, which would take longer to start than the answer to be given
        assert access.trust
        assert access.trust.adopt((identity.folder / "ca.pem").read_bytes())
        seat.spread()
        rest, more = head.communicate(timeout=80)
    assert head.returncode == 0, more.decode()
    assert (first + rest).decode() == alone.stdout
    assert f"{victim} is lost" in more.decode()
    assert machines.nodes.pop(victim).wait(20) == 2
    assert f"{victim} was expelled from cluster motley" in machines.told(victim)

    other = "c" if victim == "b" else "b"
    expelled = machines.say("a", "cluster", "expel", other)
    assert expelled.returncode == 0, expelled.stderr
    assert "Told: a;" in expelled.stdout
    assert machines.nodes.pop(other).wait(20) == 2
