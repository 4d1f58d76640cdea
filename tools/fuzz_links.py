"""Throw hostile frames at every port of a node, and look whether it lives, answers, and stays small.

python tools/fuzz_links.py [--frames 100000] [--seed 0] [--seconds 600]: the frames are shared among five doors, each of
them a real listener of this process on loopback:

  plain     a local cluster's data port, without its token: garbage, wrong magic, false lengths, half greetings
  tls       a joined node's data port, without a certificate: the same bytes
  joining   the authority's port: the same bytes, and messages of false length and content inside TLS
  member    a data port with the token: every kind of message, mutated, truncated, nested
  memory    what a member shares with it: the same messages, and bytes written anywhere beside them

Ends with status 1, and the seed, if a door stops serving an honest caller, or memory, descriptors or threads grow.
Bounded in count and time; only this machine's loopback is spoken to.
"""

import argparse
import logging
import mmap
import random
import resource
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.append(str(Path(__file__).parents[1] / "src"))  # an installed Motley first: it has its kernels

import msgspec
import numpy as np
import psutil

from motley.cluster import joining, messages, neighbour, weights
from motley.cluster.access import Access
from motley.cluster.hello import call, greet, new_token
from motley.cluster.identity import init
from motley.cluster.joining import JoinServer
from motley.cluster.link import HEADER, MAGIC, VERSION
from motley.cluster.messages import Kind
from motley.cluster.remote import ask
from motley.cluster.server import Server
from motley.cluster.tcp_link import TcpLink, connect, listen
from motley.errors import ClusterError

HOST = "127.0.0.1"
GROWTH_MB, GROWTH_COUNT = 64, 24
new_memory = neighbour._new_memory


class Handler:
    """Answers as a node with nothing loaded does."""

    def experts(self, layer: int, x: Any, ids: Any, weights: Any) -> Any:
        return np.zeros(x.shape, np.float64)

    def rows(self, layer: int | None, h: Any) -> Any:
        return np.zeros((len(h), 3), np.float32)

    def stage(self, batch: Any, x: Any) -> Any:
        raise ClusterError("no model is loaded on this node")

    def load(self, assignment: Any, progress: Any) -> Any:
        raise ClusterError("no file")

    def ask(self, what: str, arguments: Any, progress: Any) -> Any:
        return {"what": what}

    def fetch(self, file_hash: str, start: int, end: int) -> Any:
        raise ClusterError("no file")


def header(rng: random.Random, n_bytes: int) -> bytes:
    """Mostly right, so that what follows is looked at."""
    magic = MAGIC if rng.random() < 0.9 else rng.randbytes(4)
    version = VERSION if rng.random() < 0.9 else rng.randrange(1 << 16)
    size = n_bytes if rng.random() < 0.7 else rng.choice([0, 1, n_bytes + 1, 1 << 20, 1 << 31, (1 << 64) - 1])
    return HEADER.pack(magic, version, rng.choice([1, 2, 3, 4, 5, *map(int, Kind), 999]), size, rng.getrandbits(32), 0)


def honest_messages() -> list[tuple[int, bytes]]:
    x, ids, w = np.ones((2, 8), np.float32), np.zeros((2, 2), np.int32), np.ones((2, 2), np.float32)

    def joined(parts: Sequence[Any]) -> bytes:
        return b"".join(bytes(part) for part in parts)

    return [
        (Kind.PING, joined(messages.ping(b"hello"))),
        (Kind.EXPERTS_CALL, joined(messages.experts_call(0, x, ids, w))),
        (Kind.STAGE_CALL, joined(messages.stage_call(messages.Batch([1, 2], [0, 1], [0, 0], [1]), x))),
        (Kind.ROWS_CALL, joined(messages.rows_call(None, x))),
        (Kind.LOAD, b'{"device":"a","model":"m","hash":"h","context":1,"slots":1,"experts":{"0":[0,1]}}'),
        (Kind.ASK, b'{"what":"memory"}'),
        (Kind.OFFER, b'{"name":"00112233445566778899aabbccddeeff","secret":"00"}'),
        (Kind.FETCH, joined(weights.fetch_call("00" * 16, 0, 4096))),
    ]


def mutated(rng: random.Random, data: bytes) -> bytes:
    body = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        turn = rng.randrange(6)
        at = rng.randrange(len(body) + 1)
        if turn == 0 and body:
            body[at % len(body)] = rng.randrange(256)
        elif turn == 1:
            del body[at:]
        elif turn == 2:
            body[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif turn == 3 and len(body) >= 4:
            struct.pack_into("<I", body, at % (len(body) - 3), rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 16]))
        elif turn == 4:
            body[at:at] = b"[" * rng.randrange(1, 3000)
        else:
            body[at:at] = rng.choice([b"\0", b'"', b"{", b"NaN", b"\xff\xfe", b"1e999"])
    return bytes(body)


class Door:
    """One port: `attack(rng, n)` throws up to n frames and returns how many; `honest()` raises where it fails."""

    def __init__(self, attack: Callable[[random.Random, int], int], honest: Callable[[], object]) -> None:
        self.attack, self.honest = attack, honest


def garbage_at(port: int) -> Callable[[random.Random, int], int]:
    def attack(rng: random.Random, n: int) -> int:
        count = rng.randrange(1, min(n, 20) + 1)
        with suppress(OSError), socket.create_connection((HOST, port), 5) as sock:
            for _ in range(count):
                body = rng.randbytes(rng.randrange(0, 200))
                sock.sendall(header(rng, len(body)) + body if rng.random() < 0.8 else rng.randbytes(40))
        return count

    return attack


