"""Shared memory: who gets it, what rubbish in it does, who dies while using it, and when it is chosen."""

import fcntl
import mmap
import os
import random
import signal
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import psutil
import pytest

from cluster.test_serving import TOKEN, ToyHandler
from motley.cluster import choice, messages, neighbour, remote
from motley.cluster.choice import Choice
from motley.cluster.hello import call
from motley.cluster.link import HEADER, Link, pack_header
from motley.cluster.messages import Kind, Offer
from motley.cluster.remote import ask
from motley.cluster.server import Server
from motley.cluster.tcp_link import TcpLink, connect, listen
from motley.errors import ClusterError, LinkError
from motley.ops.native._native import Ring

pytestmark = pytest.mark.skipif(not neighbour.possible(), reason="memory can be shared on Linux only")
if neighbour.possible():
    from motley.cluster.local_link import CONTROL_BYTES, MEMORY_BYTES, RING_BYTES, SECRETS_BYTES, LocalLink

WRITTEN, BEGUN, READ = 0, 8, 128  # where a ring's counters are: native/ring.h


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(listen(), ToyHandler(), cluster="c", name="toy", token=TOKEN)
    yield server
    server.close()
    assert not server._links


def greeted(server: Server) -> TcpLink:
    return call("127.0.0.1", server.listener.port, cluster="c", name="head", token=TOKEN)


@contextmanager
def shared(server: Server) -> Iterator[tuple["LocalLink", mmap.mmap]]:
    """A link of this process to itself, and the memory below it."""
    kept: list[mmap.mmap] = []
    make = neighbour._new_memory

    def keep(secret: bytes) -> tuple[int, mmap.mmap]:
        file, memory = make(secret)
        kept.append(memory)
        return file, memory

    with mock.patch.object(neighbour, "_new_memory", keep):
        link = neighbour.offer(greeted(server))
    yield link, kept[0]
    link.close()
    kept[0].close()


# -- the ring


def test_a_ring_is_a_queue_of_bytes() -> None:
    """Beside the obvious one: pushes and pulls of odd sizes, wrapped, full and empty."""
    rng, size = random.Random(1), 1000
    memory = bytearray(1024 + size)
    writer, reader = (Ring(memory, 0, 1024, size) for _ in range(2))
    obvious: deque[int] = deque()
    for _ in range(20_000):
        if rng.random() < 0.5:
            parts = [rng.randbytes(rng.choice([0, 1, 7, 64, 300, 999])) for _ in range(rng.randrange(4))]
            said = b"".join(parts)
            sent = writer.push(parts)
            assert sent == min(len(said), size - len(obvious))
            obvious += said[:sent]
        else:
            room = bytearray(rng.choice([1, 5, 100, 2000]))
            n = reader.pull(room, 0)
            assert bool(n) == bool(obvious)
            assert bytes(room[:n]) == bytes(obvious.popleft() for _ in range(n))


@pytest.mark.parametrize("at", [WRITTEN, READ])
@pytest.mark.parametrize("value", [1001, 1 << 32, 1 << 63])
def test_an_impossible_count_is_refused(at: int, value: int) -> None:
    memory = bytearray(1024 + 1000)
    ring = Ring(memory, 0, 1024, 1000)
    struct.pack_into("<Q", memory, at, value)
    with pytest.raises(ValueError, match="bytes in a ring of 1000"):
        ring.pull(bytearray(10), 0) if at == WRITTEN else ring.push([b"x"])


def test_any_beginning_stays_within_the_ring() -> None:
    rng, memory = random.Random(2), bytearray(1024 + 1000) + b"beyond"
    ring = Ring(memory, 0, 1024, 1000)
    room, counted = bytearray(5000), 0
    for _ in range(2000):
        struct.pack_into("<QQ", memory, WRITTEN, counted + rng.randrange(1001), rng.getrandbits(64))
        counted += (n := ring.pull(room, 0))
        assert n <= 1000
        assert b"beyond" not in room[:n]


@pytest.mark.parametrize(("control", "data", "size"), [(0, 512, 10_000), (-128, 512, 512), (64, 512, 512), (0, 512, 0)])
def test_a_ring_lies_within_its_memory(control: int, data: int, size: int) -> None:
    with pytest.raises(ValueError, match="bytes at"):
        Ring(bytearray(4096), control, data, size)


