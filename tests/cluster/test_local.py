"""Local clusters of real processes: they start, answer, and never outlive their head, however it ends."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from motley.cluster import remote
from motley.cluster.local import LocalCluster, LocalNode
from motley.cluster.membership import Membership
from motley.cluster.remote import RemoteExperts, RemoteStage
from motley.errors import ClusterError, LinkError, NodeLost, UsageError
from motley.ops.protocol import Batch

TOY = (sys.executable, str(Path(__file__).with_name("toy_node.py")))
NODES = (LocalNode("small", 1, 1 << 20), LocalNode("big", 2, 1 << 30))


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_ended(pids: list[int], timeout_s: float) -> float:
    started = time.monotonic()
    while any(map(running, pids)):
        assert time.monotonic() - started < timeout_s, f"{pids} still run after {timeout_s} s"
        time.sleep(0.02)
    return time.monotonic() - started


@pytest.fixture
def cluster() -> LocalCluster:
    return LocalCluster(NODES, command=TOY)


def test_two_nodes_answer_and_end(cluster: LocalCluster) -> None:
    with cluster:
        pids = list(cluster.pids().values())
        assert list(cluster.nodes) == ["small", "big"]
        assert cluster.nodes["big"].devices[0] == {"name": "big/cpu", "threads": 2, "memory_bytes": 1 << 30}
        x, ids = np.ones((2, 4), np.float32), np.zeros((2, 1), np.int32)
        for name, threads in (("small", 1), ("big", 2)):
            assert cluster.links[name].peer == name
            assert remote.ask(cluster.links[name], "threads")["threads"] == threads
            experts = RemoteExperts(cluster.links[name])
            experts.start(3, x, ids, x[:, :1])
            np.testing.assert_array_equal(experts.finish(), 3.0 * x)
        second = cluster.connect("small")
        assert remote.ask(second, "threads")["threads"] == 1
        second.close()
        cluster.raise_if_lost()
    assert not any(map(running, pids))
    cluster.close()  # twice is once


def test_a_broken_link_to_a_living_node_stays_a_link_error(cluster: LocalCluster) -> None:
    with cluster:
        error = LinkError("the link broke")
        assert cluster.explain(error) is error


def test_the_token_is_not_in_argv_nor_environment(cluster: LocalCluster) -> None:
    with cluster:
        told = remote.ask(cluster.links["small"], "everything")
        assert cluster.access.token not in str(told["argv"])
        assert cluster.access.token not in str(told["environ"])


def test_a_killed_node_is_noticed_at_once(cluster: LocalCluster) -> None:
    with cluster:
        stage = RemoteStage(cluster.links["small"])
        stage.start(Batch([1], [0], [0], [0]), None)
        threading.Timer(0.2, os.kill, (cluster.pids()["small"], signal.SIGKILL)).start()
        with pytest.raises(LinkError) as caught:
            stage.finish()
        assert "sent nothing" not in str(caught.value)  # what a timeout says
        with pytest.raises(NodeLost, match="node small is gone: it ended with status -9"):
            raise cluster.explain(caught.value)
        assert remote.ask(cluster.links["big"], "threads")["threads"] == 2  # the other goes on


def test_a_node_deep_in_its_work_still_ends(cluster: LocalCluster) -> None:
    with cluster:
        pids = list(cluster.pids().values())
        RemoteStage(cluster.links["small"]).start(Batch([1], [0], [0], [0]), None)
        time.sleep(0.1)
        started = time.monotonic()
    assert time.monotonic() - started < 30  # of the 60 that its work takes
    assert not any(map(running, pids))


def test_a_node_that_ignores_sigterm_is_killed() -> None:
    with LocalCluster(NODES[:1], command=(*TOY, "--behave", "deaf")) as cluster:
        pids = list(cluster.pids().values())
        remote.Exchange(cluster.links["small"], remote.Traffic()).start(
            remote.Kind.ASK, remote.messages.as_json({"what": "hold the lock"})
        )
        time.sleep(0.2)
    assert not any(map(running, pids))


def test_a_node_ends_by_a_signal_that_another_thread_gets() -> None:
    with LocalCluster(NODES[:1], command=TOY) as cluster:
        (pid,) = cluster.pids().values()
        remote.ask(cluster.links["small"], "end")
        wait_until_ended([pid], 10)


def test_a_node_that_dies_on_start_says_why() -> None:
    started = time.monotonic()
    with (
        pytest.raises(ClusterError, match=r"(?s)did not start: it ended with status 2.*cannot open the model"),
        LocalCluster(NODES, command=(*TOY, "--behave", "die")),
    ):
        pass
    assert time.monotonic() - started < 25  # of the 30 s that a start may take


def test_a_node_that_never_announces_itself() -> None:
    cluster = LocalCluster(NODES[:1], command=(*TOY, "--behave", "hang"), timeout_s=1)
    with pytest.raises(ClusterError, match="not all nodes announced themselves in 1 s: small"), cluster:
        pass
    assert cluster.pids() == {}


def test_clusters_leave_no_descriptor_and_no_thread_behind() -> None:
    def held_after_a_cluster() -> tuple[int, int]:
        with LocalCluster(NODES[:1], command=TOY):
            pass
        gc.collect()
        return psutil.Process().num_fds(), threading.active_count()

    fds, threads = held_after_a_cluster()
    for _ in range(4):
        fds_now, threads_now = held_after_a_cluster()
    assert fds_now <= fds + 2  # some of Zenoh's go a moment later
    assert threads_now <= threads


def test_names_must_differ() -> None:
    with pytest.raises(UsageError, match="same name"):
        LocalCluster([NODES[0], NODES[0]])


HEAD = """
    import sys, time
    from motley.cluster.local import LocalCluster, LocalNode
    nodes = [LocalNode("small", 1, 1 << 20), LocalNode("big", 2, 1 << 30)]
    with LocalCluster(nodes, command=sys.argv[1:]) as cluster:
        print(*cluster.pids().values(), flush=True)
        time.sleep(60)
