"""MLX's ring between real processes of one machine, with their helpers. `jaccl` differs in how MLX is told of a world;
RDMA itself is untested."""

import collections
import importlib.util
import itertools
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from cluster import peers
from cluster.machines import Machines, await_words
from cluster.peers import Peer, error_of, peer
from motley.cluster import agreed
from motley.cluster.choice import Choice
from motley.cluster.local import LocalCluster, LocalNode
from motley.cluster.messages import Kind
from motley.cluster.mlx_helper import ROOM_BYTES
from motley.cluster.remote import ask, ping_s
from motley.errors import ClusterError, LinkError

needs_mlx = pytest.mark.skipif(
    importlib.util.find_spec("mlx") is None, reason="MLX is not installed: pip install 'motley-moe[mlx]'"
)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Each test has helpers of its own, and leaves none."""
    with mock.patch.object(agreed, "_started", {}) as means:
        yield
        for found in means.values():
            for helper in getattr(found, "_helpers", {}).values():
                helper.end()
    assert not helpers_of(os.getpid())


@pytest.fixture
def there() -> Iterator[Peer]:
    with peer("ring") as started:
        yield started


def helpers_of(process: int) -> list[int]:
    """Those that run: a process that nobody waited for yet has no command line."""
    children = Path(f"/proc/{process}/task/{process}/children")
    found = [int(word) for word in (children.read_text().split() if children.exists() else [])]
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        found += [int(word) for word in task.read_text().split()]
    return [child for child in dict.fromkeys(found) if "mlx_helper" in command_of(child)]


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def await_gone(processes: Iterable[int]) -> None:
    deadline = time.monotonic() + 20
    while any(map(command_of, processes)):
        assert time.monotonic() < deadline, f"still there: {[command_of(p) for p in processes]}"
        time.sleep(0.02)


@needs_mlx
@pytest.mark.parametrize("what", ["frames", "both_send_large_frames", "crosswise", "malformed_calls", "the_choice"])
def test_what_any_transport_carries(there: Peer, what: str) -> None:
    getattr(peers, what)(there)


@needs_mlx
def test_frames_around_the_size_of_a_first_message(there: Peer) -> None:
    link = there.link()
    for size in (*range(ROOM_BYTES - 32, ROOM_BYTES - 16), (1 << 20) - 24, 1 << 20, (1 << 20) + ROOM_BYTES):
        ping_s(link, size)
    link.close()


@needs_mlx
def test_one_world_carries_all_links_of_two_processes(there: Peer) -> None:
    links = [there.link() for _ in range(3)]
    helpers = helpers_of(os.getpid())
    assert len(helpers) == len(helpers_of(there.process.pid)) == 1
    for _ in range(3):
        for link in links:  # the turn goes from link to link, and back to who was asked
            ping_s(link, 40_000)
    asked = [threading.Thread(target=lambda link=link: [ping_s(link, 300_000) for _ in range(10)]) for link in links]
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()
    links.pop().close()
    for link in links:
        ping_s(link, 100)
    time.sleep(0.1)  # the helpers rest
    for link in reversed(links):
        ping_s(link, 100)
        link.close()
    assert helpers_of(os.getpid()) == helpers  # for the next link


@needs_mlx
def test_who_waits_can_be_woken_and_costs_nothing(there: Peer) -> None:
    link = there.link()
    assert "sent nothing" in error_of(link, 0.05)
    assert ask(link, "still")["what"] == "still"
    (helper,) = helpers_of(os.getpid())
    time.sleep(0.1)
    before = cpu_s(helper)
    assert "sent nothing" in error_of(link, 1.0)
    assert cpu_s(helper) - before < 0.3
    threading.Timer(0.1, link.interrupt).start()
    assert "closed" in error_of(link)
    link.close()
    link = there.link()
    os.kill(there.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, there.process.pid, os.WSTOPPED | os.WNOWAIT)
    link.send(Kind.PING, 1, [b"x"])
    assert "sent nothing" in error_of(link, 0.2)
    link._send_timeout_s = 0.3
    sends = (link.send(Kind.PING, i, [bytes(8 << 20)]) for i in range(20))  # the helpers take some of it in
    with pytest.raises(LinkError, match="took nothing"):
        collections.deque(sends, maxlen=0)
    link.close()
    os.kill(there.process.pid, signal.SIGCONT)


def cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@needs_mlx
@pytest.mark.parametrize("size", [16 << 10, 8 << 20])
def test_a_killed_peer_ends_its_links_and_no_other(there: Peer, size: int) -> None:
    steady = there.link()
    kept = helpers_of(os.getpid())
    with peer("ring") as dying:
        link, idle = dying.link(), dying.link()
        ping_s(link, size)
        left = {*helpers_of(os.getpid()), *helpers_of(dying.process.pid)} - {*kept}
        threading.Timer(random.Random(size).uniform(0.02, 0.15), dying.process.kill).start()
        with pytest.raises(LinkError, match="clos"):
            collections.deque((ping_s(link, size, 60) for _ in itertools.count()), maxlen=0)
        assert "clos" in error_of(idle)
        for broken in (link, idle):
            with pytest.raises(LinkError, match="clos"):
                broken.send(Kind.PING, 1, [b"x"])
            broken.close()
    await_gone(left)
    ping_s(steady, size)
    steady.close()
    assert helpers_of(os.getpid()) == kept


@needs_mlx
@pytest.mark.parametrize("whose", ["own", "the other's"])
@pytest.mark.parametrize("rests", [False, True])
def test_a_killed_helper_ends_the_links_and_new_ones_go_over_tcp(
    there: Peer, whose: str, rests: bool, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = Choice()
    link = chosen.connect(there.address, there.greeted, named="ring")
    assert link.transport == "ring"
    own, other = helpers_of(os.getpid()), helpers_of(there.process.pid)
    victim = own if whose == "own" else other
    if rests:
        time.sleep(0.1)
        os.kill(victim[0], signal.SIGKILL)
    else:
        threading.Timer(0.1, os.kill, [victim[0], signal.SIGKILL]).start()
    with caplog.at_level(logging.WARNING), pytest.raises(LinkError, match=r"the ring link to toy failed|clos"):
        collections.deque((ping_s(link, 100_000, 60) for _ in itertools.count()), maxlen=0)
    link.close()
    assert "the ring link to toy failed" in caplog.text
    assert "new calls go over tcp" in caplog.text
    await_gone(own + other)
    again = chosen.connect(there.address, there.greeted, named="ring")
    assert again.transport == "tcp"
    ping_s(again, 1000)
    again.close()


@needs_mlx
def test_a_node_that_is_killed_leaves_no_helper(there: Peer) -> None:
    link = there.link()
    left = helpers_of(there.process.pid)
    assert left
    there.kill()
    await_gone(left)
    link.close()


@needs_mlx
def test_spoilt_bytes_end_that_link_on_both_sides_and_no_other(there: Peer) -> None:
    good = there.link()
    for rubbish in (bytes(100_000), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        link, given_up = there.link(), []
        link.on_spoilt = lambda given_up=given_up: given_up.append(True)  # type: ignore[misc]
        assert link._rings[0].push([rubbish])  # type: ignore[attr-defined]
        link._wake()  # type: ignore[attr-defined]
        assert "clos" in error_of(link)
        assert given_up == [True]
        link.close()
    assert ask(good, "still")["what"] == "still"
    good.close()


@needs_mlx
def test_what_mlx_says_is_the_reason(there: Peer) -> None:
    mine = agreed.started("ring")
    with (
        mock.patch.object(mine, "_world", return_value={"addresses": ["nowhere", "nowhere"]}),
        pytest.raises(LinkError, match=r"Can't parse address nowhere|the other side's helper ended"),
    ):
        there.link()


def test_without_mlx_it_is_one_sentence_where_it_is_named() -> None:
    with (
        mock.patch("importlib.util.find_spec", return_value=None),
        pytest.raises(ClusterError, match=r"the ring link needs MLX: pip install 'motley-moe\[mlx\]'"),
    ):
        agreed.started("ring")


@needs_mlx
def test_jaccl_without_thunderbolt_is_one_sentence() -> None:
    with pytest.raises(ClusterError, match="needs RDMA over Thunderbolt 5"):
        agreed.started("jaccl")


def test_mlx_is_not_loaded_by_who_does_not_name_it() -> None:
    code = "import sys, motley.cli.main, motley.cluster.mlx_link; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@needs_mlx
def test_a_local_cluster_and_a_node_of_it_restarted() -> None:
    with LocalCluster([LocalNode("a", 1, 0)], named="ring") as cluster:
        assert cluster.links["a"].transport == "ring"
        ping_s(cluster.links["a"], 16 << 10)
        left = helpers_of(cluster.pids()["a"])
        cluster.restart("a")
        await_gone(left)
        assert cluster.links["a"].transport == "ring"
        ping_s(cluster.links["a"], 16 << 10)
        left = helpers_of(cluster.pids()["a"])
    await_gone(left)


BUNDLED = ("--pp", "8", "--tg", "4", "--repeat", "1", "--threads", "1")


@needs_mlx
def test_two_nodes_answer_over_ring_as_one_does(tmp_path: Path) -> None:
    """Experts on both, as `motley run` places them: the same words."""
    here = Machines(tmp_path)
    prompt = ("-p", "Once upon a time", "-n", "12", "--threads", "1")
    one = here.say("a", "run", *prompt, "--nodes", "1")
    two = here.say("a", "run", *prompt, "--nodes", "2", "--link", "ring")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert two.stdout == one.stdout
    assert "no ring link" not in two.stderr


@needs_mlx
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback")
def test_a_joined_cluster_whose_report_says_so(tmp_path: Path) -> None:
    machines, out = Machines(tmp_path), tmp_path / "out.json"
    host = f"127.78.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"
    made = machines.say("a", "cluster", "init", "--name", "a", "--host", host)
    token = re.search(r"motley1-\S+", made.stdout)
    assert token, made.stderr
    try:
        for name in ("a", "b"):
            joins = () if name == "a" else ("--name", name, "--join", token[0], "--memory", "111MB")
            machines.start(name, "--threads", "1", "--link", "ring", *joins)
            await_words(machines, name, "listens on")
        ran = machines.say(
            "a", "bench", "--cluster", "--link", "ring", *BUNDLED, "--memory", "111MB", "--json", str(out)
        )
        assert ran.returncode == 0, ran.stderr
    finally:
        for process in machines.nodes.values():
            process.send_signal(signal.SIGTERM)
        for process in machines.nodes.values():
            process.wait(10)
    result = json.loads(out.read_text())
    assert result["check"]["max_abs_logit_diff"] == 0
    assert {d for layer in result["placement"]["layers"] for d in layer["experts"]} == {"a", "b"}
    assert {link["transport"] for link in result["lab"]["links"]} == {"ring"}
    assert "The ring link does not encrypt: activations crossed every one in the clear (--link ring)" in out.read_text()
