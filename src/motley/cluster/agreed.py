"""Agreed: a transport that the user named (`--link`), between two processes that agree on it over an authenticated
link, which stays beside it (`beside_link`).

The caller says which transport, which process it is and a secret; the acceptor answers how it is reached (as before, or
anew) and a secret of its own. Each secret must then come over the transport: so each knows that the process at the
other end of it is the one at the other end of the link. What can't be done is refused in a sentence, and the link stays
as it was. What is peculiar to a transport is its `Means`' matter. None of these encrypts.
"""

import hmac
import random
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import msgspec

from motley.cluster import messages
from motley.cluster.beside_link import BesideLink
from motley.cluster.link import Frame, Link
from motley.cluster.messages import Kind
from motley.cluster.tcp_link import TcpLink
from motley.errors import ClusterError, LinkError

Transport = Literal["mpi", "ring", "jaccl"]
NAMED: tuple[Transport, ...] = get_args(Transport)
BUSY_S = 20.0

Way = Literal["known", "new", "busy"]  # busy: with another process; ask again
Facts = dict[str, Any]
Known = TypeVar("Known", bound=msgspec.Struct)


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    transport: Transport
    process: str
    knows: tuple[str, ...]  # processes that it reaches already
    secret: str
    facts: Facts


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    process: str
    way: Way
    tag: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    secret: str
    facts: Facts


class Means(ABC):
    """How this process reaches others over one transport; `started` keeps one of each. A route is how one other process
    is reached; any number of links go over it, told apart by their tags. Errors: ClusterError."""

    transport: ClassVar[Transport]
    proof_s: ClassVar[float]  # for what the first message takes

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.meeting = threading.Lock()  # held by who connects: only once with a process, though both may call
        self._tags, self._tags_lock = 0, threading.Lock()

    def new_tag(self, other: str) -> int:
        """For one more link with that process; the acceptor chooses. No two links of two processes have the same."""
        with self._tags_lock:
            self._tags += 2
            return self._tags + (self.id < other)

    @abstractmethod
    def reached(self) -> tuple[str, ...]:
        """The processes to which there is a route."""

    @abstractmethod
    def route(self, other: str, facts: Facts) -> Any:
        """How that process, which said this, is reached without connecting; None where it is not."""

    @abstractmethod
    def facts(self, link: TcpLink) -> Facts:
        """What a caller says."""

    @abstractmethod
    def open(self, link: TcpLink, said: Facts) -> Facts:
        """Begin to wait for who said this: what that one must know."""

    @abstractmethod
    def accept(self, other: str, said: Facts, told: Facts) -> Any:
        """The route to the one that was waited for: what that one said, and was told."""

    @abstractmethod
    def shut(self) -> None:
        """Wait no longer."""

    @abstractmethod
    def call(self, link: TcpLink, other: str, told: Facts, said: Facts) -> Any:
        """The route to who waits."""

    @abstractmethod
    def drop(self, route: Any) -> None:
        """It did not prove itself."""

    @abstractmethod
    def link(self, route: Any, tag: int, beside: TcpLink) -> BesideLink:
        """`beside` is its from now on."""


def read(facts: Facts, kind: type[Known]) -> Known:
    """As one transport has them."""
    try:
        return msgspec.convert(facts, kind)
    except msgspec.ValidationError as error:
        raise LinkError(f"malformed facts: {error}") from None


_started: dict[str, Means | ClusterError] = {}
_starting = threading.Lock()


def started(transport: str) -> Means:
    """Start it, if that was not tried yet; ClusterError where it can't be. To be called early: in a world of MPI's that
    was given all start together, each waits for the others."""
    with _starting:
        if transport not in _started:
            try:
                _started[transport] = _start(transport)
            except ClusterError as error:
                _started[transport] = error
        found = _started[transport]
    if isinstance(found, ClusterError):
        raise ClusterError(str(found))
    return found


def _start(transport: str) -> Means:
    if transport == "mpi":
        from motley.cluster.mpi_process import MpiProcess

        return MpiProcess()
    from motley.cluster.mlx_process import JacclProcess, RingProcess

    return RingProcess() if transport == "ring" else JacclProcess()


