"""StreamLink: frames over anything that carries bytes in their order: what `tcp`, `tcp+tls` and `local` share.

Parts are sent without joining, payloads received without copying. A receiver first looks again and again without
sleeping, for as long as `Spin` says, then sleeps in the kernel.
"""

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from motley.cluster.link import HEADER, Buffer, Frame, Link, pack_header, size_of, unpack_header
from motley.cluster.spin import Spin, default_spin_us, yield_core
from motley.errors import LinkError


class StreamLink(Link):
    def __init__(self, peer: str, *, spin_us: float | None = None, send_timeout_s: float = 60.0) -> None:
        self.peer = peer
        self.spin_us = default_spin_us() if spin_us is None else spin_us
        self._send_timeout_s = send_timeout_s
        self._spin = Spin(self.spin_us)
        self._buffer = np.empty(1 << 16, np.uint8).data  # the current frame, and what came in behind it
        self._filled = 0  # bytes of the buffer that were received
        self._used = 0  # of them, those of frames already handed out
        self._broken = ""

    @property
    def is_broken(self) -> bool:
        return bool(self._broken)

    @abstractmethod
    def _push(self, parts: Sequence[Buffer]) -> int:
        """Hand over what goes without waiting: its bytes, or BlockingIOError."""

    @abstractmethod
    def _pull(self, room: memoryview) -> int:
        """What is there, into `room`: 0 at the end, BlockingIOError where nothing came yet."""

    @abstractmethod
    def _await_room(self, deadline: float | None) -> bool:
        """Sleep until `_push` may go on, or the link ended; False when the time is over first."""

    @abstractmethod
    def _await_bytes(self, deadline: float | None) -> bool:
        """Sleep until `_pull` may go on, or the link ended; False when the time is over first."""

    def send(self, kind: int, request: int, parts: Sequence[Buffer]) -> None:
        if self._broken:
            raise LinkError(self._broken)
        n_bytes = sum(map(size_of, parts))
        if n_bytes > self.max_payload:
            raise LinkError(f"a frame of {n_bytes} bytes is too large for this link (at most {self.max_payload})")
        rest: list[Buffer] = [pack_header(kind, request, n_bytes), *parts]
        left, deadline = HEADER.size + n_bytes, None
        while True:
            try:
                sent = self._push(rest)
            except BlockingIOError:
                deadline = deadline or time.perf_counter() + self._send_timeout_s
                if not self._await_room(deadline):
                    self._break(f"{self.peer} took nothing for {self._send_timeout_s:.0f} s")
                continue
            except OSError as error:
                self._break(f"the link to {self.peer} broke: {error}")
            left -= sent
            if not left:
                return
            rest, deadline = _after(rest, sent), None

    def receive(self, timeout_s: float | None = None) -> Frame:
        if self._broken:
            raise LinkError(self._broken)
        deadline = None if timeout_s is None else time.perf_counter() + timeout_s
        self._drop_used()
        self._fill(HEADER.size, deadline)
        try:
            kind, request, n_bytes = unpack_header(self._buffer, self.max_payload)
        except LinkError as error:
            self._malformed(f"{error} (from {self.peer})")
        size = HEADER.size + n_bytes
        if self._filled < size:
            self._make_room(size)
            self._fill(size, deadline)
        self._used = size
        return Frame(kind, request, self._buffer[HEADER.size : size])

    def _drop_used(self) -> None:
        """Move what came in behind the last frame to the front. Exchanges alternate: there is hardly ever any."""
        if self._used < self._filled:
            behind = bytes(self._buffer[self._used : self._filled])
            self._buffer[: len(behind)] = behind
        self._filled, self._used = self._filled - self._used, 0

    def _make_room(self, size: int) -> None:
        """Only address space is taken: memory follows as the bytes arrive, so that a false size costs nothing."""
        if size > self._buffer.nbytes:
            larger = np.empty(size, np.uint8).data
            larger[: self._filled] = self._buffer[: self._filled]
            self._buffer = larger

    def _fill(self, size: int, deadline: float | None) -> None:
        """Have at least `size` bytes in the buffer: look until the spin's budget is spent, then sleep."""
        receive_into, clock = self._pull, time.perf_counter
        started = looked = stop = 0.0
        stolen = False
        while self._filled < size:
            try:
                n = receive_into(self._buffer[self._filled :])
            except BlockingIOError:
                now = clock()
                if not started:
                    started = looked = now
                    stop = now + self._spin.budget_s
                stolen = stolen or now - looked > Spin.STOLEN_S
                looked = now
                if now < stop and (deadline is None or now < deadline):
                    yield_core()
                elif not self._await_bytes(deadline):
                    self._time_is_over()
                continue
            except OSError as error:
                self._break(f"the link to {self.peer} broke: {error}")
            if n == 0:
                self._break(f"{self.peer} closed the link")
            self._filled += n
        if started and size == HEADER.size:
            self._spin.learn(clock() - started, stolen)

    def _time_is_over(self) -> NoReturn:
        if not self._filled:
            raise LinkError(f"{self.peer} sent nothing within the time allowed")
        self._break(f"{self.peer} stopped in the middle of a frame")

    def _malformed(self, sentence: str) -> NoReturn:
        """What came is no frame."""
        self._break(sentence)

    def _break(self, sentence: str) -> NoReturn:
        self._broken = self._broken or sentence
        raise LinkError(self._broken) from None


def _after(parts: Sequence[Buffer], sent: int) -> list[Buffer]:
    """What is left of `parts` when the first `sent` bytes are gone."""
    rest: list[Buffer] = []
    for part in parts:
        size = size_of(part)
        if sent >= size:
            sent -= size
        else:
            rest.append(memoryview(part).cast("B")[sent:] if sent else part)
            sent = 0
    return rest
