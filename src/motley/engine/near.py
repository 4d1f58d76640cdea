"""Near: the devices of one process reach each other without a network. Each has its own runtime and its own address, as
if it were a node; who is near is called through memory, by a thread that answers like a node's server."""

import threading

from motley.cluster.link import Link
from motley.cluster.memory_link import memory_links
from motley.cluster.server import Handler, serve
from motley.engine.assign import Address
from motley.engine.health import Reach


class Near:
    """`reach`: to all others."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._here: dict[Address, tuple[str, Handler]] = {}

    def put(self, name: str, address: Address, handler: Handler) -> None:
        self._here[address] = name, handler

    def connect(self, host: str, port: int, timeout_s: float = 5.0) -> Link:
        """A link to whoever listens there; the caller closes it."""
        found = self._here.get((host, port))
        if found is None:
            return self._reach(host, port, timeout_s)
        name, handler = found
        link, theirs = memory_links(name, strict=False)
        threading.Thread(target=serve, args=(theirs, handler, name), name=f"near {name}", daemon=True).start()
        return link
