"""The `tcp` link: works everywhere. No delay, parts sent without joining, payloads received without copying.

A receiver first looks again and again without sleeping (16 KiB there and back on loopback at real-time priority:
22-28 us, against 125-133 us when each side sleeps), then sleeps in the kernel. How long it looks adapts: see `Spin`.
Listens on loopback unless asked otherwise. Who may connect is `hello`'s matter, not this file's.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np

from motley.cluster.link import HEADER, Buffer, Frame, Link, pack_header, size_of, unpack_header
from motley.errors import ClusterError, LinkError

LOOPBACK = "127.0.0.1"
SEND_BUFFER_BYTES = 4 << 20  # the system may grant less
DEAD_PEER_S = 10  # a vanished machine breaks the connection after this; membership notices sooner and interrupts

_yield_core: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


class Spin:
    """How long to look before sleeping: up to `max_us`, where frames come within that time and the core is free.

    A frame that came later than any look would have lasted halves it. So does, twice, a look that took so long that
    the core must have been given to somebody who needs it. Each other frame lets it grow by a quarter.
    """

    STOLEN_S = 100e-6  # a look takes 1 us

    def __init__(self, max_us: float) -> None:
        self.max_s = max_us * 1e-6
        self.least_s = min(20e-6, self.max_s)
        self.budget_s = self.max_s

    def learn(self, waited_s: float, core_was_stolen: bool) -> None:
        if core_was_stolen:
            self.budget_s = max(self.budget_s / 4, self.least_s)
        elif waited_s > self.max_s:
            self.budget_s = max(self.budget_s / 2, self.least_s)
        else:
            self.budget_s = min(1.25 * self.budget_s, self.max_s)


def default_spin_us() -> float:
    """Two milliseconds span the gap between two calls of OLMoE's layers on one core: after 1.5 ms an exchange costs
    70-100 us so, 195-230 us with 0.5 ms, 270 us asleep. Five would help larger layers (after 3.5 ms 106 us against
    153-182 us), and may hurt where cores are contended. With one core in all, sleep at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2000.0 if cores > 1 else 0.0


