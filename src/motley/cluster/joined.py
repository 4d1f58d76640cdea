"""JoinedCluster: the nodes of a joined cluster as a head sees them: found, greeted, watched. It starts and ends nobody.

The same to its users as `local.LocalCluster`.
"""

import time
from collections.abc import Callable

from motley import __version__
from motley.cluster.access import Access
from motley.cluster.local import same_version
from motley.cluster.membership import Inventory, Membership
from motley.cluster.pool import Pool
from motley.errors import ClusterError, NodeLost

APPEAR_S = 10.0  # for the first node
SETTLE_S = 1.0  # nobody came for so long: those are all


class JoinedCluster(Pool):
    """`with JoinedCluster(access) as cluster`: all other nodes that are there."""

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self._gone: list[str] = []

    def explain(self, error: ClusterError) -> ClusterError:
        """The NodeLost behind a broken link, or `error` itself if all nodes are there."""
        deadline = time.monotonic() + 0.5
        while not self._gone and time.monotonic() < deadline:
            time.sleep(0.01)
        if not self._gone:
            return error
        names = " and ".join(self._gone)
        return NodeLost(f"node {names} is gone: it ended, or can't be reached; `motley nodes` shows who is there")

    def is_suitable(self, node: Inventory) -> bool:
        return super().is_suitable(node) and node.encrypted == self.access.encrypted and node.version == __version__

    def _start(self) -> None:
        self._membership = self.access.seat(head=True, on_left=self._see_lost)
        found = self._await_nodes(self._membership)
        self.nodes = {name: self._suitable(found[name]) for name in sorted(found)}
        for name in self.nodes:
            self.links[name] = self.connect(name)

    def _await_nodes(self, membership: Membership) -> dict[str, Inventory]:
        there = settle(lambda: self._others(membership), APPEAR_S, SETTLE_S)
        if not there:
            raise ClusterError(
                f"no other node of cluster {self.access.cluster} appeared in {APPEAR_S:.0f} s: start `motley node` on "
                "each machine; `motley nodes` shows who is there"
            )
        return there

    def _others(self, membership: Membership) -> dict[str, Inventory]:
        """The head uses its own machine itself."""
        return {name: node for name, node in membership.nodes().items() if Pool.is_suitable(self, node)}

    def _suitable(self, node: Inventory) -> Inventory:
        if node.encrypted != self.access.encrypted:
            trusting, other = (node.name, "this head") if not node.encrypted else ("this head", node.name)
            raise ClusterError(
                f"{trusting} was started with --trusted-lan, {other} was not: start all with it, or all without"
            )
        return same_version(node)

    def _see_lost(self, name: str) -> None:
        """From the membership's thread: whoever waits for this node's answer waits no longer."""
        if link := self.links.get(name):
            self._gone.append(name)
            link.interrupt()


def settle(look: Callable[[], dict[str, Inventory]], appear_s: float, settle_s: float) -> dict[str, Inventory]:
    """Look until nothing changed for `settle_s` since something came, or `appear_s` passed."""
    there = look()
    started = changed = time.monotonic()
    while time.monotonic() - (changed if there else started) < (settle_s if there else appear_s):
        time.sleep(0.02)
        now = look()
        if now.keys() != there.keys():
            there, changed = now, time.monotonic()
    return there