def member_at(port: int, token: str) -> Callable[[random.Random, int], int]:
    honest = honest_messages()
    held: list[TcpLink] = []

    def link() -> TcpLink:
        if not held:
            found = connect(HOST, port)
            greet(found, "fuzz", "member", token)
            held.append(found)
        return held[0]

    def attack(rng: random.Random, n: int) -> int:
        kind, body = rng.choice(honest)
        try:
            link().send(kind if rng.random() < 0.95 else rng.randrange(1 << 16), 1, [mutated(rng, body)])
            link().receive(5)
        except ClusterError:
            for broken in held:
                broken.close()
            held.clear()
        return 1

    return attack


def neighbour_at(port: int, token: str) -> Callable[[random.Random, int], int]:
    honest = honest_messages()

    def attack(rng: random.Random, n: int) -> int:
        thrown, count = 0, rng.randrange(1, min(n, 40) + 1)
        kept: list[mmap.mmap] = []

        def keep(secret: bytes) -> tuple[int, mmap.mmap]:
            file, memory = new_memory(secret)
            kept.append(memory)
            return file, memory

        with mock.patch.object(neighbour, "_new_memory", keep):
            link = neighbour.offer(call(HOST, port, cluster="fuzz", name="neighbour", token=token))
        with suppress(ClusterError):
            while thrown < count:
                thrown += 1
                if rng.random() < 0.3:
                    size = rng.choice([1, 4, 8, 200])
                    at = rng.randrange(rng.choice([1024, 4096, len(kept[0])]) - size)
                    kept[0][at : at + size] = rng.randbytes(size)
                kind, body = rng.choice(honest)
                link.send(kind, 1, [mutated(rng, body) if rng.random() < 0.5 else body])
                link.receive(0.02)
        link.close()
        kept.pop().close()
        return thrown

    return attack


def joiner_at(port: int) -> Callable[[random.Random, int], int]:
    garbage = garbage_at(port)
    asked = msgspec.msgpack.encode(joining.Request("0.1.0", "0a1b2c3d", "x", b"request", b"proof"))

    def attack(rng: random.Random, n: int) -> int:
        if rng.random() < 0.8:
            return garbage(rng, n)
        with suppress(OSError, EOFError, ValueError), wrapped(port) as sock:
            joining._receive(sock, joining.Offer)
            body = mutated(rng, asked)
            sock.sendall(struct.pack("<I", rng.choice([len(body), 0, 1 << 30])) + body)
        return 1

    return attack


def wrapped(port: int) -> ssl.SSLSocket:
    """TLS without a certificate of one's own, and without looking at the other's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection((HOST, port), 30))


def held_now() -> tuple[int, int, int]:
    own = psutil.Process()
    return own.memory_info().rss >> 20, own.num_fds(), threading.active_count()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        identity = init(Path(folder), "fuzz", "head", HOST)
        access, token = Access.of(identity), new_token()
        plain = Server(listen(), Handler(), cluster="fuzz", name="head", token=token)  # type: ignore[arg-type]
        secure = Server(access.listen(), Handler(), cluster="fuzz", name="head", token=access.token)  # type: ignore[arg-type]
        door = JoinServer(identity, HOST, 0)

        def asks(port: int, secret: str, tls: Any) -> None:
            link = call(HOST, port, cluster="fuzz", name="honest", token=secret, tls=tls, timeout_s=30)
            assert ask(link, "well")["what"] == "well"
            link.close()

        def offered() -> None:
            with wrapped(door.port) as sock:
                assert joining._receive(sock, joining.Offer).cluster == "fuzz"

        port, secure_port = plain.listener.port, secure.listener.port
        logging.getLogger("motley.link").setLevel(logging.ERROR)  # that memory is spoilt is no news here
        doors = {
            "plain": Door(garbage_at(port), lambda: asks(port, token, None)),
            "tls": Door(garbage_at(secure_port), lambda: asks(secure_port, access.token, access.tls)),
            "joining": Door(joiner_at(door.port), offered),
            "member": Door(member_at(port, token), lambda: asks(port, token, None)),
            "memory": Door(neighbour_at(port, token), lambda: asks(port, token, None)),
        }
        status = run(doors, args)
        for closing in (plain.close, secure.close, door.close):
            closing()
    return status


def run(doors: dict[str, Door], args: argparse.Namespace) -> int:
    stop = time.monotonic() + args.seconds
    for name, door in doors.items():
        rng, thrown, started = random.Random(f"{args.seed} {name}"), 0, time.monotonic()
        while thrown < min(500, args.frames):  # what is made once
            thrown += door.attack(rng, 20)
        door.honest()
        before = settled()
        while thrown < args.frames // len(doors) and time.monotonic() < stop:
            thrown += door.attack(rng, args.frames - thrown)
        door.honest()
        after = settled()
        seconds = time.monotonic() - started
        print(
            f"{name:8} {thrown:9,} frames in {seconds:5.0f} s; MB, files, threads: {before} -> {after}",
            flush=True,
        )
        if after[0] - before[0] > GROWTH_MB or any(b - a > GROWTH_COUNT for a, b in zip(before[1:], after[1:])):
            print(f"{name}: it grew; seed {args.seed}")
            return 1
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"peak {peak_mb} MB; every door served an honest caller at the end")
    return 0


def settled() -> tuple[int, int, int]:
    """Once what was thrown has been dealt with: connections end in threads of their own."""
    found = held_now()
    for _ in range(100):
        time.sleep(0.1)
        last, found = found, held_now()
        if last[1:] == found[1:]:
            break
    return found


if __name__ == "__main__":
    sys.exit(main())
