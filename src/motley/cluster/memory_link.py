"""The in-memory twin of a link: a connected pair inside one process, for devices of one node and for tests.

For tests it is stricter than a wire where that finds mistakes: a payload is overwritten at the next `receive`, as the
contract allows, so that code which keeps a view too long fails here first.
"""

import queue
import time
from collections.abc import Sequence

from motley.cluster.link import Buffer, Frame, Link, size_of
from motley.errors import LinkError

_CLOSED = None


class MemoryLink(Link):
    transport = "memory"

    def __init__(
        self, outbox: "queue.SimpleQueue[_Item]", inbox: "queue.SimpleQueue[_Item]", peer: str, strict: bool
    ) -> None:
        self.peer, self._strict = peer, strict
        self._outbox = outbox
        self._inbox = inbox
        self._last = bytearray()
        self._broken = ""

    def send(self, kind: int, request: int, parts: Sequence[Buffer]) -> None:
        if self._broken:
            raise LinkError(self._broken)
        n_bytes = sum(map(size_of, parts))
        if n_bytes > self.max_payload:
            raise LinkError(f"a frame of {n_bytes} bytes is too large for this link (at most {self.max_payload})")
        self._outbox.put((kind, request, bytearray(b"".join(parts))))

    def receive(self, timeout_s: float | None = None) -> Frame:
        if self._broken:
            raise LinkError(self._broken)
        started = time.perf_counter()
        try:
            item = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            waited = time.perf_counter() - started
            raise LinkError(f"{self.peer} sent nothing for {waited:.1f} s") from None
        if item is _CLOSED:
            self._broken = f"the link to {self.peer} was closed"
            raise LinkError(self._broken)
        if self._strict:
            self._last[:] = b"\xaa" * len(self._last)
        kind, request, self._last = item
        return Frame(kind, request, memoryview(self._last))

    def interrupt(self) -> None:
        self._broken = self._broken or f"the link to {self.peer} was closed"
        self._outbox.put(_CLOSED)
        self._inbox.put(_CLOSED)

    def close(self) -> None:
        self.interrupt()


_Item = tuple[int, int, bytearray] | None


def memory_links(peer: str = "the other end", strict: bool = True) -> tuple[MemoryLink, MemoryLink]:
    """Two ends of one link; the first one's `peer`."""
    there: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    back: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    return MemoryLink(there, back, peer, strict), MemoryLink(back, there, "the first end", strict)
