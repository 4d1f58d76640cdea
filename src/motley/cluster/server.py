"""The serving side: answers the calls of one link, or of every link that a listener admits.

One thread per connection, so a handler is called from several threads at once and does its own locking. A handler's
error becomes a Failure frame with its sentence and the connection goes on; a malformed frame ends the connection.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from motley.cluster import agreed, messages, neighbour, weights
from motley.cluster.assignment import Assignment
from motley.cluster.hello import admit
from motley.cluster.link import Frame, Link
from motley.cluster.messages import F32, F64, I32, ExpertsCall, Kind, Parts, RowsCall, StageCall, StageReply
from motley.cluster.tcp_link import Listener, TcpLink
from motley.errors import ClusterError, LinkError
from motley.ops.protocol import Batch
from motley.progress import Progress

log = logging.getLogger("motley.node")

MAX_STRANGERS = 32  # connections that have not proven themselves yet
GREETING_S = 5.0
PROGRESS_EVERY_S = 0.1


class Handler(Protocol):
    """What a node does with calls. Arrays that come in are views, valid during the call only.

    The frames' sizes were checked; that layers, expert ids, slots and positions exist is the handler's to check.
    """

    def experts(self, layer: int, x: F32, ids: I32, weights: F32) -> F64:
        """x [T, D], ids, weights [T, A] -> the owned experts' part of the sum, float64 [T, D]."""
        ...

    def stage(self, batch: Batch, x: F32 | None) -> tuple[F32, dict[str, float]]:
        """x [T, D] (None: embed the tokens) -> [T, D] or logits [R, V], and seconds by component."""
        ...

    def rows(self, layer: int | None, h: F32) -> F32:
        """h [T, D] times the rows that are here, of a layer's projections or (None) of the output matrix [T, rows]"""
        ...

    def load(self, assignment: Assignment, progress: Progress) -> dict[str, Any]:
        """Replaces what was loaded before. Returns facts for the head: bytes loaded, seconds."""
        ...

    def ask(self, what: str, arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Memory used, times, ...; ClusterError for what it does not know."""
        ...

    def fetch(self, file_hash: str, start: int, end: int) -> memoryview:
        """Bytes of a model file that this node serves; ClusterError for any other."""
        ...


def serve(link: Link, handler: Handler, name: str, *, named: str = "") -> None:
    """Answer calls until the other side closes the link or breaks the protocol; `name` is this node's, for errors.
    `named`: the transport that the caller may ask for (`agreed`)."""
    try:
        while True:
            frame = link.receive()
            if frame.kind == Kind.OFFER:
                link = neighbour.answer(link, frame, name)
            elif frame.kind == Kind.CALL:
                link = agreed.answer(link, frame, name, named=named)
            else:
                _answer(link, handler, name, frame)
    except LinkError as error:
        log.debug("%s: %s", link.peer, error)
    finally:
        link.close()


def _answer(link: Link, handler: Handler, name: str, frame: Frame) -> None:
    if frame.kind not in _ANSWERS:
        raise LinkError(f"{link.peer} sent a frame of the unknown kind {frame.kind}")
    read, work, kind = _ANSWERS[frame.kind]
    try:
        call = read(frame.payload)
    except LinkError as error:
        link.send(Kind.FAILURE, frame.request, messages.failure(error, name))
        raise  # who sends one malformed message is not trusted with the next
    try:
        parts = work(link, handler, frame.request, call)
    except Exception as error:
        log.debug("answering %s", link.peer, exc_info=True)
        kind, parts = Kind.FAILURE, messages.failure(error, name)
    link.send(kind, frame.request, parts)


def _pong(link: Link, handler: Handler, request: int, payload: memoryview) -> Parts:
    return [payload]


def _experts(link: Link, handler: Handler, request: int, call: ExpertsCall) -> Parts:
    started = time.perf_counter()
    y = handler.experts(call.layer, call.x, call.ids, call.weights)
    return messages.experts_reply(y, time.perf_counter() - started)


def _stage(link: Link, handler: Handler, request: int, call: StageCall) -> Parts:
    started = time.perf_counter()
    y, times = handler.stage(call.batch, call.x)
    return messages.stage_reply(StageReply(y, time.perf_counter() - started, times))


def _rows(link: Link, handler: Handler, request: int, call: RowsCall) -> Parts:
    started = time.perf_counter()
    y = handler.rows(call.layer, call.h)
    return messages.rows_reply(y, time.perf_counter() - started)


def _teller(link: Link, request: int) -> Progress:
    """Progress that the caller hears of."""
    next_report = 0.0

    def tell(what: str, fraction: float) -> None:
        nonlocal next_report
        now = time.monotonic()
        if now >= next_report:
            next_report = now + PROGRESS_EVERY_S
            link.send(Kind.PROGRESS, request, messages.as_json(messages.Progress(what, fraction)))

    return tell


def _load(link: Link, handler: Handler, request: int, assignment: Assignment) -> Parts:
    return messages.as_json(handler.load(assignment, _teller(link, request)))


def _ask(link: Link, handler: Handler, request: int, arguments: dict[str, Any]) -> Parts:
    return messages.as_json(handler.ask(str(arguments.pop("what", "")), arguments, _teller(link, request)))


def _fetch(link: Link, handler: Handler, request: int, asked: tuple[str, int, int]) -> Parts:
    return weights.fetch_reply(handler.fetch(*asked))


# frame kind -> how its payload is read, what is done with it, the answer's kind
_ANSWERS: dict[int, tuple[Callable[[memoryview], Any], Callable[[Link, Handler, int, Any], Parts], Kind]] = {
    Kind.PING: (lambda payload: payload, _pong, Kind.PONG),
    Kind.EXPERTS_CALL: (messages.read_experts_call, _experts, Kind.EXPERTS_REPLY),
    Kind.ROWS_CALL: (messages.read_rows_call, _rows, Kind.ROWS_REPLY),
    Kind.STAGE_CALL: (messages.read_stage_call, _stage, Kind.STAGE_REPLY),
    Kind.LOAD: (Assignment.from_json, _load, Kind.LOADED),
    Kind.ASK: (messages.read_object, _ask, Kind.ANSWER),
    Kind.FETCH: (weights.read_fetch, _fetch, Kind.FETCHED),
}


class Server:
    """Admits connections of the cluster and serves each in a thread of its own, until `close`."""

    def __init__(
        self, listener: Listener, handler: Handler, *, cluster: str, name: str, token: str, named: str = ""
    ) -> None:
        self.listener = listener
        self._handler = handler
        self._cluster, self._name, self._token, self._named = cluster, name, token, named
        self._strangers = threading.BoundedSemaphore(MAX_STRANGERS)
        self._lock = threading.Lock()
        self._links: dict[TcpLink, threading.Thread] = {}
        self._closed = False
        self._accepting = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._accepting.start()

    def close(self, timeout_s: float = 1.0) -> None:
        """End all connections. A handler in the middle of its work is not waited for beyond the timeout."""
        with self._lock:
            self._closed = True
            links = dict(self._links)
        self.listener.close()
        for link in links:
            link.interrupt()
        deadline = time.monotonic() + timeout_s
        for thread in (self._accepting, *links.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        while not self._closed:
            self._strangers.acquire()
            try:
                link = self.listener.accept()
            except LinkError as error:
                self._strangers.release()
                if not self._closed:
                    log.warning("%s", error)
                    time.sleep(0.1)  # out of descriptors, say: that passes
                continue
            thread = threading.Thread(target=self._welcome, args=(link,), name=f"link {link.peer}", daemon=True)
            with self._lock:
                self._links[link] = thread
            try:
                thread.start()
            except RuntimeError as error:  # no memory for a thread; the caller sees the link close, and may try again
                log.warning("cannot serve %s: %s", link.peer, error)
                self._strangers.release()
                link.close()
                with self._lock:
                    del self._links[link]
                continue
            if self._closed:
                link.interrupt()  # it came between the closing and the listener's end

    def _welcome(self, link: TcpLink) -> None:
        try:
            try:
                link.handshake(GREETING_S)
                admit(link, self._cluster, self._name, self._token)
            finally:
                self._strangers.release()
            serve(link, self._handler, self._name, named=self._named)
        except (LinkError, OSError, ValueError) as error:
            log.debug("%s", error)  # came and went, in the middle of its handshake even, or spoke something else
        except ClusterError as error:
            log.warning("%s", error)
        finally:
            link.close()
            with self._lock:
                self._links.pop(link, None)
