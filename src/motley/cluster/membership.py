"""Membership: who is in the cluster, over Zenoh. Announces, discovers, watches; carries no activations and no secrets.

Keys: a liveliness token `motley/<cluster>/node/<name>/<birth>` says that a node is there, and a query of the same key
gives its inventory as JSON; `motley/<cluster>/head/<name>/<birth>` is the head's token. Of two nodes with one name the
elder keeps it. A process that is killed loses its tokens at once (its connections end), a machine that vanishes
within the lease.

A Zenoh session left open hangs Python at its exit: `Membership` is a context manager, and closes at exit at last.
Zenoh itself is imported when the first session is opened.
"""

import json
import logging
import queue
import re
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from motley.cluster.tcp_link import LOOPBACK
from motley.errors import ClusterError, UsageError

if TYPE_CHECKING:
    import zenoh

log = logging.getLogger("motley.membership")

# A process that ends closes its connections, which is noticed at once; the lease is for hung machines and cut cables.
# 2 s was too short: with many busy threads on few cores, healthy nodes took their head for dead in mid-bench.
LEASE_MS = 10_000
DEFAULT_PORT = 7447  # Zenoh's own
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Inventory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node tells about itself."""

    version: str  # Motley's
    name: str
    host: str  # of its data listener
    port: int
    devices: tuple[dict[str, Any], ...] = ()  # fields of lab.Device
    pid: int = 0
    encrypted: bool = False  # whether its data links speak TLS


class Membership:
    """One process's seat in the cluster: a node (with an inventory), the head, or an onlooker with neither.

    `peers`: "host[:port]" of members to connect to; `endpoint` is one's own, to give to others. `tls`: Zenoh's
    settings of one's certificate (`identity.Identity.zenoh_settings`). `patient`: peers that aren't there yet are
    waited for, and found again when they return. Callbacks come from a thread of the membership and must be quick:
    on_joined(inventory), on_left(name), on_head_gone(name), and on_name_taken() when an elder node has this name.
    """

    def __init__(
        self,
        cluster: str,
        name: str,
        inventory: Inventory | None = None,
        *,
        peers: Sequence[str] = (),
        head: bool = False,
        host: str = LOOPBACK,
        port: int = 0,
        multicast: bool = False,
        tls: Mapping[str, object] | None = None,
        patient: bool = False,
        on_joined: Callable[[Inventory], None] | None = None,
        on_left: Callable[[str], None] | None = None,
        on_head_gone: Callable[[str], None] | None = None,
        on_name_taken: Callable[[], None] | None = None,
    ) -> None:
        self._root = f"motley/{check_name(cluster, 'cluster')}"
        self.cluster, self.name = cluster, check_name(name, "node")
        self._inventory = inventory
        self._on_joined, self._on_left = on_joined, on_left
        self._on_head_gone, self._on_name_taken = on_head_gone, on_name_taken
        self._birth = f"{time.time_ns():016x}{secrets.token_hex(4)}"  # ascending, unique
        self._nodes: dict[str, tuple[str, Inventory]] = {}  # name -> birth, inventory
        self._heads: set[str] = set()
        self._head_was_seen = False
        self._changed = threading.Condition()
        self._events: queue.SimpleQueue[tuple[bool, str] | None] = queue.SimpleQueue()
        scheme = "tls" if tls else "tcp"
        found = {"connect/timeout_ms": -1 if patient else 5000, "connect/exit_on_failure": not patient}
        settings = {**(tls or {}), **found, "scouting/multicast/enabled": multicast}
        self._session, self.endpoint = _open(host, port, scheme, [_endpoint(p, scheme) for p in peers], settings)
        self._watcher = threading.Thread(target=self._watch, name="membership", daemon=True)
        self._declared: list[object] = []  # what Zenoh is to keep for us
        self._closed = False
        _open_ones.add(self)
        try:
            self._announce(head)
        except BaseException:
            self.close()
            raise

    # -- who is there

    def nodes(self) -> dict[str, Inventory]:
        """The other nodes that are alive, by name."""
        with self._changed:
            return {name: inventory for name, (_, inventory) in self._nodes.items()}

    def wait_for_nodes(self, names: Sequence[str], timeout_s: float) -> bool:
        """Until all of `names` are there; False when the time is over."""
        with self._changed:
            return self._changed.wait_for(lambda: set(names) <= self._nodes.keys(), timeout_s)

    def heads(self) -> set[str]:
        with self._changed:
            return set(self._heads)

    def wait_for_head(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._heads), timeout_s)

    def wait_head_gone(self, timeout_s: float | None = None) -> bool:
        """Until a head that was there is there no longer; False when the time is over."""
        with self._changed:
            return self._changed.wait_for(lambda: self._head_was_seen and not self._heads, timeout_s)

    # -- life

    def close(self) -> None:
        """Leave the cluster. Idempotent."""
        if self._closed:
            return
        self._closed = True
        _open_ones.discard(self)
        try:
            self._session.close()  # type: ignore[no-untyped-call]
        except Exception as error:  # Zenoh's ZError: a member whose cable was pulled can't be told goodbye
            log.debug("leaving %s: %s", self.cluster, error)
        self._events.put(None)
        if self._watcher.is_alive() and self._watcher is not threading.current_thread():
            self._watcher.join(2)
        self._declared.clear()
        del self._session  # Zenoh keeps descriptors until its objects are gone

    def __enter__(self) -> "Membership":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _announce(self, head: bool) -> None:
        liveliness = self._session.liveliness()
        self._watcher.start()
        self._declared.append(liveliness.declare_subscriber(f"{self._root}/**", self._hear, history=True))
        key = f"{self._root}/{'head' if head else 'node'}/{self.name}/{self._birth}"
        if self._inventory:
            answer = msgspec.json.encode(self._inventory)
            self._declared.append(self._session.declare_queryable(key, lambda query: query.reply(key, answer)))
        if head or self._inventory:
            self._declared.append(liveliness.declare_token(key))

    def _hear(self, sample: "zenoh.Sample") -> None:
        """On Zenoh's thread: no queries from here."""
        import zenoh

        self._events.put((sample.kind == zenoh.SampleKind.PUT, str(sample.key_expr)))

    def _watch(self) -> None:
        while (event := self._events.get()) is not None:
            came, key = event
            parts = key.removeprefix(self._root + "/").split("/")
            try:
                if len(parts) == 3 and parts[0] == "head":
                    self._see_head(parts[1], came)
                elif len(parts) == 3 and parts[0] == "node":
                    self._see_node(key, parts[1], parts[2], came)
            except Exception:
                log.exception("after %s %s", key, "came" if came else "left")

    def _see_head(self, name: str, came: bool) -> None:
        with self._changed:
            (self._heads.add if came else self._heads.discard)(name)
            self._head_was_seen |= came
            self._changed.notify_all()
        if not came and self._on_head_gone:
            self._on_head_gone(name)

    def _see_node(self, key: str, name: str, birth: str, came: bool) -> None:
        if name == self.name:
            if came and birth < self._birth and self._inventory and self._on_name_taken:
                self._on_name_taken()
            return
        present = self._nodes.get(name)
        if came and present and present[0] < birth:
            log.warning("a second node named %s appeared: the elder keeps the name", name)
        elif came:
            if inventory := self._ask_inventory(key):
                self._note(name, (birth, inventory))
                if self._on_joined:
                    self._on_joined(inventory)
        elif present and present[0] == birth:
            self._note(name, None)
            if self._on_left:
                self._on_left(name)

    def _note(self, name: str, present: tuple[str, Inventory] | None) -> None:
        with self._changed:
            if present:
                self._nodes[name] = present
            else:
                del self._nodes[name]
            self._changed.notify_all()

    def _ask_inventory(self, key: str) -> Inventory | None:
        try:
            for reply in self._session.get(key, timeout=2):
                if reply.ok is not None:
                    return msgspec.json.decode(reply.ok.payload.to_bytes(), type=Inventory)
        except msgspec.DecodeError as error:
            log.warning("%s tells a malformed inventory (%s): it stays out", key, error)
        except Exception as error:  # Zenoh's ZError, which isn't imported here
            if not self._closed:
                log.warning("%s tells no inventory (%s): it stays out", key, error)
        return None


