"""Pool: the other nodes as a head uses them: a link to each, who is lost, who is back. What starts nodes builds on it.

A node is lost when it does not answer on a new connection within `ANSWER_S`. That tells a dead process (refused at
once), a stopped one (accepted by its kernel, never greeted) and a cut cable (no answer) from one that is only slow: a
node's threads answer while its kernels compute. Membership tells of lost nodes too, but its lease must be long.
"""

import threading
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from motley.cluster.access import Access
from motley.cluster.membership import Inventory, Membership
from motley.cluster.remote import ask
from motley.cluster.tcp_link import TcpLink
from motley.errors import ClusterError, MotleyError

ANSWER_S = 2.0


class Pool:
    """`nodes`: those in use, by name; `links`: one greeted link to each. Calls are the head's main thread's, except
    `find_lost`, `find_returned` and `interrupt`, which any thread may call."""

    def __init__(self, access: Access, spin_us: float | None = None) -> None:
        self.access = access
        self.nodes: dict[str, Inventory] = {}
        self.links: dict[str, TcpLink] = {}
        self._spin_us = spin_us
        self._membership: Membership | None = None
        self._reached: weakref.WeakSet[TcpLink] = weakref.WeakSet()
        self._lock = threading.Lock()  # of the set: a watcher interrupts while links are made

    # -- links

    def reach(self, host: str, port: int) -> TcpLink:
        """A greeted link to whichever member listens there; the caller closes it, `interrupt` may break it."""
        link = self.access.reach(host, port, self._spin_us)
        with self._lock:
            self._reached.add(link)
        return link

    def connect(self, name: str) -> TcpLink:
        return self.reach(self.nodes[name].host, self.nodes[name].port)

    def interrupt(self) -> None:
        """Break every link that was reached: whoever waits, waits no longer."""
        with self._lock:
            links = list(self._reached)
        for link in links:
            link.interrupt()

    # -- who is there

    def find_lost(self) -> dict[str, str]:
        """Of the nodes in use those that don't answer, and in words how. Takes up to `ANSWER_S` if there are any."""
        nodes = list(self.nodes.items())
        return {name: how for (name, _), how in zip(nodes, self._silent(node for _, node in nodes)) if how}

    def find_returned(self) -> dict[str, Inventory]:
        """Nodes that are not in use, and answer: lost ones that came back, and new ones of the same version."""
        there = self._membership.nodes() if self._membership else {}
        new = {n: node for n, node in there.items() if n not in self.nodes and self.is_suitable(node)}
        return {name: node for (name, node), how in zip(new.items(), self._silent(new.values())) if not how}

    def drop(self, name: str) -> None:
        self.nodes.pop(name, None)
        if link := self.links.pop(name, None):
            link.interrupt()

    def take(self, node: Inventory) -> None:
        """Raises ClusterError if it is gone again."""
        self.links[node.name] = self.reach(node.host, node.port)
        self.nodes[node.name] = node

    def refresh_links(self) -> None:
        """New links to all nodes in use: `interrupt` broke the old ones."""
        for name in self.nodes:
            self.links[name].close()
            self.links[name] = self.connect(name)

    def is_suitable(self, node: Inventory) -> bool:
        return node.name != self.access.name

    def how_it_ended(self, node: Inventory) -> str:
        """What is known of a node that does not answer, in words."""
        return ""

    def explain(self, error: ClusterError) -> ClusterError:
        """The NodeLost behind a broken link, or `error` itself if all nodes live."""
        raise NotImplementedError

    def __enter__(self) -> "Pool":
        raise NotImplementedError

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave. Idempotent."""
        links, self.links = self.links, {}
        for link in links.values():
            link.close()
        if self._membership:
            self._membership.close()

    def _silent(self, nodes: Iterable[Inventory]) -> list[str]:
        """For each how it is silent, "" where it answers."""
        asked = list(nodes)
        if not asked:
            return []
        with ThreadPoolExecutor(max_workers=len(asked)) as threads:
            return list(threads.map(self._silence, asked))

    def _silence(self, node: Inventory) -> str:
        deadline = time.monotonic() + ANSWER_S
        try:
            link = self.access.reach(node.host, node.port, 0.0, timeout_s=ANSWER_S)
            try:
                ask(link, "memory", max(0.1, deadline - time.monotonic()))
            finally:
                link.close()
        except MotleyError as error:
            return self.how_it_ended(node) or f"it does not answer ({error})"
        return ""
