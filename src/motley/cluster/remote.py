"""The client's side of a link: experts and stages that live on another node, loading them, measuring the link.

`start` sends, `finish` receives: between the two the caller computes what is its own, or starts another exchange: a
link's answers come in the order of its calls. Whether an exchange is needed at all (do any of these tokens' experts
live there?) is the caller's to decide.
"""

import functools
import itertools
import statistics
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from motley.cluster import messages
from motley.cluster.assignment import Assignment
from motley.cluster.link import Link
from motley.cluster.messages import F32, F64, I32, Kind, Parts, StageReply
from motley.errors import LinkError
from motley.ops.protocol import Batch
from motley.progress import Progress, silent

CALL_TIMEOUT_S = 300.0  # a large prefill chunk on a slow node; a dead node is noticed at once by other means
LOAD_TIMEOUT_S = 600.0  # between two signs of progress

_requests = itertools.count(1)


@dataclass
class Traffic:
    """What crossed a link so far."""

    exchanges: int = 0
    busy_s: float = 0.0  # how long the other side worked, by its own clock


class Exchange:
    """Calls and their answers, counted. Several may be under way: answers come in the order of the calls."""

    def __init__(self, link: Link, traffic: Traffic) -> None:
        self.link = link
        self._traffic = traffic
        self._pending: deque[int] = deque()

    def start(self, kind: Kind, parts: Parts) -> None:
        request = next(_requests) & 0xFFFFFFFF
        self.link.send(kind, request, parts)
        self._pending.append(request)
        self._traffic.exchanges += 1

    def finish(self, kind: Kind, timeout_s: float = CALL_TIMEOUT_S, progress: Progress = silent) -> memoryview:
        """The answer's payload, a view; `timeout_s` is also for each sign of progress before it."""
        if not self._pending:
            raise RuntimeError(f"nothing was asked on the link to {self.link.peer}")
        request = self._pending.popleft()
        while (frame := self.link.receive(timeout_s)).kind == Kind.PROGRESS and frame.request == request:
            told = messages.read_progress(frame.payload)
            progress(told.what, told.fraction)
        return messages.expect(frame, kind, request)


class RemoteExperts:
    """Experts on the node at the other end of the link."""

    def __init__(self, link: Link) -> None:
        self.transport = link.transport
        self.traffic = Traffic()
        self._exchange = Exchange(link, self.traffic)
        self._shapes: deque[tuple[int, ...]] = deque()

    def start(self, layer: int, x: F32, ids: I32, weights: F32) -> None:
        """x [T, D], ids and weights [T, A]; ids that do not live there contribute nothing."""
        self._shapes.append(x.shape)
        self._exchange.start(Kind.EXPERTS_CALL, messages.experts_call(layer, x, ids, weights))

    def finish(self) -> F64:
        """Their part of the sum, float64 [T, D]: a view, valid until the link's next `receive`."""
        y, busy_s = messages.read_experts_reply(self._exchange.finish(Kind.EXPERTS_REPLY))
        self.traffic.busy_s += busy_s
        if y.shape != (shape := self._shapes.popleft()):
            raise LinkError(f"{self._exchange.link.peer} answered {y.shape} where {shape} was asked")
        return y


class RemoteRows:
    """Rows of the output matrix and of layers' projections on the node at the other end of the link."""

    def __init__(self, link: Link) -> None:
        self.transport = link.transport
        self.traffic = Traffic()
        self._exchange = Exchange(link, self.traffic)
        self._shapes: deque[tuple[int, int]] = deque()

    def start(self, layer: int | None, h: F32, n_rows: int) -> None:
        """h [T, D] for the `n_rows` that live there, of a layer's projections or (None) of the output matrix."""
        self._shapes.append((len(h), n_rows))
        self._exchange.start(Kind.ROWS_CALL, messages.rows_call(layer, h))

    def finish(self) -> F32:
        """Their products [T, n_rows]: a view, valid until the link's next `receive`."""
        y, busy_s = messages.read_rows_reply(self._exchange.finish(Kind.ROWS_REPLY))
        self.traffic.busy_s += busy_s
        if y.shape != (shape := self._shapes.popleft()):
            raise LinkError(f"{self._exchange.link.peer} answered {y.shape} where {shape} was asked")
        return y