# -- calls over it


def test_calls_are_served_and_measured(server: Server) -> None:
    with shared(server) as (link, _):
        assert ask(link, "memory", unit="GB") == {"what": "memory", "unit": "GB"}
        assert link.peer == "toy"
        for n_bytes in (*choice.SIZES, RING_BYTES + 3):
            assert remote.ping_s(link, n_bytes) > 0
        assert remote.measure(link, pings=50, bulk=3).transport == "local"


def test_several_calls_are_answered_in_their_order(server: Server) -> None:
    with shared(server) as (link, _):
        for i in range(200):
            link.send(Kind.PING, i, [bytes([i]) * 40 * i])
        for i in range(200):
            frame = link.receive(10)
            assert (frame.kind, frame.request, bytes(frame.payload)) == (Kind.PONG, i, bytes([i]) * 40 * i)


def test_who_sleeps_is_woken_and_takes_no_processor_time(server: Server) -> None:
    with shared(server) as (link, _):
        for _ in range(3):
            cpu = time.thread_time()
            with pytest.raises(LinkError, match="sent nothing"):
                link.receive(0.3)
            assert time.thread_time() - cpu < 0.15
            assert ask(link, "still")["what"] == "still"


def test_nothing_is_left_of_a_closed_link(server: Server) -> None:
    def held() -> tuple[int, int]:
        mapped = sum("motley-link" in m.path for m in psutil.Process().memory_maps(grouped=False))
        return psutil.Process().num_fds(), mapped

    ask(greeted(server), "warm")
    before = held()
    for _ in range(5):
        with shared(server) as (link, _):
            ask(link, "x")
    deadline = time.monotonic() + 5
    while held() > before and time.monotonic() < deadline:  # the server's side ends in threads of its own
        time.sleep(0.02)
    assert held() <= before


def test_closing_the_server_ends_it(server: Server) -> None:
    with shared(server) as (link, _):
        server.close()
        with pytest.raises(LinkError, match="closed"):
            link.receive(5)


def test_a_second_offer_is_refused(server: Server) -> None:
    with shared(server) as (link, _):
        link.send(Kind.OFFER, 0, messages.as_json(Offer("0" * 32, "00")))
        with pytest.raises(ClusterError, match="shares no memory over this link"):
            messages.expect(link.receive(5), Kind.OPENED, 0)
        assert ask(link, "still")["what"] == "still"


# -- who dies


def test_a_killed_peer_is_noticed_in_mid_exchange() -> None:
    listener = listen()
    child = os.fork()
    if not child:
        try:
            link: Link = listener.accept()
            link = neighbour.answer(link, link.receive(5), "child")
            link.receive(5)
            signal.pause()
        finally:
            os._exit(1)
    link = neighbour.offer(connect("127.0.0.1", listener.port))
    link.send(Kind.PING, 1, [b"answer me"])
    threading.Timer(0.2, os.kill, (child, signal.SIGKILL)).start()
    with pytest.raises(LinkError, match="closed the link"):
        link.receive(30)
    with pytest.raises(LinkError):
        link.send(Kind.PING, 2, [])
    os.waitpid(child, 0)
    link.close()
    listener.close()


def test_a_peer_that_takes_nothing_times_out(server: Server) -> None:
    with shared(server) as (link, _):
        link._send_timeout_s = 0.2
        busy = mock.Mock(side_effect=lambda *_: time.sleep(1))  # the server's thread
        with mock.patch.object(ToyHandler, "ask", busy):
            link.send(Kind.ASK, 1, [b"{}"])
            with pytest.raises(LinkError, match="took nothing"):
                link.send(Kind.PING, 2, [bytes(2 * RING_BYTES)])


# -- rubbish


def spoil(memory: mmap.mmap, ring: int, at: int, value: int) -> None:
    struct.pack_into("<Q", memory, SECRETS_BYTES + ring * CONTROL_BYTES + at, value)


def wake(link: "LocalLink") -> None:
    link._bell.send(b"!")


