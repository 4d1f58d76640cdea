"""A cluster of three hosts with a network of their own: joined by the commands, and a cable pulled in mid-answer."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.answering import a_node_of
from cluster.netlab import NETS, PREFIX, Host, delayed, netlab, why_not

MOTLEY = [sys.executable, "-m", "motley"]
REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "-")


class Machine:
    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        folder.mkdir()
        self.env = {**os.environ, "MOTLEY_DATA": str(folder), "MOTLEY_CACHE": str(folder / "cache")}

    def say(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.host.run([*MOTLEY, *words], env=self.env, timeout=120)

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        log = self.log.open("wb")
        return self.host.popen([*MOTLEY, *words], env=self.env, stdout=log, stderr=log)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def await_words(self, words: str) -> None:
        deadline = time.monotonic() + 30
        while words not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    """a made it and is the head's machine, without a node of its own process in the way; b and c offer themselves."""
    folder = tmp_path_factory.mktemp("hosts")
    with netlab("a", "b", "c") as hosts:
        machines = {name: Machine(host, folder / name) for name, host in hosts.items()}
        made = machines["a"].say("cluster", "init", "--name", "a")
        assert made.returncode == 0, made.stderr
        assert f"at {hosts['a'].address}" in made.stdout
        token = re.search(r"motley1-\S+", made.stdout)
        assert token
        nodes = [machines["a"].start("node", "--threads", "1")]
        machines["a"].await_words("listens on")
        for name in ("b", "c"):
            nodes.append(
                machines[name].start("node", "--threads", "1", "--memory", "112MB", "--name", name, "--join", token[0])
            )
        for name in ("b", "c"):
            machines[name].await_words("listens on")
        yield machines
        for node in nodes:
            node.send_signal(signal.SIGTERM)
        for node in nodes:
            assert node.wait(10) == 0


def test_hosts_are_apart_and_leave_nothing(cluster: dict[str, Machine]) -> None:
    with netlab("x", "y") as hosts:
        spaces = [host.space for host in hosts.values()]
        assert all((NETS / space).exists() for space in spaces)
    assert not any((NETS / space).exists() for space in spaces)
    assert len(list(NETS.glob(f"{PREFIX}{os.getpid()}-*"))) == 4  # the cluster's, and its switch


ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], 7000)) as server:
    print("up", flush=True)
    sock, _ = server.accept()
    while data := sock.recv(100):
        sock.sendall(data)
"""
ASK = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7000)) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        sock.sendall(b"x")
        sock.recv(100)
        times.append(time.perf_counter() - started)
print(min(times))
"""


OFFER = """
import sys
from motley.cluster.neighbour import answer, offer
from motley.cluster.tcp_link import connect, listen
from motley.errors import ClusterError
if sys.argv[1] == "answer":
    listener = listen(sys.argv[2], 7000)
    print("up", flush=True)
    link = listener.accept()
    print(answer(link, link.receive(5), "y").transport)
else:
    try:
        print(offer(connect(sys.argv[2], 7000)).transport)
    except ClusterError as error:
        print(error)
"""


def test_hosts_share_no_memory() -> None:
    """One kernel, one user, and yet no neighbours."""
    with netlab("x", "y") as hosts:
        words = [sys.executable, "-c", OFFER]
        asked = hosts["y"].popen([*words, "answer", hosts["y"].address], stdout=subprocess.PIPE)
        assert asked.stdout is not None
        assert asked.stdout.readline() == b"up\n"
        told = hosts["x"].run([*words, "offer", hosts["y"].address], timeout=30)
        assert "y: no memory can be shared" in told.stdout, told.stderr
        assert asked.communicate(timeout=10)[0] == b"tcp\n"


def test_a_delayed_cable_delays() -> None:
    with netlab("x", "y") as hosts, delayed(hosts["x"], hosts["y"], 2000) as (_, far):
        echo = hosts["y"].popen([sys.executable, "-c", ECHO, far], stdout=subprocess.PIPE)
        assert echo.stdout is not None
        assert echo.stdout.readline() == b"up\n"
        asked = hosts["x"].run([sys.executable, "-c", ASK, far], timeout=30)
        assert echo.wait(10) == 0
    assert float(asked.stdout) >= 0.004  # never sooner than twice the delay


def test_the_doctor_on_pairs(cluster: dict[str, Machine], tmp_path: Path) -> None:
    """With packets of another size on one end."""
    out = tmp_path / "found.json"
    cluster["b"].host.set_mtu(1400)
    try:
        told = cluster["a"].say("doctor", "--cluster", "--json", str(out))
    finally:
        cluster["b"].host.set_mtu(1500)
    assert "NO-CLUSTER" not in told.stdout, told.stdout
    found = [(x["code"], x["sentence"]) for x in json.loads(out.read_text()) if x["code"].startswith("PAIR-")]
    whys = [sentence for code, sentence in found if code == "PAIR-TRANSPORT"]
    why = "both choose tcp+tls: one machine, but two network namespaces, which share no memory"
    assert whys == [f"{x} and {y} {why}" for x, y in ("ab", "ac", "bc")]
    assert [code for code, _ in found].count("PAIR-SLOW") == 3
    assert [s for code, s in found if code == "PAIR-MTU"] == [
        f"eth0 of {x} sends packets of {mine} bytes, eth0 of {y} of {theirs}: large ones may be lost on the way"
        for x, mine, y, theirs in (("a", 1500, "b", 1400), ("b", 1400, "c", 1500))
    ]
    assert not {code for code, _ in found} & {"PAIR-BROKEN", "PAIR-CLOCK", "PAIR-VERSIONS", "PAIR-BANDWIDTH"}


def test_a_cable_pulled_in_mid_answer_costs_no_token(cluster: dict[str, Machine]) -> None:
    a = cluster["a"]
    words = ["run", "-p", "Once upon a time", "-n", "600", "--threads", "1"]
    alone = a.say(*words)
    assert alone.returncode == 0, alone.stderr
    head = a.host.popen(
        [*MOTLEY, *words, "--cluster", "--memory", "112MB"], env=a.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    first, victim = a_node_of(head)
    cluster[victim].host.pull_cable()
    try:
        rest, more = head.communicate(timeout=240)
    finally:
        cluster[victim].host.plug_cable()
    assert head.returncode == 0, more.decode()
    assert (first + rest).decode() == alone.stdout
    assert f"{victim} is lost" in more.decode()


def test_a_machine_that_was_cut_off_is_found_again(cluster: dict[str, Machine]) -> None:
    deadline = time.monotonic() + 60
    while True:
        seen = cluster["a"].say("nodes").stdout
        if all(re.search(rf"^ *{name} ", seen, re.MULTILINE) for name in cluster):
            return
        assert time.monotonic() < deadline, seen
