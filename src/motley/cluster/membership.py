"""Membership: who is in the cluster, over Zenoh. Announces, discovers, watches; carries no activations and no secrets.

Keys: a liveliness token `motley/<cluster>/node/<name>/<birth>` says that a node is there, and a query of the same key
gives its inventory as JSON; `motley/<cluster>/head/<name>/<birth>` is the head's token. Of two nodes with one name the
elder keeps it. A process that is killed loses its tokens at once (its connections end), a machine that vanishes
within the lease.

Who is expelled: `motley/<cluster>/trust` is published when it changes, `motley/<cluster>/trust/<kind>/<name>/<birth>`
answers what a member knows, and is asked of everybody who comes: so those learn it who were away, and those who were
together without somebody who knew. Zenoh reads its certificates when a session opens, so each member then opens its own
anew; who is not back `GRACE_S` later is gone.

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
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from motley.cluster.tcp_link import LOOPBACK
from motley.errors import ClusterError, UsageError

if TYPE_CHECKING:
    import zenoh

log = logging.getLogger("motley.membership")

# A process that ends closes its connections, which is noticed at once; the lease is for hung machines and cut cables.
# 2 s was too short: with many busy threads on few cores, healthy nodes took their head for dead in mid-bench.
LEASE_MS = 10_000
CONNECT_S = 5.0  # for a peer to answer
GRACE_S = 10.0  # until members that open their sessions anew have found each other again
LOOK_S = 0.2
OPENINGS = 10  # of the same port again, LOOK_S apart
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

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Of each device. The first one has the node's name and port, others a port of their own among `devices`."""
        others = {str(d["name"]): (self.host, int(d["port"])) for d in self.devices if "port" in d}
        return {self.name: (self.host, self.port), **others}


class Trust(Protocol):
    """What a member knows of who is expelled; `trust.Trust`."""

    @property
    def number(self) -> int: ...
    @property
    def pem(self) -> bytes: ...
    @property
    def is_expelled(self) -> bool: ...
    def adopt(self, pem: bytes) -> bool: ...


