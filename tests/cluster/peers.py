"""A process that serves links over a transport that was named (`agreed`), and what any such transport must carry.

`python peers.py TRANSPORT` is that process.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import TestCase, mock

import numpy as np

from motley.cluster import agreed, choice, messages, remote
from motley.cluster.beside_link import BesideLink
from motley.cluster.choice import Choice
from motley.cluster.hello import call
from motley.cluster.link import Buffer, Link
from motley.cluster.messages import Kind
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
            link = agreed.offer(greeted(arguments["port"]), arguments["transport"])
            ping_s(link, 100_000)
            link.close()
        return {"what": what, **arguments}


def greeted(port: int) -> TcpLink:
    return call("127.0.0.1", port, cluster="c", name="head", token=TOKEN)


def served(named: str) -> Server:
    return Server(listen(), Handler(), cluster="c", name="toy", token=TOKEN, named=named)  # type: ignore[arg-type]


class Peer:
    """A process that serves. `named`: the transport that it allows, "" for none; `transport`: what `link` asks for."""

    def __init__(self, named: str, transport: str = "") -> None:
        self.transport = transport or named
        self.process = subprocess.Popen(
            [sys.executable, __file__, named], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout
        self.address = ("127.0.0.1", int(self.process.stdout.readline()))

    def greeted(self) -> TcpLink:
        return greeted(self.address[1])

    def link(self) -> BesideLink:
        return agreed.offer(self.greeted(), self.transport)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()


@contextlib.contextmanager
def peer(named: str, transport: str = "") -> Iterator[Peer]:
    started = Peer(named, transport)
    try:
        yield started
    finally:
        started.kill()


def error_of(link: Link, timeout_s: float = 60) -> str:
    with raises(LinkError, "") as caught:
        link.receive(timeout_s)
    return str(caught.exception)


# -- what any of them must carry


def frames(there: Peer) -> None:
    link = there.link()
    assert (link.transport, link.peer) == (there.transport, "toy")
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
    assert speed.transport == there.transport
    second = there.link()
    for each in (link, second, link):
        ping_s(each, 16 << 10)
    second.close()
    ping_s(link, 10)
    link.close()


def both_send_large_frames(there: Peer) -> None:
    """None of these fits what the transport buffers; each side sends before it receives."""
    noise = np.random.default_rng(1).bytes(8 << 20)
    link = there.link()
    for i in range(4):
        link.send(Kind.PING, i, [noise])
    for i in range(4):
        frame = link.receive(60)
        assert (frame.request, frame.payload == noise) == (i, True)
    link.close()


def crosswise(there: Peer) -> None:
    """Two processes that call each other at the same time, and a tag of its own for each link."""
    server = served(there.transport)
    with ThreadPoolExecutor() as pool:
        told = {"port": server.listener.port, "transport": there.transport}
        calls = [pool.submit(ask, there.greeted(), "call", timeout_s=60, **told) for _ in range(2)]
        links = [there.link() for _ in range(3)]
        for done in calls:
            assert done.result() == {"what": "call", **told}
        for link in links:
            ping_s(link, 100_000)
            link.close()
    server.close()


def malformed_calls(there: Peer) -> None:
    call = agreed.Call(there.transport, "x", (), "z", {"rank": "no"})  # type: ignore[arg-type]
    for malformed in (b"{}", b"[", messages.as_json(call)[0], messages.as_json(call)[0][:-1]):
        link = there.greeted()
        link.send(Kind.CALL, 0, [malformed])
        assert "clos" in error_of(link)
        link.close()


def the_choice(there: Peer) -> None:
    """It is used where both name it and it proves itself; TCP in all other cases."""
    named = there.transport

    def of(there: Peer, named: str = named) -> str:
        link = Choice().connect(there.address, there.greeted, named=named)
        ping_s(link, 100)
        link.close()
        return link.transport

    with peer("", named) as refusing, mock.patch.object(choice, "possible", return_value=False):
        assert (of(there), of(there, ""), of(refusing)) == (named, "tcp", "tcp")
        with raises(ClusterError, f"{named} is not encrypted, and this node was not started with --link {named}"):
            refusing.link()
        with mock.patch.object(choice, "ping_s", side_effect=LinkError("this link corrupts data")):
            assert of(there) == "tcp"
        steady = there.link()
        send = type(steady).send

        def lie(link: BesideLink, kind: int, request: int, parts: Sequence[Buffer]) -> None:
            send(link, kind, request, [b"another secret"] if kind == Kind.PROOF else parts)

        with mock.patch.object(type(steady), "send", lie):
            assert of(there) == "tcp"
        ping_s(steady, 100)  # one that did not prove itself ends no other
        steady.close()


if __name__ == "__main__":
    server = served(sys.argv[1])
    print(server.listener.port, flush=True)
    sys.stdin.read()  # until the process that started this one is gone