_open_ones: "weakref.WeakSet[Membership]" = weakref.WeakSet()


def _close_all() -> None:
    for membership in list(_open_ones):
        membership.close()


# Not atexit: Python waits for all threads before its handlers run, and Zenoh's callbacks have such threads.
threading._register_atexit(_close_all)  # type: ignore[attr-defined]


def check_name(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what} name {name!r}: use up to 64 letters, digits, dots, dashes and underscores")
    return name


def _endpoint(peer: str, scheme: str = "tcp") -> str:
    """ "host[:port]" as a Zenoh endpoint; an IPv6 address with a port stands in brackets."""
    host, port = peer, str(DEFAULT_PORT)
    if match := re.fullmatch(r"(\[[^]]+\]|[^:]+):(\d+)", peer):
        host, port = match[1], match[2]
    if not host or int(port) > 65535 or re.search(r"[\s/#?]", host):
        raise UsageError(f"--peer {peer!r}: give host or host:port")
    return f"{scheme}/[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{scheme}/{host}:{port}"


def _open(
    host: str, port: int, scheme: str, peers: list[str], more: Mapping[str, object]
) -> "tuple[zenoh.Session, str]":
    """A session and its own "host:port". Zenoh doesn't tell which port it got for 0, so a free one is chosen here;
    should somebody take it in between, another is tried."""
    import zenoh

    for attempt in range(5):
        own_port = port or _free_port(host)
        own = f"{host}:{own_port}"
        settings = {
            "mode": "peer",
            "listen/endpoints": [_endpoint(own, scheme)],
            "connect/endpoints": peers,
            "transport/link/tx/lease": LEASE_MS,
            **more,
        }
        config = zenoh.Config()
        for key, value in settings.items():
            config.insert_json5(key, json.dumps(value))
        try:
            return zenoh.open(config), own
        except zenoh.ZError as error:
            if "listen" in str(error).lower() and not port and attempt < 4:
                continue
            where = ", ".join(p.removeprefix(f"{scheme}/") for p in peers)
            if peers and "connect" in str(error).lower():
                raise ClusterError(
                    f"no member of a cluster answers at {where}: is it running, and reachable?"
                ) from error
            raise ClusterError(f"cannot open the control plane on {own}: {error}") from error
    raise AssertionError("unreachable")


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])
