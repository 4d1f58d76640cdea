"""Neighbours: processes of one machine, one user and one network namespace prove it, and then share memory.

Nothing is guessed from names or addresses. Over an authenticated link the caller offers: it names a UNIX socket that
exists in its own network namespace only, and a secret. Whoever can connect there gets a file in memory, of a size that
nobody can change (so that no access can fail), and must find the secret in it; then it writes one of its own there and
says it over the link. What can't be done is refused in a sentence, and the link stays as it was.

Linux only: others have neither such files nor such sockets.
"""

import contextlib
import fcntl
import hmac
import mmap
import os
import re
import secrets
import socket
import struct
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from motley.cluster import messages
from motley.cluster.link import Frame, Link
from motley.cluster.messages import Kind, Offer
from motley.cluster.tcp_link import TcpLink
from motley.errors import ClusterError, LinkError

if TYPE_CHECKING:
    from motley.cluster.local_link import LocalLink

ANSWER_S = 2.0
SECRET_BYTES = 32


def possible() -> bool:
    """Whether this process could share memory at all."""
    if sys.platform != "linux":
        return False
    try:
        import motley.cluster.local_link  # noqa: F401
    except ImportError:  # a checkout that was not built
        return False
    return True


def offer(link: TcpLink, timeout_s: float = ANSWER_S) -> "LocalLink":
    """The caller's side. ClusterError where the other side is no neighbour: `link` is as before; otherwise it belongs
    to what is returned. LinkError: it is of no use any more."""
    from motley.cluster.local_link import LocalLink

    told = Offer(secrets.token_hex(16), secrets.token_hex(SECRET_BYTES))
    with contextlib.ExitStack() as stack:
        with _told_as(ClusterError):
            file, memory = _new_memory(bytes.fromhex(told.secret))
            stack.callback(os.close, file)
            door = stack.enter_context(socket.socket(socket.AF_UNIX))
            door.bind(_address(told.name))
            door.listen(1)
        link.send(Kind.OFFER, 0, messages.as_json(told))
        messages.expect(link.receive(timeout_s), Kind.OPENED, 0)
        with _told_as(LinkError):
            door.settimeout(timeout_s)
            bell, _ = door.accept()
            stack.callback(bell.close)
            _hand_over(file, bell)
        proof = messages.expect(link.receive(2 * timeout_s), Kind.SHARED, 0)
        if not hmac.compare_digest(proof, memory[SECRET_BYTES : 2 * SECRET_BYTES]):
            raise LinkError(f"{link.peer} says that it shares memory, and does not")
        return LocalLink(memory, bell.dup(), link, accepted=False)


def answer(link: Link, frame: Frame, name: str) -> Link:
    """The acceptor's side, for a frame of Kind.OFFER: what to go on with. `name`: this node's, for refusals."""
    told = messages.read_offer(frame.payload)
    try:
        if not isinstance(link, TcpLink) or not possible():
            raise ClusterError("it shares no memory over this link")
        with _told_as(ClusterError):
            return _shared(link, told)
    except LinkError:
        raise
    except ClusterError as error:
        link.send(Kind.FAILURE, frame.request, messages.failure(error, name))
        return link


def _shared(link: TcpLink, told: Offer) -> "LocalLink":
    from motley.cluster.local_link import LocalLink

    bell = socket.socket(socket.AF_UNIX)
    try:
        bell.settimeout(ANSWER_S)
        bell.connect(_address(told.name))
        _require_same_user(bell)
        link.send(Kind.OPENED, 0, [])
        memory = _received(bell)
        if not hmac.compare_digest(memory[:SECRET_BYTES].hex().encode(), told.secret.encode()):
            raise ClusterError("that is other memory than was offered")
        proof = secrets.token_bytes(SECRET_BYTES)
        memory[SECRET_BYTES : 2 * SECRET_BYTES] = proof
        link.send(Kind.SHARED, 0, [proof])
    except BaseException:
        bell.close()
        raise
    return LocalLink(memory, bell, link, accepted=True)


# -- the socket


def _address(name: str) -> bytes:
    """Abstract: no file, gone with its socket. The prefix keeps a peer from sending us to somebody else's."""
    if not re.fullmatch("[0-9a-f]{32}", name):
        raise LinkError("malformed offer: no such name of a socket")
    return b"\0motley-" + name.encode()


def _hand_over(file: int, bell: socket.socket) -> None:
    """Give the file to who came; where that can't be done, the other side notices and refuses over the link."""
    try:
        _require_same_user(bell)
        socket.send_fds(bell, [b"!"], [file])
    except (OSError, ClusterError):
        with contextlib.suppress(OSError):
            bell.shutdown(socket.SHUT_RDWR)


def _require_same_user(sock: socket.socket) -> None:
    """By what the kernel says of who bound, or connected, the other end."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if user != os.geteuid():
        raise ClusterError("it runs as another user")


# -- the memory


def _new_memory(secret: bytes) -> tuple[int, mmap.mmap]:
    from motley.cluster.local_link import MEMORY_BYTES

    file = os.memfd_create("motley-link", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, MEMORY_BYTES)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        memory = mmap.mmap(file, MEMORY_BYTES)
    except BaseException:
        os.close(file)
        raise
    memory[: len(secret)] = secret
    return file, memory


def _received(bell: socket.socket) -> mmap.mmap:
    """Mapped only where it can't shrink: touching what was cut off would end this process."""
    from motley.cluster.local_link import MEMORY_BYTES

    _, files, _, _ = socket.recv_fds(bell, 1, 1, socket.MSG_CMSG_CLOEXEC)
    try:
        if not files:
            raise ClusterError("no memory came")
        if not fcntl.fcntl(files[0], fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise ClusterError("its memory could shrink")
        if os.fstat(files[0]).st_size != MEMORY_BYTES:
            raise ClusterError("its memory has another size")
        return mmap.mmap(files[0], MEMORY_BYTES)
    finally:
        for file in files:
            os.close(file)


@contextlib.contextmanager
def _told_as(kind: type[ClusterError]) -> Iterator[None]:
    """What the system refuses, in the words of the cluster."""
    try:
        yield
    except OSError as error:
        raise kind(f"no memory can be shared: {error}") from error
