"""This process's helpers for MLX's backends, one to each other process that is reached (`agreed`), and how two helpers
meet: a socket between them, proven by a key each way that crossed the authenticated link, and what each backend needs.

A helper outlives its links: Macs want a restart after too many worlds (github.com/ml-explore/mlx/issues/3207). It ends
with either process. What it needs from MLX is in `mlx_helper`.
"""

import contextlib
import hmac
import importlib.util
import ipaddress
import json
import logging
import mmap
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from abc import abstractmethod
from typing import Any, ClassVar

import msgspec

from motley.cluster import thunderbolt
from motley.cluster.agreed import Facts, Means, Transport, read
from motley.cluster.local_link import MEMORY_BYTES
from motley.cluster.mlx_helper import END_S, START_S
from motley.cluster.mlx_link import MlxLink
from motley.cluster.tcp_link import TcpLink
from motley.errors import ClusterError, LinkError

CONNECT_S = 5.0
KEY_S = 1.0  # for who connects to say who it is
log = logging.getLogger("motley.link")
REMEDY = "pip install 'motley-moe[mlx]' on each machine"
HELPER = (sys.executable, "-m", "motley.cluster.mlx_helper")


class MlxFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: str = ""  # ring: where the helper will listen
    ports: tuple[thunderbolt.Port, ...] = ()  # jaccl: this machine's
    device: str = ""  # jaccl: the caller's one of the cable that joins the two
    side: int = 0  # the port at which the acceptor waits for the socket between the helpers
    keys: tuple[str, str] = ("", "")  # the caller's, the acceptor's


