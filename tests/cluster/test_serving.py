"""Calls over a link and their answers: the same through memory and TCP; who may connect; what errors become."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import psutil
import pytest

from motley.cluster import messages, remote
from motley.cluster.assignment import Assignment
from motley.cluster.hello import HELLO, Hello, admit, greet, new_token
from motley.cluster.link import Link, pack_header
from motley.cluster.memory_link import memory_links
from motley.cluster.messages import F32, F64, I32, Kind
from motley.cluster.remote import RemoteExperts, RemoteLoad, RemoteStage
from motley.cluster.server import Server, serve
from motley.cluster.tcp_link import connect, listen
from motley.errors import CapacityError, ClusterError, LinkError
from motley.ops.protocol import Batch
from motley.progress import Progress

TOKEN = "a token"


class ToyHandler:
    def experts(self, layer: int, x: F32, ids: I32, weights: F32) -> F64:
        if layer == 99:
            raise CapacityError("layer 99 does not fit")
        if layer == 98:
            raise IndexError("a mistake")
        return x.astype(np.float64) * layer + (ids * weights).sum(axis=1, keepdims=True)

    def stage(self, batch: Batch, x: F32 | None) -> tuple[F32, dict[str, float]]:
        x = np.ones((len(batch), 4), np.float32) if x is None else x
        return x[batch.rows] + batch.tokens[batch.rows, None].astype(np.float32), {"attention": 0.001}

    def load(self, assignment: Assignment, progress: Progress) -> dict[str, Any]:
        progress("opening", 0.0)
        time.sleep(0.15)
        progress("layer 1", 0.5)
        progress("too soon to be told", 0.6)
        return {"bytes": 42, "layers": list(assignment.home_layers)}

    def ask(self, what: str, arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
        for i in range(arguments.get("figures", 0)):
            time.sleep(0.15)
            progress(f"figure {i}", i / 4)
        return {"what": what, **arguments}


@pytest.fixture(params=["memory", "tcp"])
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    if request.param == "memory":
        here, there = memory_links()
        thread = threading.Thread(target=serve, args=(there, ToyHandler(), "toy"), daemon=True)
        thread.start()
        yield here
        here.close()
        thread.join(2)
        assert not thread.is_alive()
        return
    server = Server(listen(), ToyHandler(), cluster="c", name="toy", token=TOKEN)
    tcp = connect("127.0.0.1", server.listener.port)
    greet(tcp, "c", "head", TOKEN)
    assert tcp.peer == "toy"
    yield tcp
    tcp.close()
    server.close()
    assert not server._accepting.is_alive()


def call(experts: RemoteExperts, layer: int, t: int = 3) -> tuple[F64, F64]:
    x = np.random.default_rng(t).standard_normal((t, 16)).astype(np.float32)
    ids = np.full((t, 2), 3, np.int32)
    weights = np.full((t, 2), 0.5, np.float32)
    experts.start(layer, x, ids, weights)
    return experts.finish().copy(), ToyHandler().experts(layer, x, ids, weights)


def test_experts(link: Link) -> None:
    experts = RemoteExperts(link)
    for t in (1, 3, 700):
        got, want = call(experts, 7, t)
        assert got.tobytes() == want.tobytes()
    traffic = experts.traffic
    assert traffic.exchanges == 3
    assert traffic.busy_s > 0


def test_stage(link: Link) -> None:
    stage = RemoteStage(link)
    batch = Batch([5, 6], [0, 1], [0, 0], [1])
    stage.start(batch, None)
    reply = stage.finish()
    np.testing.assert_array_equal(reply.y, np.full((1, 4), 7, np.float32))
    assert reply.times == {"attention": 0.001}
    assert stage.traffic.busy_s == reply.busy_s > 0
    stage.start(batch, np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(stage.finish().y, np.full((1, 3), 6, np.float32))


def test_load_reports_progress(link: Link) -> None:
    load, told = RemoteLoad(link), []
    load.start(Assignment("cpu0", "m.gguf", "x", context=8, slots=1, home_layers=(0, 1)))
    facts = load.finish(lambda what, fraction: told.append((fraction, what)))
    assert facts == {"bytes": 42, "layers": [0, 1]}
    assert told == [(0.0, "opening"), (0.5, "layer 1")]


def test_ask(link: Link) -> None:
    assert remote.ask(link, "memory", unit="GB") == {"what": "memory", "unit": "GB"}


def test_a_question_that_takes_long_may_be_answered_late_but_not_in_silence(link: Link) -> None:
    """Each sign of progress gives the node the whole time once more."""
    told: list[tuple[str, float]] = []
    with mock.patch.object(link, "receive", side_effect=link.receive) as receive:
        answer = remote.ask(link, "probe", 20.0, lambda what, done: told.append((what, done)), figures=3)
    assert answer == {"what": "probe", "figures": 3}
    assert told == [(f"figure {i}", i / 4) for i in range(3)]
    assert [call.args for call in receive.mock_calls] == [(20.0,)] * 4


def test_errors_travel_and_the_link_goes_on(link: Link) -> None:
    experts = RemoteExperts(link)
    with pytest.raises(CapacityError, match="toy: layer 99 does not fit"):
        call(experts, 99)
    with pytest.raises(ClusterError, match="toy: internal error: IndexError: a mistake"):
        call(experts, 98)
    got, want = call(experts, 1)
    assert got.tobytes() == want.tobytes()


def test_measure(link: Link) -> None:
    speed = remote.measure(link, pings=50, bulk=3)
    assert speed.transport == link.transport
    assert 0 < speed.rtt_us < 50_000
    assert speed.gb_s > 0.01


def test_a_malformed_message_ends_the_connection(link: Link) -> None:
    link.send(Kind.EXPERTS_CALL, 1, [messages._EXPERTS_CALL.pack(0, 1, 1, 1)])
    with pytest.raises(ClusterError, match="malformed experts call"):
        messages.expect(link.receive(2), Kind.EXPERTS_REPLY, 1)
    with pytest.raises(LinkError):
        link.receive(2)


def test_an_unknown_kind_ends_the_connection(link: Link) -> None:
    link.send(999, 1, [])
    with pytest.raises(LinkError):
        link.receive(2)


def test_several_exchanges_answer_in_their_order(link: Link) -> None:
    experts = RemoteExperts(link)
    with pytest.raises(RuntimeError, match="nothing was asked"):
        experts.finish()
    ids = np.zeros((1, 1), np.int32)
    for n in (2, 3):
        experts.start(1, np.ones((1, n), np.float32), ids, np.ones((1, 1), np.float32))
    assert [experts.finish().shape for _ in range(2)] == [(1, 2), (1, 3)]
    with pytest.raises(RuntimeError, match="nothing was asked"):
        experts.finish()


def test_an_answer_of_another_shape_is_refused() -> None:
    here, there = memory_links()
    x, ids = np.ones((1, 2), np.float32), np.zeros((1, 1), np.int32)
    experts = RemoteExperts(here)
    experts.start(1, x, ids, x[:, :1])
    there.send(Kind.EXPERTS_REPLY, there.receive().request, messages.experts_reply(np.zeros((2, 2)), 0))
    with pytest.raises(LinkError, match=r"\(2, 2\)"):
        experts.finish()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(listen(), ToyHandler(), cluster="c", name="toy", token=TOKEN)
    yield server
    server.close()


@pytest.mark.parametrize(("cluster", "token"), [("c", "another token"), ("d", TOKEN)])
def test_strangers_are_refused(server: Server, cluster: str, token: str) -> None:
    link = connect("127.0.0.1", server.listener.port)
    with pytest.raises(ClusterError):
        greet(link, cluster, "head", token)
    link.close()


def test_nothing_is_served_before_the_greeting(server: Server) -> None:
    link = connect("127.0.0.1", server.listener.port)
    link.send(Kind.PING, 1, messages.ping(b"let me in"))
    with pytest.raises(LinkError, match=r"closed|broke"):
        link.receive(2)
    link.close()


def test_a_node_that_does_not_know_the_token_is_noticed() -> None:
    here, there = memory_links()

    def pretend() -> None:
        with pytest.raises(ClusterError):
            admit(there, "c", "fake", "guessed", 2)

    thread = threading.Thread(target=pretend)
    thread.start()
    with pytest.raises(ClusterError, match="does not know the token"):
        greet(here, "c", "head", TOKEN)
    here.close()
    thread.join()


def test_a_recorded_proof_is_worth_nothing_later() -> None:
    """What a caller once sent, played back to a new challenge."""
    here, there = memory_links()
    recorded: list[tuple[int, bytes]] = []
    send = here.send

    def record(kind: int, request: int, parts: Any) -> None:
        recorded.append((kind, b"".join(parts)))
        send(kind, request, parts)

    here.send = record  # type: ignore[method-assign]
    thread = threading.Thread(target=admit, args=(there, "c", "toy", TOKEN))
    thread.start()
    greet(here, "c", "head", TOKEN)
    thread.join()
    here, there = memory_links()
    for kind, payload in recorded:
        here.send(kind, 0, [payload])
    with pytest.raises(ClusterError, match="wrong token"):
        admit(there, "c", "toy", TOKEN)


def test_a_silent_stranger_is_dropped() -> None:
    here, there = memory_links()
    with mock.patch.object(there, "receive", wraps=there.receive) as receive, pytest.raises(LinkError):
        admit(there, "c", "toy", TOKEN, timeout_s=0.1)
    ((timeout_s,), _) = receive.call_args
    assert timeout_s <= 0.1
    here.close()


def test_tokens_are_long_and_differ() -> None:
    assert len(new_token()) >= 43
    assert new_token() != new_token()


def test_silent_strangers_do_not_keep_a_node_out(server: Server) -> None:
    silent = [connect("127.0.0.1", server.listener.port) for _ in range(20)]
    link = connect("127.0.0.1", server.listener.port)
    greet(link, "c", "head", TOKEN)
    assert remote.ask(link, "x") == {"what": "x"}
    for stranger in (*silent, link):
        stranger.close()


def test_closing_the_server_ends_its_links(server: Server) -> None:
    link = connect("127.0.0.1", server.listener.port)
    greet(link, "c", "head", TOKEN)
    server.close()
    with pytest.raises(LinkError):
        link.receive(2)
    assert not server._links
    link.close()


def test_hostile_streams_leave_the_server_as_it_was(server: Server) -> None:
    """Before the greeting: random bytes, mutated greetings, half frames, floods. Afterwards: none of it is left."""
    rng = random.Random(3)
    hello = msgspec.msgpack.encode(Hello("c", "head", bytes(32)))
    descriptors = psutil.Process().num_fds()
    for turn in range(400):
        stream = bytearray(pack_header(HELLO, 0, len(hello)) + hello)
        if turn % 4 == 0:
            stream = bytearray(rng.randbytes(rng.randint(1, 3000)))
        elif turn % 4 < 3:
            stream[rng.randrange(len(stream))] = rng.randrange(256)
        with socket.create_connection(("127.0.0.1", server.listener.port)) as raw, contextlib.suppress(OSError):
            raw.sendall(stream[: rng.randint(1, len(stream))])
    # Connections are taken in the order they came: once this one is served, none of the others waits unseen.
    link = connect("127.0.0.1", server.listener.port)
    greet(link, "c", "head", TOKEN)
    assert remote.ask(link, "still") == {"what": "still"}
    link.close()
    deadline = time.monotonic() + 8
    while (server._links or psutil.Process().num_fds() > descriptors) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server._links
    assert psutil.Process().num_fds() <= descriptors


def test_hostile_frames_after_the_greeting_end_that_link_only(server: Server) -> None:
    rng, good = random.Random(4), connect("127.0.0.1", server.listener.port)
    greet(good, "c", "head", TOKEN)
    kinds = [*Kind, 0, 1, 65535]
    for _ in range(200):
        link = connect("127.0.0.1", server.listener.port)
        greet(link, "c", "head", TOKEN)
        with contextlib.suppress(ClusterError):
            while True:  # a random ping or question may even be answered
                link.send(rng.choice(kinds), rng.randrange(1 << 32), [rng.randbytes(rng.randint(0, 200))])
                link.receive(2)
        link.close()
    assert remote.ask(good, "still") == {"what": "still"}
    good.close()
