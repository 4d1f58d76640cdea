"""The `tcp` link: works everywhere. No delay, parts sent without joining, payloads received without copying.

Listens on loopback unless asked otherwise. Who may connect is `hello`'s matter, not this file's.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable, Sequence

from motley.cluster.link import Buffer
from motley.cluster.stream_link import StreamLink
from motley.errors import ClusterError, LinkError

LOOPBACK = "127.0.0.1"
SEND_BUFFER_BYTES = 4 << 20  # the system may grant less
DEAD_PEER_S = 10  # a vanished machine breaks the connection after this; membership notices sooner and interrupts


class TcpLink(StreamLink):
    transport = "tcp"

    def __init__(self, sock: socket.socket, *, spin_us: float | None = None, send_timeout_s: float = 60.0) -> None:
        super().__init__(_address(sock), spin_us=spin_us, send_timeout_s=send_timeout_s)
        sock.setblocking(False)
        _set_options(sock)
        self._sock = sock
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(sock, select.POLLIN)
        self._writable.register(sock, select.POLLOUT)

    def handshake(self, timeout_s: float) -> None:
        """What a link needs before its first frame: here nothing."""

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def own_host(self) -> str:
        """The address by which the other side reaches this one."""
        return str(self._sock.getsockname()[0])

    @property
    def other_host(self) -> str:
        return str(self._sock.getpeername()[0])

    def _push(self, parts: Sequence[Buffer]) -> int:
        return self._sock.sendmsg(parts)

    def _pull(self, room: memoryview) -> int:
        return self._sock.recv_into(room)

    def _await_room(self, deadline: float | None) -> bool:
        return bool(sleep(self._writable, deadline))

    def _await_bytes(self, deadline: float | None) -> bool:
        return bool(sleep(self._readable, deadline))

    def interrupt(self) -> None:
        self._broken = self._broken or f"the link to {self.peer} was closed"
        with contextlib.suppress(OSError):  # already gone: nobody waits on it
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.interrupt()
        self._sock.close()


Wrap = Callable[[socket.socket], TcpLink]


class Listener:
    """Accepts connections; unauthenticated, so their frames are kept small until `hello.admit` is content."""

    def __init__(
        self, host: str = LOOPBACK, port: int = 0, *, spin_us: float | None = None, wrap: Wrap | None = None
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._sock = socket.create_server((host, port), family=family, backlog=64)
        except OSError as error:
            raise ClusterError(f"cannot listen on {host}:{port}: {error}; choose another address or port") from error
        self.host: str = host
        self.port: int = self._sock.getsockname()[1]
        self._wrap = wrap or (lambda sock: TcpLink(sock, spin_us=spin_us))

    def accept(self) -> TcpLink:
        """The next connection, before its handshake. Raises LinkError once the listener was closed, by whichever
        thread."""
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            raise LinkError(f"the listener on port {self.port} ended: {error}") from error
        try:
            return self._wrap(sock)
        except OSError as error:  # it left before it was looked at
            sock.close()
            raise LinkError(f"a connection ended at once: {error}") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # macOS refuses it on listeners; there `close` wakes `accept`
            self._sock.shutdown(socket.SHUT_RDWR)  # elsewhere only this wakes `accept` in another thread
        self._sock.close()


def listen(host: str = LOOPBACK, port: int = 0, *, spin_us: float | None = None, wrap: Wrap | None = None) -> Listener:
    """`wrap`: what an accepted socket becomes (`tls_link.Tls.accept`); without it a plain link."""
    return Listener(host, port, spin_us=spin_us, wrap=wrap)


def connect(
    host: str, port: int, timeout_s: float = 5.0, *, spin_us: float | None = None, wrap: Wrap | None = None
) -> TcpLink:
    """`wrap`: what the connected socket becomes (`tls_link.Tls.call`); without it a plain link."""
    try:
        sock = socket.create_connection((host, port), timeout_s)
    except OSError as error:
        raise LinkError(f"no node answers at {host}:{port}: {error}") from error
    link = wrap(sock) if wrap else TcpLink(sock, spin_us=spin_us)
    try:
        link.handshake(timeout_s)
    except BaseException:
        link.close()
        raise
    return link


def sleep(poll: select.poll, deadline: float | None) -> list[tuple[int, int]]:
    """Until a socket is ready or ended: which ones; none when the time is over first. The GIL is released."""
    if deadline is None:
        return poll.poll()
    return poll.poll(max(0.0, deadline - time.perf_counter()) * 1e3)


def _set_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Room for a prompt's activations: sending returns, and the sender works, while a sleeping receiver still wakes up.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # What a system does not have, it does not have: then only its own, slower defaults apply.
    for name, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPALIVE", 2), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_S * 1000)


def _address(sock: socket.socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return "a peer that left"
    return f"{host}:{port}"
