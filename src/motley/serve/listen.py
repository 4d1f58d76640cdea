"""From an application to a served address: the socket, uvicorn, and an end that leaves nothing behind."""

import asyncio
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from motley.errors import UsageError

# How long a thread keeps the interpreter while another one waits. Python's own 5 ms are several steps of a small
# model, and the scheduler comes back from each step while the event loop writes the last one's text.
SWITCH_S = 0.0005
GRACE_S = 10  # for answers under way, once the end was asked for
IDLE_S = 30  # of a connection between two requests
HEAD_S, HEAD_BYTES = 15.0, 64 << 10  # of a request, before its body
CONNECTIONS = 800  # a process has 1024 files, usually


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. UsageError where the address can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host.strip("[]"), port, family)  # create_server's error does not say that this was it
        return socket.create_server((host.strip("[]"), port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(_why_not(host, port, error)) from None


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken: end what listens there, or give another --port (0 takes a free one)"
    if error.errno == errno.EACCES:
        return f"port {port} is for the administrator only: give a --port from 1024 on, and a proxy may stand before it"
    if isinstance(error, socket.gaierror):
        return f"there is no address {host} ({error.strerror}): give an address of this machine as --host"
    reason = os.strerror(error.errno or 0)
    return f"can't listen on {host}, port {port} ({reason}): give an address of this machine as --host"


def listen(app: ASGIApp, sock: socket.socket, leaving: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM; answers under way may end, for `GRACE_S`. `leaving`: called as soon as the end is
    asked for."""
    config = uvicorn.Config(
        app,
        http=Connection,
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        proxy_headers=False,  # the board reads its one proxy's header itself; nothing else asks who calls
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of each request that is no HTTP
    sys.setswitchinterval(SWITCH_S)
    _Server(config, leaving).run(sockets=[sock])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, leaving: Callable[[], None]) -> None:
        super().__init__(config)
        self._leaving = leaving

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._leaving()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that ended the server has done its work: it is not raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Connection(HttpToolsProtocol):
    """uvicorn's, with an end to how long and how large what comes before a body may be, and to how many there are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes, self._in_head = 0, True
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES:  # a body in the same piece does not count
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_is_there()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._in_head = True
        if self._late is None:
            self._late = self.loop.call_later(HEAD_S, self.transport.abort)

    def _head_is_there(self) -> None:
        self._in_head, self._head_bytes = False, 0
        if self._late is not None:
            self._late.cancel()
            self._late = None
