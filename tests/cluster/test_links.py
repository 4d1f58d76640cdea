"""Links: the same tests for the in-memory twin, TCP on loopback and shared memory; then what only a wire can do wrong
(`test_local_link` has what only memory can)."""

import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from motley.cluster.link import HEADER, Link, pack_header
from motley.cluster.memory_link import memory_links
from motley.cluster.neighbour import answer, offer, possible
from motley.cluster.spin import Spin
from motley.cluster.tcp_link import TcpLink, connect, listen
from motley.errors import ClusterError, LinkError


@pytest.fixture(params=["memory", "tcp", "tcp, no spin", "local", "local, no spin"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Link, Link]]:
    kind, spin_us = request.param.partition(",")[0], 0 if "no spin" in request.param else 200
    pair: tuple[Link, Link]
    if kind == "memory":
        pair = memory_links()
    elif kind == "tcp":
        pair = tcp_pair(spin_us)
    else:
        pair = local_pair(spin_us)
    yield pair
    for link in pair:
        link.close()


def tcp_pair(spin_us: float = 200) -> tuple[TcpLink, TcpLink]:
    listener = listen(spin_us=spin_us)
    a = connect("127.0.0.1", listener.port, spin_us=spin_us)
    b = listener.accept()
    listener.close()
    return a, b


def local_pair(spin_us: float = 200) -> tuple[Link, Link]:
    if not possible():
        pytest.skip("memory can be shared on Linux only")
    a, b = tcp_pair(spin_us)
    answered: list[Link] = []
    thread = threading.Thread(target=lambda: answered.append(answer(b, b.receive(5), "b")))
    thread.start()
    offered = offer(a)
    thread.join()
    return offered, answered[0]


def raw_pair() -> tuple[socket.socket, TcpLink]:
    listener = listen()
    raw = socket.create_connection(("127.0.0.1", listener.port))
    link = listener.accept()
    listener.close()
    return raw, link


def test_frames_arrive_in_order_with_all_their_parts(ends: tuple[Link, Link]) -> None:
    a, b = ends
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    a.send(7, 1, [b"head", values.data, bytearray(), memoryview(b"tail")])
    a.send(8, 0xFFFFFFFF, [])
    frame = b.receive(1)
    assert (frame.kind, frame.request, bytes(frame.payload)) == (7, 1, b"head" + values.tobytes() + b"tail")
    frame = b.receive(1)
    assert (frame.kind, frame.request, frame.payload.nbytes) == (8, 0xFFFFFFFF, 0)


def test_many_frames_of_odd_sizes_both_ways(ends: tuple[Link, Link]) -> None:
    a, b = ends
    noise = np.random.default_rng(1).bytes(400_000)
    sizes = [0, 1, 23, 24, 25, 65_511, 65_512, 65_513, 65_536, 400_000, 3, 65_535, 0]

    def echo() -> None:
        for _ in sizes:
            frame = b.receive(10)
            b.send(frame.kind, frame.request, [frame.payload])

    thread = threading.Thread(target=echo)
    thread.start()
    for i, size in enumerate(sizes):
        a.send(i, i, [noise[:size]])
        frame = a.receive(10)
        assert (frame.kind, frame.request) == (i, i)
        assert frame.payload == noise[:size]
    thread.join()


def test_frames_larger_than_all_buffers(ends: tuple[Link, Link]) -> None:
    a, b = ends
    noise = np.random.default_rng(3).bytes(21_000_001)
    sender = threading.Thread(target=a.send, args=(1, 1, [noise[:7], noise[7:]]))
    sender.start()
    assert b.receive(20).payload == noise
    sender.join()


def test_queued_frames_of_all_sizes_are_told_apart(ends: tuple[Link, Link]) -> None:
    """More than one frame may lie in the receive buffer."""
    a, b = ends
    sizes = [int(s) for s in np.random.default_rng(2).integers(0, 30_000, 200)]
    sender = threading.Thread(target=lambda: [a.send(1, i, [bytes([i % 256]) * s]) for i, s in enumerate(sizes)])
    sender.start()
    for i, size in enumerate(sizes):
        frame = b.receive(10)
        assert (frame.request, frame.payload.nbytes) == (i, size)
        assert frame.payload == bytes([i % 256]) * size
    sender.join()


def test_payload_is_aligned_for_float64() -> None:
    a, b = tcp_pair()
    for size in (8, 1 << 20):
        a_sender = threading.Thread(target=a.send, args=(1, 1, [bytes(size)]))
        a_sender.start()
        assert np.frombuffer(b.receive(5).payload, np.float64).flags.aligned
        a_sender.join()
    a.close()
    b.close()


def test_closed_by_the_other_side(ends: tuple[Link, Link]) -> None:
    a, b = ends
    threading.Timer(0.1, a.close).start()
    with pytest.raises(LinkError, match="clos"):
        b.receive(5)
    with pytest.raises(LinkError):
        b.receive(5)