"""


def start_head() -> tuple["subprocess.Popen[str]", list[int]]:
    head = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HEAD), *TOY],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert head.stdout
    pids = [int(pid) for pid in head.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(running, pids))
    return head, pids


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nodes_end_with_their_head(number: signal.Signals) -> None:
    head, pids = start_head()
    os.killpg(head.pid, number)  # the whole foreground group, as a terminal's Ctrl-C does
    took = wait_until_ended(pids, 3)
    head.wait(5)
    print(f"{number.name}: nodes ended after {took:.2f} s")


def start_node(peer: str) -> "subprocess.Popen[str]":
    node = subprocess.Popen(
        [*TOY, "--name", "a", "--threads", "1", "--cluster", "alone", "--peer", peer, "--with-head"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert node.stdin
    node.stdin.write("token\n")
    node.stdin.flush()
    return node


@pytest.mark.parametrize("what", ["pipe", "head's token"])
def test_each_sign_of_the_heads_end_suffices_alone(what: str) -> None:
    with Membership("alone", "head", head=True) as head:
        node = start_node(head.endpoint)
        assert head.wait_for_nodes(["a"], 10)
        assert node.stdin
        (node.stdin if what == "pipe" else head).close()
        assert node.wait(3) == 0
    node.stdin.close()
    assert node.stderr
    with node.stderr:
        assert ("closed the pipe" if what == "pipe" else "its head head is gone") in node.stderr.read()


def test_a_node_whose_head_ends_while_it_starts() -> None:
    with Membership("other", "head", head=True) as bystander:
        node = start_node(bystander.endpoint)  # whose own head never appears
        assert node.stdin
        assert node.stderr
        node.stdin.close()
        assert node.wait(6) in (0, -signal.SIGALRM)
        with node.stderr:
            assert "closed the pipe" in node.stderr.read()


def test_a_node_whose_peer_is_not_there_says_so() -> None:
    node = start_node("127.0.0.1:9")
    assert node.wait(20) == 1
    assert node.stdin
    assert node.stderr
    with node.stdin, node.stderr:
        assert "error: no member of a cluster answers at 127.0.0.1:9" in node.stderr.read()


def test_a_node_is_restarted_in_its_place(cluster: LocalCluster) -> None:
    with cluster:
        before, addresses = cluster.pids(), cluster.addresses()
        cluster.restart("small")  # it runs still
        os.kill(cluster.pids()["big"], signal.SIGSTOP)
        cluster.restart("big")
        after = cluster.pids()
        assert not any(map(running, before.values()))
        assert after.keys() == before.keys() == cluster.addresses().keys()
        assert cluster.addresses() != addresses
        assert remote.ask(cluster.links["small"], "threads")["threads"] == 1
        assert remote.ask(cluster.links["big"], "threads")["threads"] == 2
        cluster.raise_if_lost()
    assert not any(map(running, after.values()))