class RemoteStage:
    """A run of layers on the node at the other end of the link."""

    def __init__(self, link: Link) -> None:
        self.traffic = Traffic()
        self._exchange = Exchange(link, self.traffic)

    def start(self, batch: Batch, x: F32 | None) -> None:
        """x [T, D], or None for the stage that embeds the tokens."""
        self._exchange.start(Kind.STAGE_CALL, messages.stage_call(batch, x))

    def finish(self) -> StageReply:
        """Its array is a view, valid until the link's next `receive`."""
        reply = messages.read_stage_reply(self._exchange.finish(Kind.STAGE_REPLY))
        self.traffic.busy_s += reply.busy_s
        return reply


class RemoteLoad:
    """Loading on another node: `start` on all nodes first, then `finish` on each."""

    def __init__(self, link: Link) -> None:
        self._exchange = Exchange(link, Traffic())

    def start(self, assignment: Assignment) -> None:
        self._exchange.start(Kind.LOAD, [assignment.to_json()])

    def finish(self, progress: Progress = silent) -> dict[str, Any]:
        """What the handler's `load` returned, JSON."""
        return messages.read_object(self._exchange.finish(Kind.LOADED, LOAD_TIMEOUT_S, progress))


def ask(
    link: Link, what: str, timeout_s: float = 10.0, progress: Progress = silent, **arguments: Any
) -> dict[str, Any]:
    """A question that the node's handler answers with a JSON object: memory used, times, ... The timeout is for what
    comes next, be it a sign of progress: how long work takes depends on who else wants its cores."""
    exchange = Exchange(link, Traffic())
    exchange.start(Kind.ASK, messages.as_json({**arguments, "what": what}))
    return messages.read_object(exchange.finish(Kind.ANSWER, timeout_s, progress))


def ping(link: Link, timeout_s: float) -> None:
    """LinkError if the node does not answer in time; the link is of no use then."""
    exchange = Exchange(link, Traffic())
    exchange.start(Kind.PING, messages.ping(b"there?"))
    messages.check_pong(exchange.finish(Kind.PONG, timeout_s), b"there?")


@dataclass(frozen=True)
class LinkSpeed:
    transport: str
    rtt_us: float  # median round trip of 16 KiB
    gb_s: float  # 1e9 bytes a second, one way at a time


RTT_BYTES = 16 << 10
BULK_BYTES = 8 << 20
LEAST_TURNS = 3  # of each size, however slow the link is


def measure(link: Link, pings: int = 5000, bulk: int = 7) -> LinkSpeed:
    """Medians of checksummed ping-pongs. Takes about 0.2 s on loopback, at most a few seconds on a slow link. A fifth
    of the pings goes before: both sides must first learn that looking is worth its while."""
    small = [ping_s(link, RTT_BYTES) for _ in _for_seconds(pings, 1.0)]
    small = small[len(small) // 5 :]
    large = [ping_s(link, BULK_BYTES) for _ in _for_seconds(bulk, 2.0)]
    return LinkSpeed(link.transport, statistics.median(small) * 1e6, 2 * BULK_BYTES / statistics.median(large) / 1e9)


def ping_s(link: Link, n_bytes: int, timeout_s: float = 30.0) -> float:
    """Seconds until so many bytes of noise came back, checked; LinkError if they are others, or don't come in time."""
    data = _noise(n_bytes)
    exchange = Exchange(link, Traffic())
    parts = messages.ping(data)
    started = time.perf_counter()
    exchange.start(Kind.PING, parts)
    payload = exchange.finish(Kind.PONG, timeout_s)
    took = time.perf_counter() - started
    messages.check_pong(payload, data)
    return took


@functools.cache
def _noise(n_bytes: int) -> bytes:
    return np.random.default_rng(n_bytes).bytes(n_bytes)


def _for_seconds(count: int, limit_s: float) -> Any:
    """Up to `count` turns, at least LEAST_TURNS, none begun after the limit."""
    stop = time.perf_counter() + limit_s
    return itertools.takewhile(lambda turn: turn < LEAST_TURNS or time.perf_counter() < stop, range(count))