def test_timeout_between_frames_leaves_the_link_usable(ends: tuple[Link, Link]) -> None:
    a, b = ends
    with pytest.raises(LinkError, match="sent nothing"):
        b.receive(0.05)
    a.send(3, 3, [b"late"])
    assert bytes(b.receive(1).payload) == b"late"


def test_interrupt_wakes_a_receiver(ends: tuple[Link, Link]) -> None:
    a, _ = ends
    threading.Timer(0.1, a.interrupt).start()
    with pytest.raises(LinkError):
        a.receive()
    with pytest.raises(LinkError):
        a.send(1, 1, [])


def test_too_large_a_frame_is_not_sent(ends: tuple[Link, Link]) -> None:
    a, b = ends
    a.max_payload = 100
    with pytest.raises(LinkError, match="at most 100"):
        a.send(1, 1, [bytes(101)])
    a.send(1, 2, [bytes(100)])
    assert b.receive(1).request == 2


def test_memory_twin_spoils_a_payload_that_was_kept_too_long() -> None:
    a, b = memory_links()
    a.send(1, 1, [b"first"])
    a.send(1, 2, [b"second"])
    kept = b.receive().payload
    b.receive()
    assert bytes(kept) == b"\xaa" * 5


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "not a Motley link"),
        (HEADER.pack(b"MTLY", 9, 1, 0, 1, 0), "version 9"),
        (HEADER.pack(b"MTLY", 1, 1, 1 << 62, 1, 0), "at most"),
        (b"MTL", "closed the link"),
        (pack_header(1, 1, 100) + b"short", "closed the link"),
    ],
)
def test_malformed_streams_are_link_errors(data: bytes, sentence: str) -> None:
    raw, link = raw_pair()
    raw.sendall(data)
    raw.shutdown(socket.SHUT_WR)
    with pytest.raises(LinkError, match=sentence):
        link.receive(1)
    with pytest.raises(LinkError):
        link.receive(1)  # and the link stays broken
    raw.close()
    link.close()


def test_an_announced_gigabyte_costs_no_memory_until_it_comes() -> None:
    psutil = pytest.importorskip("psutil")
    raw, link = raw_pair()
    before = psutil.Process().memory_info().rss
    raw.sendall(pack_header(1, 1, 1 << 30) + bytes(1000))
    with pytest.raises(LinkError, match="middle of a frame"):
        link.receive(0.2)
    assert psutil.Process().memory_info().rss - before < 50e6
    raw.close()
    link.close()


def test_a_reset_connection_is_a_link_error() -> None:
    raw, link = raw_pair()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    with pytest.raises(LinkError, match=r"broke|closed"):
        link.receive(1)
    with pytest.raises(LinkError):
        link.send(1, 1, [b"x"])
    link.close()


def test_a_peer_that_takes_nothing_times_out() -> None:
    listener = listen()
    raw = socket.create_connection(("127.0.0.1", listener.port))
    link = TcpLink(listener._sock.accept()[0], send_timeout_s=0.2)
    with pytest.raises(LinkError, match="took nothing"):
        link.send(1, 1, [bytes(100_000_000)])
    raw.close()
    link.close()
    listener.close()


def test_listens_on_loopback_only_unless_asked() -> None:
    listener = listen()
    assert listener._sock.getsockname()[0] == "127.0.0.1"
    listener.close()


def test_listen_on_a_taken_port_and_connect_to_nobody() -> None:
    listener = listen()
    with pytest.raises(ClusterError, match="choose another"):
        listen(port=listener.port)
    listener.close()
    with pytest.raises(LinkError, match="no node answers"):
        connect("127.0.0.1", listener.port, 1)


def test_closing_a_listener_wakes_accept() -> None:
    listener = listen()
    threading.Timer(0.1, listener.close).start()
    with pytest.raises(LinkError, match="ended"):
        listener.accept()


def test_spin_adapts_to_what_arrives() -> None:
    spin = Spin(400)
    for _ in range(10):
        spin.learn(0.1, False)  # nothing came for long: stop looking
    assert spin.budget_s == pytest.approx(20e-6)
    for _ in range(20):
        spin.learn(100e-6, False)  # quick answers again
    assert spin.budget_s == pytest.approx(400e-6)
    spin.learn(100e-6, True)  # somebody else needs the core
    assert spin.budget_s == pytest.approx(100e-6)
    never = Spin(0)
    never.learn(0, False)
    assert never.budget_s == 0


def test_waiting_takes_no_processor_time() -> None:
    a, b = tcp_pair()
    cpu = time.thread_time()
    with pytest.raises(LinkError):
        a.receive(0.5)
    assert time.thread_time() - cpu < 0.25
    a.close()
    b.close()