class Helper:
    """One, running. `side` and `world` are its: the socket to the other helper, and what `mlx_helper.World` reads."""

    def __init__(self, transport: Transport, side: socket.socket, world: dict[str, Any]) -> None:
        self._transport = transport
        self._control, theirs = socket.socketpair()
        with theirs, side:
            files = theirs.fileno(), side.fileno()
            words = [*HELPER, *map(str, files), json.dumps({"backend": transport, **world})]
            try:
                # A session of its own: Ctrl-C reaches this process only, which then ends, and the helper with it.
                self._process = subprocess.Popen(
                    words,
                    pass_fds=files,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                raise ClusterError(f"the {transport} link's helper did not start: {error}") from error
        self.pid = self._process.pid
        self._reason = ""
        self._ended = threading.Event()
        threading.Thread(target=self._await_end, name=f"helper {self.pid}", daemon=True).start()

    @property
    def runs(self) -> bool:
        return not self._ended.is_set()

    def died(self) -> str:
        """Why it ended, in a moment after its sockets did; "" where it was asked to."""
        self._ended.wait(END_S)
        return self._reason

    def link(self, tag: int, beside: TcpLink) -> MlxLink:
        with contextlib.ExitStack() as passed:
            try:
                file = _new_file()
                passed.callback(os.close, file)
                memory = mmap.mmap(file, MEMORY_BYTES)
                bell, theirs = socket.socketpair()
            except OSError as error:
                raise ClusterError(f"no memory to share with the {self._transport} link's helper: {error}") from error
            passed.enter_context(theirs)
            try:
                socket.send_fds(self._control, [struct.pack("<I", tag)], [file, theirs.fileno()])
            except OSError as error:
                bell.close()
                raise ClusterError(f"the {self._transport} link's helper ended: {self.died() or error}") from error
        return MlxLink(self._transport, memory, bell, beside, self.died)

    def end(self) -> None:
        """Ask it to, as the end of this process would; before there is a world it hears nothing."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if not self._ended.wait(2 * END_S):
            self._process.kill()

    def _await_end(self) -> None:
        assert self._process.stderr
        words = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        status = self._process.wait()
        if status == -signal.SIGALRM:
            self._reason = f"MLX found nobody in {START_S} s"
        elif status < 0:
            self._reason = f"its helper was ended by {signal.Signals(-status).name}"
        elif status:
            self._reason = words[-1] if words else f"its helper ended with status {status}"
        self._ended.set()


class MlxProcess(Means):
    proof_s: ClassVar[float] = START_S + CONNECT_S

    def __init__(self) -> None:
        if importlib.util.find_spec("mlx") is None:
            raise ClusterError(f"the {self.transport} link needs MLX: {REMEDY}")
        super().__init__()
        self._helpers: dict[str, Helper] = {}
        self._door: socket.socket | None = None

    @abstractmethod
    def _own(self, link: TcpLink) -> MlxFacts:
        """What the other side must know to reach this one."""

    @abstractmethod
    def _answer(self, link: TcpLink, said: MlxFacts) -> MlxFacts:
        """The acceptor's `_own`, for a caller that said this."""

    @abstractmethod
    def _world(self, caller: MlxFacts, acceptor: MlxFacts) -> dict[str, Any]:
        """For the helpers. The acceptor is rank 0."""

    def reached(self) -> tuple[str, ...]:
        return tuple(other for other, helper in self._helpers.items() if helper.runs)

    def route(self, other: str, facts: Facts) -> Helper | None:
        return self._helpers[other] if other in self.reached() else None

    def facts(self, link: TcpLink) -> Facts:
        return _asdict(self._own(link))

    def open(self, link: TcpLink, said: Facts) -> Facts:
        answer = self._answer(link, read(said, MlxFacts))
        self._door = door = _bound(link)
        door.listen()
        keys = secrets.token_hex(16), secrets.token_hex(16)
        return _asdict(msgspec.structs.replace(answer, side=door.getsockname()[1], keys=keys))

    def accept(self, other: str, said: Facts, told: Facts) -> Helper:
        assert self._door
        mine = read(told, MlxFacts)
        caller, acceptor = mine.keys
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                self._door.settimeout(max(1e-3, deadline - time.monotonic()))
                side, _ = self._door.accept()
            except OSError as error:
                raise ClusterError(f"its helper was not met: {error}") from error
            try:
                _expect(side, caller, min(deadline, time.monotonic() + KEY_S))
                side.sendall(acceptor.encode())
            except OSError as error:  # a stranger: the one that is awaited may still come
                log.debug("somebody at the %s link's door: %s", self.transport, error)
                side.close()
            except BaseException:
                side.close()
                raise
            else:
                return self._met(other, side, 0, read(said, MlxFacts), mine)

    def shut(self) -> None:
        if self._door:
            self._door.close()
        self._door = None

    def call(self, link: TcpLink, other: str, told: Facts, said: Facts) -> Helper:
        theirs = read(said, MlxFacts)
        try:
            side = socket.create_connection((link.other_host, theirs.side), CONNECT_S)
            try:
                side.sendall(theirs.keys[0].encode())
                _expect(side, theirs.keys[1], time.monotonic() + CONNECT_S)
            except BaseException:
                side.close()
                raise
        except OSError as error:
            raise ClusterError(f"its helper was not met: {error}") from error
        return self._met(other, side, 1, read(told, MlxFacts), theirs)

    def drop(self, route: Helper) -> None:
        route.end()

    def link(self, route: Helper, tag: int, beside: TcpLink) -> MlxLink:
        return route.link(tag, beside)

    def _met(self, other: str, side: socket.socket, rank: int, caller: MlxFacts, acceptor: MlxFacts) -> Helper:
        try:
            world = {"rank": rank, **self._world(caller, acceptor)}
            side.settimeout(None)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            side.close()
            raise
        helper = Helper(self.transport, side, world)
        self._helpers = {k: h for k, h in self._helpers.items() if h.runs} | {other: helper}
        return helper


class RingProcess(MlxProcess):
    transport: ClassVar[Transport] = "ring"

    def _own(self, link: TcpLink) -> MlxFacts:
        """A port that is free now; MLX listens there in a moment."""
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(link.own_host).version == 4:
                with _bound(link) as free:
                    return MlxFacts(f"{link.own_host}:{free.getsockname()[1]}")
        raise ClusterError(f"MLX's ring takes IPv4 addresses only, and this link has {link.own_host}")

    def _answer(self, link: TcpLink, said: MlxFacts) -> MlxFacts:
        return self._own(link)

    def _world(self, caller: MlxFacts, acceptor: MlxFacts) -> dict[str, Any]:
        return {"addresses": [acceptor.address, caller.address]}


class JacclProcess(MlxProcess):
    """UNTESTED: written from MLX's source and Apple's documentation."""

    transport: ClassVar[Transport] = "jaccl"

    def __init__(self) -> None:
        super().__init__()
        self._ports = thunderbolt.usable(thunderbolt.ports())  # ClusterError: in which words

    def _own(self, link: TcpLink) -> MlxFacts:
        return MlxFacts(ports=self._ports)

    def _answer(self, link: TcpLink, said: MlxFacts) -> MlxFacts:
        theirs, ours = thunderbolt.cable(said.ports, self._ports)
        return MlxFacts(ports=(ours,), device=theirs.device)

    def _world(self, caller: MlxFacts, acceptor: MlxFacts) -> dict[str, Any]:
        if not acceptor.ports:
            raise LinkError("malformed facts: no port")
        return {"devices": [acceptor.ports[0].device, acceptor.device]}


def _asdict(facts: MlxFacts) -> Facts:
    found: Facts = msgspec.to_builtins(facts)
    return found


def _bound(link: TcpLink) -> socket.socket:
    """To the address by which the two reach each other."""
    try:
        sock = socket.socket(socket.AF_INET6 if ":" in link.own_host else socket.AF_INET)
        sock.bind((link.own_host, 0))
    except OSError as error:
        raise ClusterError(f"no port at {link.own_host}: {error}") from error
    return sock


def _expect(side: socket.socket, key: str, deadline: float) -> None:
    came = b""
    while len(came) < len(key):
        side.settimeout(max(1e-3, deadline - time.monotonic()))
        piece = side.recv(len(key) - len(came))
        if not piece:
            raise ConnectionError("it left")
        came += piece
    if not hmac.compare_digest(came, key.encode()):
        raise ConnectionError("somebody else came")


def _new_file() -> int:
    """In memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("motley-mlx", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, MEMORY_BYTES)
    return file
