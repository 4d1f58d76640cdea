"""Pool: the other nodes as a head uses them, whoever started them: their inventories, and a link to each."""

from typing import Self

from motley.cluster.access import Access
from motley.cluster.link import Link
from motley.cluster.membership import Inventory, Membership
from motley.errors import ClusterError


class Pool:
    """A context manager: within it `nodes` and `links` (one greeted link to each node) are there."""

    def __init__(self, access: Access, spin_us: float | None = None) -> None:
        self.access = access
        self.nodes: dict[str, Inventory] = {}
        self.links: dict[str, Link] = {}
        self._spin_us = spin_us
        self._membership: Membership | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:  # Ctrl-C while starting, too
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def connect(self, name: str) -> Link:
        """One more link to a node; the caller closes it."""
        return self.reach(self.nodes[name].host, self.nodes[name].port)

    def reach(self, host: str, port: int, timeout_s: float = 5.0) -> Link:
        """A greeted link to whichever member of this cluster listens there; the caller closes it."""
        return self.access.reach(host, port, self._spin_us, timeout_s=timeout_s)

    def addresses(self) -> dict[str, tuple[str, int]]:
        """Of the devices of nodes that are members now: a restarted one listens elsewhere than before."""
        there = self._membership.nodes() if self._membership else {}
        return {name: at for node in there.values() if self.is_suitable(node) for name, at in node.addresses.items()}

    def is_suitable(self, node: Inventory) -> bool:
        """Whether a node can take part in what this head does."""
        return node.name != self.access.name

    def explain(self, error: ClusterError) -> ClusterError:
        """The NodeLost behind a broken link (of the head, or between nodes), or `error` itself if all nodes live."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave. Idempotent."""
        links, self.links = self.links, {}
        for link in links.values():
            link.close()
        if self._membership:
            self._membership.close()

    def _start(self) -> None:
        """Fill `nodes` and `links`."""
        raise NotImplementedError
