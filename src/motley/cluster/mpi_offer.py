"""MPI between two processes, agreed on over an authenticated link, which stays beside it (`mpi_link`).

The caller says who it is in MPI and a secret; the acceptor answers how it is reached (the world that a launcher gave
to both, an earlier connection, or the name of a port) and a secret of its own. Each secret must then come over MPI: so
each knows that the process at the other end of MPI is the one at the other end of the link. What can't be done is
refused in a sentence, and the link stays as it was.
"""

import hmac
import random
import secrets
import time
from typing import Literal

import msgspec

from motley.cluster import messages
from motley.cluster.link import Frame, Link
from motley.cluster.messages import Kind
from motley.cluster.mpi_link import MpiLink
from motley.cluster.mpi_process import CONNECT_S, START_S, MpiProcess, Route, started
from motley.cluster.tcp_link import TcpLink
from motley.errors import ClusterError, LinkError

PROOF_S = 5.0  # an MPI's first message between two processes makes its own connection


Way = Literal["world", "known", "port", "busy"]  # busy: with another process; ask again


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    process: str
    world: str
    rank: int
    knows: tuple[str, ...]  # processes that it reaches already
    secret: str


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    process: str
    way: Way
    port: str
    rank: int
    tag: int
    secret: str


def offer(link: TcpLink) -> MpiLink:
    """The caller's side. ClusterError where either side can't: `link` is as before; otherwise it belongs to what is
    returned. LinkError: it is of no use any more."""
    mine = started()
    deadline = time.monotonic() + START_S
    while (met := _called(mine, link)) is None:
        if time.monotonic() > deadline:
            raise LinkError(f"{link.peer} was busy with others for {START_S:.0f} s")
        time.sleep(random.uniform(0.01, 0.1))  # it may be calling us: not both again at the same time
    told, reply, route = met
    through = MpiLink(mine, route, reply.tag, link)
    try:
        through.send(Kind.MPI_PROOF, 0, [told.secret.encode()])
        _expect_proof(through, reply.secret)
    except ClusterError as error:
        through.close()
        raise LinkError(str(error)) from error
    return through


def answer(link: Link, frame: Frame, name: str, *, allowed: bool) -> Link:
    """The acceptor's side, for a frame of Kind.MPI_CALL: what to go on with. `name`: this node's, for refusals."""
    call = messages.read_json(frame.payload, Call, "call")
    try:
        if not allowed:
            raise ClusterError("MPI is not encrypted, and this node was not started with --link mpi")
        if not isinstance(link, TcpLink):
            raise ClusterError("there is no MPI over this link")
        mine = started()
        reply = _reply(mine, call)
    except LinkError:
        raise
    except ClusterError as error:
        link.send(Kind.FAILURE, frame.request, messages.failure(error, name))
        return link
    try:
        link.send(Kind.MPI_REPLY, 0, messages.as_json(reply))
        if reply.way == "busy":
            return link
        route = _accepted(mine, call, reply)
    except ClusterError as error:
        raise LinkError(str(error)) from error
    finally:
        if reply.way == "port":
            mine.close_port(reply.port)
            mine.meeting.release()
    through = MpiLink(mine, route, reply.tag, link)
    try:
        _expect_proof(through, call.secret)
        through.send(Kind.MPI_PROOF, 0, [reply.secret.encode()])
    except ClusterError as error:
        through.close()
        raise LinkError(str(error)) from error
    return through


def _called(mine: MpiProcess, link: TcpLink) -> tuple[Call, Reply, Route] | None:
    """None where the other side is busy."""
    with mine.meeting:
        told = Call(mine.id, mine.world, mine.rank, tuple(mine.routes), secrets.token_hex(16))
        link.send(Kind.MPI_CALL, 0, messages.as_json(told))
        reply = messages.read_json(messages.expect(link.receive(2 * START_S), Kind.MPI_REPLY, 0), Reply, "reply")
        if reply.way == "busy":
            return None
        try:
            return told, reply, _route(mine, reply)
        except ClusterError as error:
            raise LinkError(str(error)) from error


def _reply(mine: MpiProcess, call: Call) -> Reply:
    """With the way "port" `meeting` is held."""
    way: Way
    if mine.size > 1 and call.world == mine.world:
        way, port = "world", ""
    elif call.process in mine.routes and mine.id in call.knows:
        way, port = "known", ""
    elif not mine.meeting.acquire(blocking=False):
        way, port = "busy", ""
    else:
        try:
            way, port = "port", mine.open_port()
        except BaseException:
            mine.meeting.release()
            raise
    return Reply(mine.id, way, port, mine.rank, mine.new_tag(call.process), secrets.token_hex(16))


def _accepted(mine: MpiProcess, call: Call, reply: Reply) -> Route:
    if reply.way == "world":
        return mine.in_world(call.rank)
    return mine.routes[call.process] if reply.way == "known" else mine.accept(reply.port, call.process)


def _route(mine: MpiProcess, reply: Reply) -> Route:
    if reply.way == "world":
        return mine.in_world(reply.rank)
    if reply.way == "known":
        if reply.process not in mine.routes:
            raise LinkError("it says that it was met before")
        return mine.routes[reply.process]
    return mine.call(reply.port, reply.process)


def _expect_proof(through: MpiLink, secret: str) -> None:
    said = messages.expect(through.receive(PROOF_S + CONNECT_S), Kind.MPI_PROOF, 0)
    if not hmac.compare_digest(said, secret.encode()):
        raise LinkError("that is another process")
