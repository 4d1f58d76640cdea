"""The two ends of `mpi` links, each in a process of its own: MPI stays out of pytest. `python mpi_ends.py NAME...` runs
the functions below in a process that nothing started together with its peers."""

import collections
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import TestCase, mock

import numpy as np

from motley.cluster import choice, messages, mpi_offer, mpi_process, remote
from motley.cluster.choice import Choice
from motley.cluster.hello import call
from motley.cluster.link import Buffer, Link
from motley.cluster.local import LocalCluster, LocalNode
from motley.cluster.messages import Kind
from motley.cluster.mpi_link import MpiLink
from motley.cluster.remote import ask, ping_s
from motley.cluster.server import Server
from motley.cluster.tcp_link import TcpLink, listen
from motley.errors import ClusterError, LinkError
from motley.progress import Progress

TOKEN = "of these tests"
raises = TestCase().assertRaisesRegex  # pytest takes a second to import
SIZES = (0, 1, 4095, 32_743, 32_744, 32_745, 65_536, (1 << 18) + 3, (4 << 20) + 1, 8 << 20)


class Handler:
    """Answers questions; asked to, it becomes a caller itself."""

    def ask(self, what: str, arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if what == "call":
            link = mpi_offer.offer(greeted(arguments["port"]))
            ping_s(link, 100_000)
            link.close()
        return {"what": what, **arguments}


def greeted(port: int) -> TcpLink:
    return call("127.0.0.1", port, cluster="c", name="head", token=TOKEN)


def served(mpi: bool = True) -> Server:
    return Server(listen(), Handler(), cluster="c", name="toy", token=TOKEN, mpi=mpi)  # type: ignore[arg-type]


class Peer:
    """A process that serves."""

    def __init__(self, mpi: bool = True) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "serve", str(int(mpi))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout
        self.address = ("127.0.0.1", int(self.process.stdout.readline()))

    def greeted(self) -> TcpLink:
        return greeted(self.address[1])

    def link(self) -> MpiLink:
        return mpi_offer.offer(self.greeted())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def peer(mpi: bool = True) -> Iterator[Peer]:
    started = Peer(mpi)
    try:
        yield started
    finally:
        started.kill()


def serve(mpi: str) -> None:
    server = served(bool(int(mpi)))
    print(server.listener.port, flush=True)
    sys.stdin.read()  # until the process that started this one is gone


def error_of(link: Link, timeout_s: float = 60) -> str:
    with raises(LinkError, "") as caught:
        link.receive(timeout_s)
    return str(caught.exception)


# -- what the tests run


def frames(there: Peer) -> None:
    link = there.link()
    assert (link.transport, link.peer) == ("mpi", "toy")
    for size in SIZES:
        assert ping_s(link, size) > 0  # with checksum, byte for byte
    for i in range(100):
        link.send(Kind.PING, i, [bytes([i]) * (1 + 40 * i), memoryview(b"tail")])
    for i in range(100):
        frame = link.receive(30)
        assert (frame.kind, frame.request) == (Kind.PONG, i)
        assert frame.payload == bytes([i]) * (1 + 40 * i) + b"tail"
    assert ask(link, "memory", unit="GB") == {"what": "memory", "unit": "GB"}
    speed = remote.measure(link, pings=50, bulk=3)
    assert speed.transport == "mpi"
    second = there.link()  # over the connection that is there
    assert second._comm is link._comm
    for each in (link, second, link):
        ping_s(each, 16 << 10)
    second.close()
    ping_s(link, 10)


def both_send_large_frames(there: Peer) -> None:
    """None of these fits what MPI buffers; each side sends before it receives."""
    noise = np.random.default_rng(1).bytes(8 << 20)
    link = there.link()
    for i in range(4):
        link.send(Kind.PING, i, [noise])
    for i in range(4):
        frame = link.receive(60)
        assert (frame.request, frame.payload == noise) == (i, True)


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
        with peer() as dying:
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
    link = chosen.connect(there.address, there.greeted, mpi=True)
    assert link.transport == "mpi"
    kept.append(link._comm.Isend([bytes(100_000), link._mpi.BYTE], link._rank, link._tag))
    error_of(link)
    assert chosen.connect(there.address, there.greeted, mpi=True).transport == "tcp"


def the_choice(there: Peer) -> None:
    def of(there: Peer, mpi: bool = True) -> str:
        link = Choice().connect(there.address, there.greeted, mpi=mpi)
        ping_s(link, 100)
        link.close()
        return link.transport

    with peer(False) as refusing, mock.patch.object(choice, "possible", return_value=False):
        assert (of(there), of(there, False), of(refusing)) == ("mpi", "tcp", "tcp")
        with raises(ClusterError, "MPI is not encrypted"):
            refusing.link()
        with mock.patch.object(choice, "ping_s", side_effect=LinkError("this link corrupts data")):
            assert of(there) == "tcp"
        send = MpiLink.send

        def lie(link: MpiLink, kind: int, request: int, parts: Sequence[Buffer]) -> None:
            send(link, kind, request, [b"another secret"] if kind == Kind.MPI_PROOF else parts)

        with mock.patch.object(MpiLink, "send", lie):
            assert of(there) == "tcp"
        mine = mpi_process.started()
        nobody = mock.Mock(side_effect=ClusterError("MPI: there is nobody"))
        with mock.patch.object(mine, "routes", {}), mock.patch.object(mine, "call", nobody):
            assert of(there) == "tcp"
        assert nobody.called
        link = there.greeted()
        for malformed in (b"{}", b"[", messages.as_json(mpi_offer.Call("x", "y", -1, (), "z"))[0][:-1]):
            link.send(Kind.MPI_CALL, 0, [malformed])
            assert "clos" in error_of(link)
            link = there.greeted()


def a_cluster(_: Peer) -> None:
    """As `motley bench --link mpi` starts it, and one node of it restarted: the old process's connection is gone."""
    with LocalCluster([LocalNode("a", 1, 0)], mpi=True) as cluster:
        assert cluster.links["a"].transport == "mpi"
        ping_s(cluster.links["a"], 16 << 10)
        cluster.restart("a")
        assert cluster.links["a"].transport == "mpi"
        ping_s(cluster.links["a"], 16 << 10)


def given_world(file: str) -> None:
    """One of two that mpiexec started."""
    mine = mpi_process.started()
    assert mine.size == 2
    if mine.rank == 0:
        server = served()
        with open(file + ".new", "w") as out:
            json.dump(server.listener.port, out)
        os.rename(file + ".new", file)
        mine.mpi.COMM_WORLD.Barrier()
        server.close()
        return
    while not os.path.exists(file):
        time.sleep(0.05)
    with open(file) as text:
        link = mpi_offer.offer(greeted(json.load(text)))
    assert link._comm == mine.mpi.COMM_WORLD
    for size in SIZES:
        ping_s(link, size)
    link.close()
    mine.mpi.COMM_WORLD.Barrier()


def crosswise(there: Peer) -> None:
    """Two processes that call each other at the same time, and a tag of its own for each link."""
    server = served()
    with ThreadPoolExecutor() as pool:
        port = server.listener.port
        calls = [pool.submit(ask, there.greeted(), "call", timeout_s=60, port=port) for _ in range(2)]
        links = [there.link() for _ in range(3)]
        for done in calls:
            assert done.result() == {"what": "call", "port": port}
        for link in links:
            ping_s(link, 100_000)
    server.close()


if __name__ == "__main__":
    if sys.argv[1] in ("serve", "given_world"):
        globals()[sys.argv[1]](sys.argv[2])
    else:
        with peer() as there:
            for name in sys.argv[1:]:
                started = time.perf_counter()
                globals()[name](there)
                print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)
    print("done", flush=True)
    os._exit(0)
