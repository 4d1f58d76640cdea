"""Two helpers in one process, over a world in memory that is as strict as `jaccl`: who sends while something is on its
way to it, or while the other side does not receive, or receives another size than was sent, fails."""

import json
import mmap
import os
import queue
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from motley.cluster.link import HEADER
from motley.cluster.local_link import LocalLink, rings_of
from motley.cluster.mlx_helper import REST_S, Channel, Helper, World
from motley.cluster.mlx_process import _new_file
from motley.cluster.tcp_link import TcpLink


class Strict:
    """The world of one side; `other` and `helper` are filled in."""

    other: "Strict"
    helper: Helper

    def __init__(self) -> None:
        self.came: queue.Queue[bytes] = queue.Queue()
        self.faults: list[str] = []

    def send(self, data: np.ndarray[Any, Any]) -> None:
        if not self.came.empty():
            self.faults.append("it sends, and did not take what came")
        if self.other.helper._rests:
            self.faults.append("it sends to one that rests")
        self.other.came.put(data.tobytes())

    def receive(self, n_bytes: int) -> memoryview:
        data = self.came.get(timeout=30)
        if len(data) != n_bytes:
            self.faults.append(f"{len(data)} bytes came where {n_bytes} were awaited")
        return memoryview(data)


class Side:
    def __init__(self, world: Strict, side: socket.socket, *, begins: bool) -> None:
        self.control, theirs = socket.socketpair()
        self.world = world
        world.helper = Helper(theirs, side, world, begins=begins)  # type: ignore[arg-type]
        self.thread = threading.Thread(target=world.helper.run, daemon=True)
        self.links: list[LocalLink] = []

    def open(self, tag: int, beside: TcpLink) -> LocalLink:
        file = _new_file()
        bell, theirs = socket.socketpair()
        memory = mmap.mmap(file, os.fstat(file).st_size)
        socket.send_fds(self.control, [struct.pack("<I", tag)], [file, theirs.fileno()])
        os.close(file)
        theirs.close()
        self.links.append(LocalLink(memory, bell, beside, accepted=False))
        return self.links[-1]


@pytest.fixture
def sides() -> Iterator[list[Side]]:
    worlds = Strict(), Strict()
    worlds[0].other, worlds[1].other = worlds[1], worlds[0]
    ends = socket.socketpair()
    found = [Side(world, end, begins=bool(i)) for i, (world, end) in enumerate(zip(worlds, ends))]
    for side in found:
        side.thread.start()
    yield found
    found[0].control.close()  # the other one hears of it, and ends as well
    for side in found:
        side.thread.join(20)
        assert not side.thread.is_alive()
        assert side.world.faults == []
        for link in side.links:
            link.close()
        side.control.close()


def beside() -> tuple[TcpLink, TcpLink]:
    with closing(socket.create_server(("127.0.0.1", 0))) as door:
        caller = socket.create_connection(door.getsockname())
        return TcpLink(caller), TcpLink(door.accept()[0])


def linked(sides: list[Side], tag: int) -> tuple[LocalLink, LocalLink]:
    a, b = beside()
    return sides[0].open(tag, a), sides[1].open(tag, b)


@pytest.mark.parametrize("seed", range(3))
def test_any_traffic_keeps_to_the_turns(sides: list[Side], seed: int) -> None:
    """Both ways at once on several links, with silences long enough to rest in."""
    pairs = [linked(sides, tag) for tag in (2, 5, 8)]
    failed: list[BaseException] = []

    def talk(link: LocalLink, number: int) -> None:
        rng = random.Random(100 * seed + number)
        try:
            for i in range(8):
                for k in range(3):  # before anything of the other's is taken
                    size = rng.choice((0, 1, 100, 32_000, 33_000, 1 << 20, 3_000_000))
                    link.send(1, 3 * i + k, [bytes([i]) * size])
                    time.sleep(rng.choice((0, 0, 0, 1e-3, 3 * REST_S)))
                for k in range(3):
                    frame = link.receive(30)
                    assert (frame.request, frame.payload == bytes([i]) * len(frame.payload)) == (3 * i + k, True)
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=talk, args=(link, 2 * number + k), daemon=True)
        for number, pair in enumerate(pairs)
        for k, link in enumerate(pair)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failed == []


def test_what_comes_before_its_link_is_kept_and_after_it_dropped(sides: list[Side]) -> None:
    a, b = beside()
    early = sides[0].open(3, a)
    early.send(1, 7, [b"before"])
    time.sleep(5 * REST_S)
    late = sides[1].open(3, b)
    assert late.receive(10).payload == b"before"
    late.close()
    steady = linked(sides, 4)
    for i in range(3):
        steady[0].send(1, i, [b"on"])
        assert steady[1].receive(10).request == i


def test_a_frame_whose_header_comes_in_pieces_is_one_frame() -> None:
    """As it does where a ring is full."""
    file = _new_file()
    bell, theirs = socket.socketpair()
    memory = mmap.mmap(file, os.fstat(file).st_size)
    out = rings_of(memory, accepted=False)[0]
    channel = Channel(file, theirs.detach())
    frame = HEADER.pack(b"MTLY", 1, 1, 5, 9, 0) + b"12345"
    room = memoryview(bytearray(1000))
    took = b""
    for cut in (frame[:3], frame[3:22], frame[22:], b"GET / rubbish that is no frame"):
        out.push([cut])
        took += bytes(room[: channel.take(room, 0.0)])
    assert took == frame + b"GET / rubbish that is no frame"
    assert channel.left == 0
    bell.close()
    channel.bell.close()


@pytest.mark.parametrize(("rank", "both"), [(0, b"own111other2"), (1, b"other2own111")])
def test_what_jaccl_is_told(rank: int, both: bytes) -> None:
    """By an MLX that is made up: none with jaccl is here."""
    told: dict[str, Any] = {}
    mx = mock.MagicMock()

    def init(*, strict: bool, backend: str, all_gather_factory: Any) -> None:
        told.update(backend=backend, rank=os.environ["MLX_RANK"])
        told["devices"] = json.loads(Path(os.environ["MLX_IBV_DEVICES"]).read_text())
        told["both"] = all_gather_factory(rank, 2)(b"own111", 6)

    mx.distributed.init = init
    side, other = socket.socketpair()
    other.sendall(b"other2")
    modules = {"mlx": mock.MagicMock(core=mx), "mlx.core": mx}
    with mock.patch.dict("sys.modules", modules), mock.patch.dict(os.environ), side, other:
        World({"backend": "jaccl", "rank": rank, "devices": ["rdma_en5", "rdma_en2"]}, side)
        assert other.recv(100) == b"own111"
        mx.distributed.is_available.return_value = False
        with pytest.raises(RuntimeError, match="this MLX has no jaccl"):
            World({"backend": "jaccl", "rank": rank, "devices": []}, side)
    assert told == {
        "backend": "jaccl",
        "rank": str(rank),
        "devices": [[None, "rdma_en5"], ["rdma_en2", None]],  # of each rank, towards the other
        "both": both,
    }