def test_rubbish_counts_end_the_link_in_a_sentence_on_both_sides(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    for ring in range(2):
        with shared(server) as (link, memory):
            ask(link, "before")
            given_up: list[bool] = []
            link.on_spoilt = lambda given_up=given_up: given_up.append(True)  # type: ignore[misc]
            caplog.clear()
            spoil(memory, ring, WRITTEN, 1 << 40)
            wake(link)
            with pytest.raises(LinkError, match=r"spoilt|closed the link"):
                link.receive(5)
            assert given_up == [True]
            assert "is spoilt" in caplog.text


def test_frames_that_are_none_end_the_link(server: Server) -> None:
    """Written past `send`, as only a hostile process does."""
    for rubbish in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", HEADER.pack(b"MTLY", 1, 1, 1 << 62, 1, 0)):
        with shared(server) as (link, _):
            link._rings[0].push([rubbish])
            wake(link)
            with pytest.raises(LinkError, match="closed the link"):
                link.receive(5)


def test_an_announced_gigabyte_costs_no_memory(server: Server) -> None:
    with shared(server) as (link, _):
        ask(link, "before")
        before = psutil.Process().memory_info().rss
        link._rings[0].push([pack_header(Kind.PING, 1, 1 << 30), bytes(1000)])
        wake(link)
        with pytest.raises(LinkError, match="sent nothing"):
            link.receive(0.3)
        assert psutil.Process().memory_info().rss - before < 50e6


def test_hostile_memory_ends_that_link_only(server: Server) -> None:
    """Random bytes anywhere in it, while both sides use it."""
    rng, good = random.Random(5), greeted(server)
    for _ in range(40):
        with shared(server) as (link, memory):
            for _ in range(rng.randrange(1, 30)):
                at = rng.choice([rng.randrange(MEMORY_BYTES - 64), rng.randrange(SECRETS_BYTES, 4096 - 64)])
                n = rng.choice([1, 8, 64])
                memory[at : at + n] = rng.randbytes(n)
                try:
                    link.send(Kind.PING, 1, [rng.randbytes(rng.randrange(2000))])
                    link.receive(0.05)
                except LinkError as error:
                    if "sent nothing" not in str(error):
                        break
    assert ask(good, "still")["what"] == "still"
    good.close()


# -- who is a neighbour


def refused(server: Server, sentence: str) -> None:
    """The link over which it was offered goes on."""
    link = greeted(server)
    with pytest.raises(ClusterError, match=sentence):
        neighbour.offer(link)
    assert ask(link, "still") == {"what": "still"}
    link.close()


def test_another_user_is_no_neighbour(server: Server) -> None:
    me, here = os.geteuid(), threading.current_thread()
    for caller in (True, False):
        with mock.patch.object(
            os, "geteuid", lambda caller=caller: me + ((threading.current_thread() is here) == caller)
        ):
            refused(server, "another user|no memory came")


def test_where_the_socket_is_not_there_is_no_neighbour(server: Server) -> None:
    """As in another network namespace or on another machine."""
    name = neighbour._address
    here = threading.current_thread()
    elsewhere = lambda told: name(told) + (b"" if threading.current_thread() is here else b"-elsewhere")  # noqa: E731
    with mock.patch.object(neighbour, "_address", elsewhere):
        refused(server, "no memory can be shared")


def memory_with(size: int, seals: int, secret: bool = True) -> Callable[[bytes], tuple[int, mmap.mmap]]:
    def make(told: bytes) -> tuple[int, mmap.mmap]:
        file = os.memfd_create("motley-link", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(file, size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
        memory = mmap.mmap(file, size)
        memory[: len(told)] = told if secret else bytes(len(told))
        return file, memory

    return make


@pytest.mark.parametrize(
    ("size", "seals", "secret", "sentence"),
    [
        (0, 0, True, "could shrink"),
        (0, fcntl.F_SEAL_GROW, True, "could shrink"),
        (-4096, fcntl.F_SEAL_SHRINK, True, "another size"),
        (4096, fcntl.F_SEAL_SHRINK, True, "another size"),
        (0, fcntl.F_SEAL_SHRINK, False, "other memory"),
    ],
)
def test_only_the_right_memory_is_taken(server: Server, size: int, seals: int, secret: bool, sentence: str) -> None:
    with mock.patch.object(neighbour, "_new_memory", memory_with(MEMORY_BYTES + size, seals, secret)):
        refused(server, sentence)


def test_a_pipe_is_no_memory(server: Server) -> None:
    reading, writing = os.pipe()

    def pipe(secret: bytes) -> tuple[int, mmap.mmap]:
        return os.dup(reading), mmap.mmap(-1, MEMORY_BYTES)

    with mock.patch.object(neighbour, "_new_memory", pipe):
        refused(server, "no memory can be shared")
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("offer", [b"{}", b'{"name":"../x","secret":"00"}', b'{"name":"\xc3\xa4","secret":"00"}', b"["])
def test_malformed_offers_end_the_connection(server: Server, offer: bytes) -> None:
    link = greeted(server)
    link.send(Kind.OFFER, 0, [offer])
    with pytest.raises(LinkError):
        link.receive(5)
    link.close()


def test_who_does_not_prove_the_memory_is_left(server: Server) -> None:
    with mock.patch("secrets.token_bytes", lambda n: bytes(n)), mock.patch.object(neighbour, "SECRET_BYTES", 32):
        link = greeted(server)
        make = neighbour._new_memory

        def two(secret: bytes) -> tuple[int, mmap.mmap]:
            """What is handed over is a copy of what is kept."""
            file, _ = make(secret)
            kept = mmap.mmap(-1, MEMORY_BYTES)
            kept[32:64] = b"x" * 32
            return file, kept

        with mock.patch.object(neighbour, "_new_memory", two), pytest.raises(LinkError, match="and does not"):
            neighbour.offer(link)
        link.close()


# -- the choice


def chosen(server: Server, between: Choice | None = None) -> str:
    between = between or Choice()
    link = between.connect(("127.0.0.1", server.listener.port), lambda: greeted(server))
    assert ask(link, "it")["what"] == "it"
    link.close()
    return link.transport


@pytest.mark.parametrize(
    ("local", "tcp", "better"),
    [((10, 1), (50, 2), "local"), ((50, 2), (10, 1), "tcp"), ((10, 3.1), (10, 1), "tcp"), ((10, 2), (8, 1), "local")],
)
def test_the_better_one_is_kept(
    server: Server, local: tuple[float, float], tcp: tuple[float, float], better: str
) -> None:
    figures = {"local": local, "tcp": tcp}
    between = Choice()
    with mock.patch.object(choice, "speed_of", lambda link: choice.Speed(*figures[link.transport])):
        assert chosen(server, between) == better
    with mock.patch.object(choice, "speed_of", None):
        assert chosen(server, between) == better  # as it was found


def test_memory_that_corrupts_is_not_used(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with mock.patch.object(choice, "ping_s", mock.Mock(side_effect=LinkError("this link corrupts data"))):
        assert chosen(server) == "tcp"
    assert "corrupts data" in caplog.text


def test_who_refused_is_asked_once(server: Server) -> None:
    between = Choice()
    with mock.patch.object(choice, "offer", mock.Mock(side_effect=ClusterError("another machine"))) as offer:
        assert [chosen(server, between) for _ in range(3)] == ["tcp"] * 3
    assert offer.call_count == 1


def test_an_offer_that_breaks_the_link_costs_one_more_connection(server: Server) -> None:
    def broken(link: TcpLink) -> "LocalLink":
        link.interrupt()
        raise LinkError("gone")

    with mock.patch.object(choice, "offer", broken):
        assert chosen(server) == "tcp"


def test_where_measuring_fails_the_socket_serves_and_the_next_one_measures(server: Server) -> None:
    between, measured = Choice(), choice.speed_of
    for broken in ("local", "tcp"):

        def speed_of(link: Link, broken: str = broken) -> choice.Speed:
            if link.transport == broken:
                link.interrupt()
            return measured(link)

        with mock.patch.object(choice, "speed_of", speed_of):
            assert chosen(server, between) == "tcp"
    assert not between._shares
    with mock.patch.object(choice, "speed_of", lambda link: choice.Speed(1 + (link.transport == "tcp"), 1)):
        assert chosen(server, between) == "local"


def test_spoilt_memory_is_not_shared_again(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    between, address = Choice(), ("127.0.0.1", server.listener.port)
    between._shares[address] = True
    link = between.connect(address, lambda: greeted(server))
    assert isinstance(link, LocalLink)
    link._rings[0].push([b"not a frame, twenty-four bytes"])
    wake(link)
    with pytest.raises(LinkError):
        link.receive(5)
    link.close()
    assert "is spoilt" in caplog.text
    assert chosen(server, between) == "tcp"
