"""The `local` link: two processes of one machine, their bytes in shared memory, a ring each way (`native/ring.h`).

Beside it stay two sockets: the authenticated link over which the memory was agreed on (`neighbour`), and a UNIX socket
that wakes who sleeps. The end of either is the end of this link, so a process that dies is noticed at once. Memory that
holds what no peer can have written is not used any further; the other side gets to know, over the link beside.
"""

import contextlib
import logging
import mmap
import select
import socket
from collections.abc import Sequence

from motley.cluster.beside_link import BesideLink
from motley.cluster.link import Buffer
from motley.cluster.tcp_link import TcpLink, sleep
from motley.ops.native._native import Ring

log = logging.getLogger("motley.link")

RING_BYTES = 2 << 20  # a sender can be so far ahead; memory follows use
SECRETS_BYTES = 1024  # at the beginning: of `neighbour`
CONTROL_BYTES = 1024  # for each ring
MEMORY_BYTES = mmap.PAGESIZE + 2 * RING_BYTES
LOOK_S = 5e-6  # at the ring, before the sockets and the core's other users have their turn: 1 is half as fast, 20 hogs

WRITER, READER = False, True  # sides of a ring


class LocalLink(BesideLink):
    """`memory`: MEMORY_BYTES that both processes mapped, whose size nobody can change. It, `bell` (a connected UNIX
    socket) and `beside` are this link's from now on. `on_spoilt` is called, once, when the memory is given up."""

    transport = "local"
    spoilt = "the memory shared with {} is spoilt"

    def __init__(self, memory: mmap.mmap, bell: socket.socket, beside: TcpLink, *, accepted: bool) -> None:
        super().__init__(beside)
        self._bell = bell
        self._rings = rings_of(memory, accepted=accepted)
        bell.setblocking(False)
        self._ends = select.poll()
        self._ends.register(bell, select.POLLIN)
        self._ends.register(beside, select.POLLIN)

    def _push(self, parts: Sequence[Buffer]) -> int:
        ring = self._rings[0]
        if self._ended:
            raise BrokenPipeError(f"{self.peer} closed it")
        try:
            sent = ring.push(parts)
        except ValueError as error:
            self._malformed(str(error))
        if ring.sleeps(READER):
            self._wake()
        if not sent:
            raise BlockingIOError
        return sent

    def _pull(self, room: memoryview) -> int:
        ring = self._rings[1]
        try:
            n = ring.pull(room, LOOK_S)
        except ValueError as error:
            self._malformed(str(error))
        if n:
            if ring.sleeps(WRITER):
                self._wake()
            return n
        if self._ended:
            return 0
        if self._beside.is_broken or not self._is_there():  # that link is cut when the other side is expelled
            self._end()
        raise BlockingIOError

    def _await_room(self, deadline: float | None) -> bool:
        return self._sleep(self._rings[0], WRITER, deadline)

    def _await_bytes(self, deadline: float | None) -> bool:
        return self._sleep(self._rings[1], READER, deadline)

    def _sleep(self, ring: Ring, side: bool, deadline: float | None) -> bool:
        try:
            if not ring.may_sleep(side):
                return True
            ready = dict(sleep(self._ends, deadline))
            ring.woke(side)
        except ValueError as error:
            self._malformed(str(error))
        if self._beside.fileno() in ready or (ready and not self._is_there()):
            self._end()
        return bool(ready)

    def _is_there(self) -> bool:
        """Stop the bell, should it ring; False when there is nobody any more who could ring it."""
        try:
            return bool(self._bell.recv(64))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # rung so often that it needs no more; or ended, as the next look will tell
            self._bell.send(b"!")

    def interrupt(self) -> None:
        self._broken = self._broken or f"the link to {self.peer} was closed"
        with contextlib.suppress(OSError):  # already gone: nobody waits on it
            self._bell.shutdown(socket.SHUT_RDWR)
        self._beside.interrupt()

    def close(self) -> None:
        self.interrupt()
        self._bell.close()
        self._beside.close()
        self._rings.clear()


def rings_of(memory: mmap.mmap, *, accepted: bool) -> list[Ring]:
    """Out, in; they hold the memory."""
    rings = [
        Ring(memory, SECRETS_BYTES + i * CONTROL_BYTES, mmap.PAGESIZE + i * RING_BYTES, RING_BYTES) for i in range(2)
    ]
    return rings[::-1] if accepted else rings
