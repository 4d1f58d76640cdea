"""The two ends of `mpi` links, each in a process of its own: MPI stays out of pytest. `python mpi_ends.py NAME...` runs
the functions below, and those of `peers`, in a process that nothing started together with its peers."""

import collections
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from unittest import mock

from peers import (
    SIZES,
    Peer,
    both_send_large_frames,
    crosswise,
    error_of,
    frames,
    greeted,
    malformed_calls,
    peer,
    raises,
    served,
    the_choice,
)

from motley.cluster import agreed, choice
from motley.cluster.choice import Choice
from motley.cluster.local import LocalCluster, LocalNode
from motley.cluster.messages import Kind
from motley.cluster.remote import ask, ping_s
from motley.errors import ClusterError, LinkError

__all__ = ["both_send_large_frames", "crosswise", "frames", "malformed_calls", "the_choice"]  # run by name


def waiting(there: Peer) -> None:
    link = there.link()
    assert "sent nothing" in error_of(link, 0.05)
    assert ask(link, "still")["what"] == "still"
    cpu = time.thread_time()
    assert "sent nothing" in error_of(link, 1.0)
    assert time.thread_time() - cpu < 0.3
    threading.Timer(0.1, link.interrupt).start()
    assert "closed" in error_of(link)
    link = there.link()
    os.kill(there.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, there.process.pid, os.WSTOPPED | os.WNOWAIT)
    link.send(Kind.PING, 1, [b"x"])
    assert "sent nothing" in error_of(link, 0.2)
    link._send_timeout_s = 0.3
    with raises(LinkError, "took nothing"):
        link.send(Kind.PING, 2, [bytes(8 << 20)])
    link.close()
    os.kill(there.process.pid, signal.SIGCONT)


def killed(there: Peer) -> None:
    """At any time: while it works, while it sends, while something large is under way to it. This process lives on."""
    rng, steady = random.Random(3), there.link()
    for size in (16 << 10, 8 << 20):
        with peer("mpi") as dying:
            link, idle = dying.link(), dying.link()
            ping_s(link, size)
            threading.Timer(rng.uniform(0.02, 0.15), dying.process.kill).start()
            with raises(LinkError, "clos"):
                collections.deque((ping_s(link, size, 60) for _ in itertools.count()), maxlen=0)
            assert "clos" in error_of(idle)
            for broken in (link, idle):
                with raises(LinkError, "clos"):
                    broken.send(Kind.PING, 1, [b"x"])
                broken.close()
        ping_s(steady, size)


def spoilt(there: Peer) -> None:
    """Messages that no Motley sends end that link on both sides, and no other."""
    good, kept = there.link(), []
    for rubbish in (bytes(100_000), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        link, given_up = there.link(), []
        link.on_spoilt = lambda given_up=given_up: given_up.append(True)
        kept.append(link._comm.Isend([rubbish, link._mpi.BYTE], link._rank, link._tag))
        assert "clos" in error_of(link)
        assert given_up == [True]
        link.close()
    assert ask(good, "still")["what"] == "still"
    chosen = Choice()
    link = chosen.connect(there.address, there.greeted, named="mpi")
    assert link.transport == "mpi"
    kept.append(link._comm.Isend([bytes(100_000), link._mpi.BYTE], link._rank, link._tag))
    error_of(link)
    assert chosen.connect(there.address, there.greeted, named="mpi").transport == "tcp"


def nobody_there(there: Peer) -> None:
    """MPI can't connect: TCP."""
    mine = agreed.started("mpi")
    nobody = mock.Mock(side_effect=ClusterError("MPI: there is nobody"))
    with (
        mock.patch.object(choice, "possible", return_value=False),
        mock.patch.object(mine, "routes", {}),
        mock.patch.object(mine, "call", nobody),
    ):
        link = Choice().connect(there.address, there.greeted, named="mpi")
    assert nobody.called
    assert link.transport == "tcp"
    link.close()


def a_cluster(_: Peer) -> None:
    """As `motley bench --link mpi` starts it, and one node of it restarted: the old process's connection is gone."""
    with LocalCluster([LocalNode("a", 1, 0)], named="mpi") as cluster:
        assert cluster.links["a"].transport == "mpi"
        ping_s(cluster.links["a"], 16 << 10)
        cluster.restart("a")
        assert cluster.links["a"].transport == "mpi"
        ping_s(cluster.links["a"], 16 << 10)


def given_world(file: str) -> None:
    """One of two that mpiexec started."""
    mine = agreed.started("mpi")
    assert mine.size == 2
    if mine.rank == 0:
        server = served("mpi")
        with open(file + ".new", "w") as out:
            json.dump(server.listener.port, out)
        os.rename(file + ".new", file)
        mine.mpi.COMM_WORLD.Barrier()
        server.close()
        return
    while not os.path.exists(file):
        time.sleep(0.05)
    with open(file) as text:
        link = agreed.offer(greeted(json.load(text)), "mpi")
    assert link._comm == mine.mpi.COMM_WORLD
    for size in SIZES:
        ping_s(link, size)
    link.close()
    mine.mpi.COMM_WORLD.Barrier()


if __name__ == "__main__":
    if sys.argv[1] == "given_world":
        given_world(sys.argv[2])
    else:
        with peer("mpi") as there:
            for name in sys.argv[1:]:
                started = time.perf_counter()
                globals()[name](there)
                print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)
    print("done", flush=True)
    os._exit(0)