class Membership:
    """One process's seat in the cluster: a node (with an inventory), the head, or an onlooker with neither.

    `peers`: "host[:port]" of members to connect to; `endpoint` is one's own, to give to others. `tls`: Zenoh's
    settings of one's certificate (`identity.Identity.zenoh_settings`). `patient`: peers that aren't there yet are
    waited for, and found again when they return. Callbacks come from a thread of the membership and must be quick:
    on_joined(inventory), on_left(name), on_head_gone(name), on_name_taken() when an elder node has this name, and
    on_expelled() when this member is accepted no more.
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
        trust: Trust | None = None,
        on_expelled: Callable[[], None] | None = None,
    ) -> None:
        self._root = f"motley/{check_name(cluster, 'cluster')}"
        self.cluster, self.name = cluster, check_name(name, "node")
        self._inventory = inventory
        self._on_joined, self._on_left = on_joined, on_left
        self._on_head_gone, self._on_name_taken = on_head_gone, on_name_taken
        self._trust, self._on_expelled = trust, on_expelled
        self._birth = f"{time.time_ns():016x}{secrets.token_hex(4)}"  # ascending, unique
        self._nodes: dict[str, tuple[str, Inventory]] = {}  # name -> birth, inventory
        self._heads: set[str] = set()
        self._head_was_seen = False
        self._changed = threading.Condition()
        self._events: queue.SimpleQueue[tuple[bool, str] | bytes | None] = queue.SimpleQueue()
        self._away: dict[str, tuple[str, float]] = {}  # name -> birth, until when it may come back
        self._calm = 0.0  # until when others open their sessions anew
        scheme = "tls" if tls else "tcp"
        self._head, self._host, self._scheme = head, host, scheme
        self._peers = [_endpoint(p, scheme) for p in peers]
        self._settings = {**(tls or {}), "scouting/multicast/enabled": multicast}
        self._seat = threading.RLock()  # the session, and what it keeps for us
        self._seated = trust.number if trust else 0  # what the session was opened with
        self._session, self.endpoint = self._opened(port, patient)
        # No daemon, for the threads of Zenoh's callbacks are what the thread is that declares them, this one after an
        # expulsion: and where Python exits without waiting for such a thread, it aborts (its end unwinds through Rust).
        self._watcher = threading.Thread(target=self._watch, name="membership", daemon=False)
        self._declared: list[object] = []  # what Zenoh is to keep for us
        self._closed = False
        _open_ones.add(self)
        try:
            self._watcher.start()
            with self._seat:  # what is heard at once of an expulsion must not close the session in the middle of it
                self._announce()
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
        with self._seat:
            self._leave()
            self._events.put(None)
        if self._watcher.is_alive() and self._watcher is not threading.current_thread():
            self._watcher.join(2)
        del self._session  # Zenoh keeps descriptors until its objects are gone

    def __enter__(self) -> "Membership":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def spread(self) -> None:
        """Tell all who are there what is known here of who is expelled; they open their sessions anew."""
        with self._seat:
            if self._trust and not self._closed:
                self._calm = time.monotonic() + GRACE_S
                self._session.put(f"{self._root}/trust", self._trust.pem)

    def unaware(self) -> set[str]:
        """The nodes that don't know what is known here of who is expelled, or don't say."""
        if not self._trust:
            return set()
        with self._changed:
            there = {name: birth for name, (birth, _) in self._nodes.items()}
        said = {name: self._asked(f"{self._root}/trust/node/{name}/{birth}") for name, birth in there.items()}
        return {name for name, pem in said.items() if pem != self._trust.pem}

    def _opened(self, port: int, patient: bool) -> "tuple[zenoh.Session, str]":
        found = {
            "connect/timeout_ms": -1 if patient else round(1e3 * CONNECT_S),
            "connect/exit_on_failure": not patient,
        }
        return _open(self._host, port, self._scheme, self._peers, {**self._settings, **found})

    def _leave(self) -> None:
        try:
            self._session.close()  # type: ignore[no-untyped-call]
        except Exception as error:  # Zenoh's ZError: a member whose cable was pulled can't be told goodbye
            log.debug("leaving %s: %s", self.cluster, error)
        self._declared.clear()

    @property
    def _is_stale(self) -> bool:
        """Whether the session was opened before what is known by now."""
        return bool(self._trust and self._trust.number != self._seated)

    def _reseat(self) -> None:
        """Open the session anew, by the certificates of now. Connections to the expelled end with the old one."""
        with self._seat:
            if self._closed or not self._trust or not self._is_stale:
                return
            number = self._trust.number
            with suppress(Exception):  # Zenoh's ZError, of a session that ended when this was tried before
                self.spread()  # so that nobody, the expelled included, hears of our leaving before its reason
            self._leave()
            with self._changed:
                self._away = {name: (birth, self._calm) for name, (birth, _) in self._nodes.items()}
            before = self.endpoint
            self._session, self.endpoint = self._opened_again(int(before.rpartition(":")[2]))
            self._announce()
            self._seated = number  # if any of this failed, `_watch` tries it again
            if self.endpoint != before:
                log.warning("%s was taken meanwhile: members find this one at %s now", before, self.endpoint)

    def _opened_again(self, port: int) -> "tuple[zenoh.Session, str]":
        """At the same address, as far as it is free again."""
        for _ in range(OPENINGS):
            try:
                return self._opened(port, patient=True)
            except ClusterError as error:
                log.debug("opening again: %s", error)
                time.sleep(LOOK_S)
        return self._opened(0, patient=True)

    def _announce(self) -> None:
        liveliness = self._session.liveliness()
        self._declared.append(liveliness.declare_subscriber(f"{self._root}/**", self._hear, history=True))
        own = f"{'head' if self._head else 'node'}/{self.name}/{self._birth}"
        if self._trust:
            self._declared.append(self._session.declare_subscriber(f"{self._root}/trust", self._hear_trust))
            self._answer(f"{self._root}/trust/{own}", self._known)
        key = f"{self._root}/{own}"
        if self._inventory:
            answer = msgspec.json.encode(self._inventory)
            self._answer(key, lambda: answer)
        if self._head or self._inventory:
            self._declared.append(liveliness.declare_token(key))

    def _answer(self, key: str, said: Callable[[], bytes]) -> None:
        self._declared.append(self._session.declare_queryable(key, lambda query: query.reply(key, said())))

    def _known(self) -> bytes:
        return self._trust.pem if self._trust else b""

    def _hear_trust(self, sample: "zenoh.Sample") -> None:
        """On Zenoh's thread."""
        self._events.put(sample.payload.to_bytes())

    def _hear(self, sample: "zenoh.Sample") -> None:
        """On Zenoh's thread: no queries from here."""
        import zenoh

        self._events.put((sample.kind == zenoh.SampleKind.PUT, str(sample.key_expr)))

    def _watch(self) -> None:
        while True:
            try:
                with suppress(queue.Empty):
                    event = self._events.get(timeout=LOOK_S if self._away or self._is_stale else None)
                    if event is None:
                        return
                    self._see(event)
                self._reseat()
                self._see_overdue()
            except Exception:
                log.exception("watching cluster %s", self.cluster)
                time.sleep(LOOK_S)

    def _see(self, event: tuple[bool, str] | bytes) -> None:
        if isinstance(event, bytes):
            self._learn(event)
            return
        came, key = event
        parts = key.removeprefix(self._root + "/").split("/")
        if len(parts) != 3 or parts[0] not in ("head", "node"):
            return
        if came and self._trust and parts[2] != self._birth:
            self._learn(self._asked(f"{self._root}/trust/{'/'.join(parts)}"))
        if parts[0] == "head":
            self._see_head(parts[1], came)
        else:
            self._see_node(key, parts[1], parts[2], came)

    def _learn(self, pem: bytes | None) -> None:
        """What somebody says of who is expelled."""
        if not (pem and self._trust and self._trust.adopt(pem)):
            return
        if self._trust.is_expelled:
            log.warning("%s was expelled from cluster %s", self.name, self.cluster)
            if self._on_expelled:
                self._on_expelled()
        self._reseat()

    def _see_overdue(self) -> None:
        now = time.monotonic()
        for name in [name for name, (_, until) in self._away.items() if now > until]:
            birth, _ = self._away.pop(name)
            self._see_gone(name, birth)

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
        if came and present and present[0] == birth:
            self._away.pop(name, None)
        elif came and present and present[0] < birth and name not in self._away:
            log.warning("a second node named %s appeared: the elder keeps the name", name)
        elif came:
            if inventory := self._ask_inventory(key):
                self._away.pop(name, None)
                self._note(name, (birth, inventory))
                if self._on_joined:
                    self._on_joined(inventory)
        elif not came and time.monotonic() < self._calm:
            self._away[name] = birth, self._calm
        elif not came:
            self._see_gone(name, birth)

    def _see_gone(self, name: str, birth: str) -> None:
        if (present := self._nodes.get(name)) and present[0] == birth:
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
            if (said := self._asked(key)) is not None:
                return msgspec.json.decode(said, type=Inventory)
        except msgspec.DecodeError as error:
            log.warning("%s tells a malformed inventory (%s): it stays out", key, error)
        return None

    def _asked(self, key: str) -> bytes | None:
        """What who declared this key answers."""
        try:
            with self._seat:
                session = self._session
            for reply in session.get(key, timeout=2):
                if reply.ok is not None:
                    return bytes(reply.ok.payload.to_bytes())
        except Exception as error:  # Zenoh's ZError, which isn't imported here
            if not self._closed:
                log.warning("%s is not answered: %s", key, error)
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
