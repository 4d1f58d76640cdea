"""The `mpi` link: frames as messages of MPI, which brings InfiniBand and RoCE on Linux. Not encrypted.

Beside it stays the authenticated link over which it was agreed on (`agreed`). MPI neither tells that a process died
nor gives anything to sleep on: the end of the link beside is the end of this one, and who waits long looks at it now
and then. What MPI still holds of a broken link is left to it: cancelling may wait for a process that is gone.

Never run on an RDMA card: it ran on one machine, through shared memory, TCP, and verbs on soft-RoCE (tests/rdma). There
UCX ends the process whose packets stay unanswered, and MPI can't keep it from that.
"""

import logging
import select
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from motley.cluster.beside_link import BesideLink
from motley.cluster.link import Buffer, size_of
from motley.cluster.spin import yield_core
from motley.cluster.tcp_link import TcpLink
from motley.errors import LinkError

log = logging.getLogger("motley.link")

JOINED_BYTES = 32 << 10  # a frame's beginning is copied into one message of at most so much: cheaper than two
MESSAGE_BYTES = 4 << 20  # and the rest is sent from where it lies
SET_ASIDE_BYTES = 64 << 20  # what is taken in while sending, so that two who send to each other both go on
NAP_S, NAPS_S = 50e-6, 20e-3  # after looking: naps of so long, for so long since the last message
LOOK_EVERY_MS = 1  # and after that

_ABANDONED: list[Any] = []  # requests of links that broke; MPI may still write into their buffers


class MpiLink(BesideLink):
    """`beside` is this link's from now on. `on_spoilt` is called, once, when MPI failed and the other side did not."""

    transport = "mpi"
    spoilt = "the mpi link to {} failed"

    def __init__(self, mpi: Any, comm: Any, rank: int, tag: int, beside: TcpLink) -> None:
        super().__init__(beside)
        self._mpi = mpi
        self._comm, self._rank, self._tag = comm, rank, tag
        self._out: tuple[Any, int] | None = None  # the message under way, and its bytes
        self._in: tuple[Any, int] | None = None
        self._aside: deque[memoryview] = deque()
        self._aside_bytes = 0
        self._moved = 0.0  # when something was last sent or received
        self._ends = select.poll()
        self._ends.register(beside, select.POLLIN)
        self._status = self._mpi.Status()

    def _push(self, parts: Sequence[Buffer]) -> int:
        if self._out is None:
            self._look_beside()  # MPICH over UCX crashes when it sends to a process that is gone
            if self._ended:
                raise BrokenPipeError(f"{self.peer} closed it")
            piece = _first_message(parts)
            self._out = self._told(self._comm.Isend, [piece, self._mpi.BYTE], self._rank, self._tag), size_of(piece)
            self._moved = time.perf_counter()
        request, n = self._out
        if not self._told(request.Test):
            if self._ended:
                raise BrokenPipeError(f"{self.peer} closed it")
            raise BlockingIOError
        self._out, self._moved = None, time.perf_counter()
        return n

    def _pull(self, room: memoryview) -> int:
        if self._aside:
            return self._take(room)
        if self._in is None:
            message = self._told(self._comm.Improbe, self._rank, self._tag, self._status)
            if message is None:
                if self._ended:
                    return 0
                raise BlockingIOError
            n = self._status.Get_count(self._mpi.BYTE)
            if not 0 < n <= room.nbytes:
                self._malformed(f"malformed message: {n} bytes where at most {room.nbytes} are accepted")
            self._in = self._told(message.Irecv, [room[:n], self._mpi.BYTE]), n
        request, n = self._in
        if not self._told(request.Test):
            if self._ended:
                return 0
            raise BlockingIOError
        self._in, self._moved = None, time.perf_counter()
        return n

    def _take(self, room: memoryview) -> int:
        """Of what was set aside."""
        piece = self._aside[0]
        n = min(piece.nbytes, room.nbytes)
        room[:n] = piece[:n]
        if n == piece.nbytes:
            self._aside.popleft()
        else:
            self._aside[0] = piece[n:]
        self._aside_bytes -= n
        return n

    def _await_room(self, deadline: float | None) -> bool:
        """The other side may be sending as well, and take nothing before that was taken from it."""
        if self._in is None and self._aside_bytes < SET_ASIDE_BYTES:
            message = self._told(self._comm.Improbe, self._rank, self._tag, self._status)
            if message is not None:
                self._set_aside(message, self._status.Get_count(self._mpi.BYTE))
        if time.perf_counter() < self._moved + self._spin.budget_s:
            yield_core()
            return True
        return self._nap(deadline)

    def _set_aside(self, message: Any, n: int) -> None:
        if not 0 < n <= max(MESSAGE_BYTES, JOINED_BYTES):
            self._malformed(f"malformed message: {n} bytes where at most {MESSAGE_BYTES} are sent at once")
        piece = memoryview(bytearray(n))
        request = self._told(message.Irecv, [piece, self._mpi.BYTE])
        try:
            while not self._told(request.Test):
                self._look_beside()
                if self._ended or self._broken:
                    _ABANDONED.append(request)
                    return
                yield_core()
        except LinkError:
            _ABANDONED.append(request)
            raise
        self._aside.append(piece)
        self._aside_bytes += n
        self._moved = time.perf_counter()

    def _await_bytes(self, deadline: float | None) -> bool:
        return self._nap(deadline)

    def _nap(self, deadline: float | None) -> bool:
        now = time.perf_counter()
        if deadline is not None and now >= deadline:
            return False
        if now < self._moved + NAPS_S:
            time.sleep(NAP_S)
            self._look_beside()
        else:
            self._look_beside(LOOK_EVERY_MS)
        return True

    def _look_beside(self, wait_ms: int = 0) -> None:
        if not self._ended and self._ends.poll(wait_ms):
            self._end()

    def _told(self, work: Any, *arguments: Any) -> Any:
        """`work` of MPI's; what it says of an error ends the link on both sides."""
        try:
            return work(*arguments)
        except self._mpi.Exception as error:
            self._look_beside()
            if self._ended:
                self._break(f"{self.peer} closed the link")
            self._malformed(last_line(error))

    def interrupt(self) -> None:
        self._broken = self._broken or f"the link to {self.peer} was closed"
        self._beside.interrupt()

    def close(self) -> None:
        self.interrupt()
        self._beside.close()
        _ABANDONED.extend(under_way for under_way in (self._out, self._in) if under_way)
        self._out = self._in = None
        self._aside.clear()


def _first_message(parts: Sequence[Buffer]) -> Buffer:
    """As many of them as go into one message."""
    first = memoryview(parts[0]).cast("B")
    if first.nbytes >= JOINED_BYTES or len(parts) == 1:
        return first[:MESSAGE_BYTES]
    joined, room = [], JOINED_BYTES
    for part in parts:
        joined.append(memoryview(part).cast("B")[:room])
        room -= joined[-1].nbytes
        if not room:
            break
    return b"".join(joined)


def last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