class TcpLink(Link):
    transport = "tcp"

    def __init__(self, sock: socket.socket, *, spin_us: float | None = None, send_timeout_s: float = 60.0) -> None:
        sock.setblocking(False)
        _set_options(sock)
        self._sock = sock
        self._send_timeout_s = send_timeout_s
        self._spin = Spin(default_spin_us() if spin_us is None else spin_us)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(sock, select.POLLIN)
        self._writable.register(sock, select.POLLOUT)
        self._buffer = np.empty(1 << 16, np.uint8).data  # the current frame, and what came in behind it
        self._filled = 0  # bytes of the buffer that were received
        self._used = 0  # of them, those of frames already handed out
        self._broken = ""
        self.peer = _address(sock)

    def send(self, kind: int, request: int, parts: Sequence[Buffer]) -> None:
        if self._broken:
            raise LinkError(self._broken)
        n_bytes = sum(map(size_of, parts))
        if n_bytes > self.max_payload:
            raise LinkError(f"a frame of {n_bytes} bytes is too large for this link (at most {self.max_payload})")
        rest: list[Buffer] = [pack_header(kind, request, n_bytes), *parts]
        left, deadline = HEADER.size + n_bytes, None
        while True:
            try:
                sent = self._push(rest)
            except BlockingIOError:
                deadline = deadline or time.perf_counter() + self._send_timeout_s
                if not _sleep(self._writable, deadline):
                    self._break(f"{self.peer} took nothing for {self._send_timeout_s:.0f} s")
                continue
            except OSError as error:
                self._break(f"the link to {self.peer} broke: {error}")
            left -= sent
            if not left:
                return
            rest, deadline = _after(rest, sent), None

    def receive(self, timeout_s: float | None = None) -> Frame:
        if self._broken:
            raise LinkError(self._broken)
        deadline = None if timeout_s is None else time.perf_counter() + timeout_s
        self._drop_used()
        self._fill(HEADER.size, deadline)
        try:
            kind, request, n_bytes = unpack_header(self._buffer, self.max_payload)
        except LinkError as error:
            self._break(f"{error} (from {self.peer})")
        size = HEADER.size + n_bytes
        if self._filled < size:
            self._make_room(size)
            self._fill(size, deadline)
        self._used = size
        return Frame(kind, request, self._buffer[HEADER.size : size])

    def handshake(self, timeout_s: float) -> None:
        """What a link needs before its first frame: here nothing."""

    def _push(self, parts: Sequence[Buffer]) -> int:
        """Hand over what goes without waiting: its bytes, or BlockingIOError."""
        return self._sock.sendmsg(parts)

    def _pull(self, room: memoryview) -> int:
        """What is there, into `room`: 0 at the end, BlockingIOError where nothing came yet."""
        return self._sock.recv_into(room)

    def _drop_used(self) -> None:
        """Move what came in behind the last frame to the front. Exchanges alternate: there is hardly ever any."""
        if self._used < self._filled:
            behind = bytes(self._buffer[self._used : self._filled])
            self._buffer[: len(behind)] = behind
        self._filled, self._used = self._filled - self._used, 0

    def _make_room(self, size: int) -> None:
        """Only address space is taken: memory follows as the bytes arrive, so that a false size costs nothing."""
        if size > self._buffer.nbytes:
            larger = np.empty(size, np.uint8).data
            larger[: self._filled] = self._buffer[: self._filled]
            self._buffer = larger

    def interrupt(self) -> None:
        self._broken = self._broken or f"the link to {self.peer} was closed"
        with contextlib.suppress(OSError):  # already gone: nobody waits on it
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.interrupt()
        self._sock.close()

    def _fill(self, size: int, deadline: float | None) -> None:
        """Have at least `size` bytes in the buffer: look until the spin's budget is spent, then sleep."""
        receive_into, clock = self._pull, time.perf_counter
        started = looked = stop = 0.0
        stolen = False
        while self._filled < size:
            try:
                n = receive_into(self._buffer[self._filled :])
            except BlockingIOError:
                now = clock()
                if not started:
                    started = looked = now
                    stop = now + self._spin.budget_s
                stolen = stolen or now - looked > Spin.STOLEN_S
                looked = now
                if now < stop and (deadline is None or now < deadline):
                    _yield_core()
                elif not _sleep(self._readable, deadline):
                    self._time_is_over()
                continue
            except OSError as error:
                self._break(f"the link to {self.peer} broke: {error}")
            if n == 0:
                self._break(f"{self.peer} closed the link")
            self._filled += n
        if started and size == HEADER.size:
            self._spin.learn(clock() - started, stolen)

    def _time_is_over(self) -> NoReturn:
        if not self._filled:
            raise LinkError(f"{self.peer} sent nothing within the time allowed")
        self._break(f"{self.peer} stopped in the middle of a frame")

    def _break(self, sentence: str) -> NoReturn:
        self._broken = self._broken or sentence
        raise LinkError(self._broken) from None


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


def _sleep(poll: select.poll, deadline: float | None) -> bool:
    """Until the socket is ready or ended; False when the time is over first. The GIL is released."""
    if deadline is None:
        return bool(poll.poll())
    left_ms = max(0.0, deadline - time.perf_counter()) * 1e3
    return bool(poll.poll(left_ms))


def _after(parts: Sequence[Buffer], sent: int) -> list[Buffer]:
    """What is left of `parts` when the first `sent` bytes are gone."""
    rest: list[Buffer] = []
    for part in parts:
        size = size_of(part)
        if sent >= size:
            sent -= size
        else:
            rest.append(memoryview(part).cast("B")[sent:] if sent else part)
            sent = 0
    return rest


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