def offer(link: TcpLink, transport: str) -> BesideLink:
    """The caller's side. ClusterError where either side can't: `link` is as before; otherwise it belongs to what is
    returned. LinkError: it is of no use any more."""
    mine = started(transport)
    deadline = time.monotonic() + BUSY_S
    while (met := _called(mine, link)) is None:
        if time.monotonic() > deadline:
            raise LinkError(f"{link.peer} was busy with others for {BUSY_S:.0f} s")
        time.sleep(random.uniform(0.01, 0.1))  # it may be calling us: not both again at the same time
    told, reply, route = met
    with _proven(mine, route, reply, link) as through:
        through.send(Kind.PROOF, 0, [told.secret.encode()])
        _expect_proof(through, reply.secret, mine.proof_s)
    return through


def answer(link: Link, frame: Frame, name: str, *, named: str) -> Link:
    """The acceptor's side, for a frame of Kind.CALL: what to go on with. `name`: this node's, for refusals. `named`:
    the transport that its user allows."""
    call = messages.read_json(frame.payload, Call, "call")
    try:
        if call.transport != named:
            said = call.transport
            raise ClusterError(f"{said} is not encrypted, and this node was not started with --link {said}")
        if not isinstance(link, TcpLink):
            raise ClusterError(f"there is no {named} over this link")
        mine = started(named)
        reply, route = _reply(mine, link, call)
    except LinkError:
        raise
    except ClusterError as error:
        link.send(Kind.FAILURE, frame.request, messages.failure(error, name))
        return link
    try:
        link.send(Kind.REPLY, 0, messages.as_json(reply))
        if reply.way == "busy":
            return link
        if reply.way == "new":
            with _broken_by():
                route = mine.accept(call.process, call.facts, reply.facts)
    finally:
        if reply.way == "new":
            try:
                mine.shut()
            finally:
                mine.meeting.release()
    with _proven(mine, route, reply, link) as through:
        _expect_proof(through, call.secret, mine.proof_s)
        through.send(Kind.PROOF, 0, [reply.secret.encode()])
    return through


def _called(mine: Means, link: TcpLink) -> tuple[Call, Reply, Any] | None:
    """None where the other side is busy."""
    with mine.meeting:
        told = Call(mine.transport, mine.id, mine.reached(), secrets.token_hex(16), mine.facts(link))
        link.send(Kind.CALL, 0, messages.as_json(told))
        reply = messages.read_json(messages.expect(link.receive(2 * BUSY_S), Kind.REPLY, 0), Reply, "reply")
        if reply.way == "busy":
            return None
        with _broken_by():
            if reply.way == "new":
                return told, reply, mine.call(link, reply.process, told.facts, reply.facts)
            route = mine.route(reply.process, reply.facts)
            if route is None:
                raise LinkError("it says that it was met before")
        return told, reply, route


def _reply(mine: Means, link: TcpLink, call: Call) -> tuple[Reply, Any]:
    """And the route that is there already. With the way "new" `meeting` is held."""
    way: Way
    facts: Facts = {}
    route = mine.route(call.process, call.facts)
    if route is not None and (call.process not in mine.reached() or mine.id in call.knows):
        way, facts = "known", mine.facts(link)
    elif not mine.meeting.acquire(blocking=False):
        way = "busy"
    else:
        try:
            way, facts = "new", mine.open(link, call.facts)
        except BaseException:
            mine.meeting.release()
            raise
    return Reply(mine.id, way, mine.new_tag(call.process), secrets.token_hex(16), facts), route


@contextmanager
def _proven(mine: Means, route: Any, reply: Reply, beside: TcpLink) -> Iterator[BesideLink]:
    """A link, closed where it does not prove itself. A route that was known carries other links, and stays."""
    with _broken_by():
        through = mine.link(route, reply.tag, beside)
        try:
            yield through
        except BaseException:
            through.close()
            if reply.way == "new":
                mine.drop(route)
            raise


def _expect_proof(through: BesideLink, secret: str, timeout_s: float) -> None:
    said = messages.expect(through.receive(timeout_s), Kind.PROOF, 0)
    if not hmac.compare_digest(said, secret.encode()):
        raise LinkError("that is another process")


@contextmanager
def _broken_by() -> Iterator[None]:
    """From here on whatever fails leaves the two sides apart: the link is of no use."""
    try:
        yield
    except LinkError:
        raise
    except ClusterError as error:
        raise LinkError(str(error)) from error
