"""The node's side: one process that announces itself, serves its handler, and ends when it should.

With `with_head` (a local cluster's node) it ends when its head ends, however that happens: the head's token goes away,
or the pipe to its standard input, whose first line is the cluster's token. Not argv and not the environment: other
users can read the one, and children inherit the other.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from motley import __version__
from motley.cluster.access import Access
from motley.cluster.membership import Inventory, Membership
from motley.cluster.server import Handler, Server
from motley.errors import ClusterError

log = logging.getLogger("motley.node")

LAST_RESORT_S = 5.0  # from the wish to end to the end, whatever a handler is doing; longer than leaving takes at most
HEAD_APPEARS_S = 10.0
SIGNAL_S = 0.5  # Python sleeps on if a signal came to another thread, or just before it slept: look again so often


def run_node(
    access: Access,
    handler: Handler,
    *,
    devices: Sequence[dict[str, Any]] = (),
    others: Mapping[str, Handler] = {},
    listening: Callable[[str, tuple[str, int]], None] = lambda name, address: None,
    with_head: bool = False,
    ready: Callable[[], None] = lambda: None,
    spin_us: float | None = None,
) -> int:
    """Until SIGTERM, SIGINT or the head's end. The main thread calls it, and the process ends soon after, if need be
    by an alarm. `others`: of further devices, by name, each with a listener of its own; `listening` is told where each
    device listens. `ready` is called when others can see the node. Returns the exit status."""
    stop = threading.Event()
    errors: list[str] = []
    name, cluster = access.name, access.cluster

    def end(reason: str) -> None:
        if not stop.is_set():
            log.info("%s: ends: %s", name, reason)
            _end_at_last()
            stop.set()

    def name_taken() -> None:
        errors.append(f"cluster {cluster} already has a node named {name}: choose another --name")
        stop.set()

    def expelled() -> None:
        errors.append(f"{name} was expelled from cluster {cluster}: it takes a new token to join")
        stop.set()

    with _signals(end):
        if with_head:
            _watch_stdin(end)
        servers = {
            device: Server(
                access.listen(spin_us), answers, cluster=cluster, name=device, token=access.token, named=access.named
            )
            for device, answers in {name: handler, **others}.items()
        }
        try:
            host, port = access.host, servers[name].listener.port
            for device, server in servers.items():
                listening(device, (host, server.listener.port))
            told = [{**d, "port": servers[d["name"]].listener.port} if d["name"] in others else d for d in devices]
            inventory = Inventory(__version__, name, host, port, tuple(told), os.getpid(), access.encrypted)
            head_gone = (lambda head: end(f"its head {head} is gone")) if with_head else None
            with access.seat(inventory, on_head_gone=head_gone, on_name_taken=name_taken, on_expelled=expelled) as seat:
                if with_head:
                    _await_head(seat, stop)
                log.info("%s: listens on %s:%d", name, host, port)
                ready()
                while not stop.wait(SIGNAL_S):
                    pass
        finally:
            for server in servers.values():
                server.close()
    if errors:
        raise ClusterError(errors[0])
    return 0


def token_from_head() -> str:
    """The first line of standard input, read without a buffer that would keep more."""
    line = bytearray()
    while (byte := os.read(sys.stdin.fileno(), 1)) not in (b"\n", b""):
        line += byte
    if not line:
        raise ClusterError("no token on standard input: `motley node --with-head` is started by its head")
    return line.decode()


def _watch_stdin(end: Callable[[str], None]) -> None:
    def watch() -> None:
        # os.read, not sys.stdin: its buffer's lock, held by a daemon thread, would abort the interpreter's exit
        with contextlib.suppress(OSError):
            while os.read(sys.stdin.fileno(), 4096):
                pass
        end("its head closed the pipe")

    threading.Thread(target=watch, name="stdin", daemon=True).start()


@contextlib.contextmanager
def _signals(end: Callable[[str], None]) -> Iterator[None]:
    """SIGTERM and SIGINT are wishes to end, while the node runs."""
    before = {
        number: signal.signal(number, lambda got, _: end(signal.Signals(got).name))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_last() -> None:
    """A handler deep in its work can't be interrupted, and nothing of it would be kept. The kernel's alarm ends the
    process even where a thread that is stuck holds the interpreter's lock."""
    signal.setitimer(signal.ITIMER_REAL, LAST_RESORT_S)


def _await_head(seat: Membership, stop: threading.Event) -> None:
    """Until the head is seen, or gone before that."""
    deadline = time.monotonic() + HEAD_APPEARS_S
    while not seat.wait_for_head(0.05) and not stop.is_set():
        if time.monotonic() > deadline:
            raise ClusterError(f"{seat.name}: no head of cluster {seat.cluster} appeared in {HEAD_APPEARS_S:.0f} s")
