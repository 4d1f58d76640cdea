"""Link: an ordered, reliable, framed connection between two nodes. One tiny base class, several transports.

A frame is a kind (uint16), a request id (uint32) and raw bytes owned by the message layer. Links know nothing of
models. `memory` is the twin for tests; `tcp` is the one that always works. A stream transport puts `HEADER` before
each payload; everything in it is checked before a byte is allocated.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from motley.errors import LinkError

Buffer = bytes | bytearray | memoryview

MAX_PAYLOAD = 1 << 30  # bytes; a prefill chunk of 4096 tokens, 7168 wide, is 235 MB in float64
HEADER = struct.Struct("<4sHHQII")  # magic, version, kind, payload bytes, request id, 0
MAGIC = b"MTLY"
VERSION = 1


class Frame(NamedTuple):
    kind: int
    request: int
    payload: memoryview  # valid until the next `receive` on this link


class Link(ABC):
    """Not thread-safe: one exchange at a time per link. Errors: LinkError (broken, closed, malformed, timeout).

    A link that reported anything but a timeout between two frames stays broken: close it and connect anew.
    """

    transport: str
    peer: str = "an unnamed peer"  # for messages; the handshake fills in the node's name
    max_payload: int = MAX_PAYLOAD  # a longer frame is malformed; small until the peer has proven itself

    @abstractmethod
    def send(self, kind: int, request: int, parts: Sequence[Buffer]) -> None:
        """One frame; `parts` (C-contiguous) are sent back to back without being joined. Blocks until the transport
        took all of it."""

    @abstractmethod
    def receive(self, timeout_s: float | None = None) -> Frame:
        """The next frame. Raises LinkError when the other side is gone or the time is over."""

    @abstractmethod
    def interrupt(self) -> None:
        """Break the link, from any thread: who waits in `receive` or `send` gets a LinkError. Idempotent."""

    @abstractmethod
    def close(self) -> None:
        """Idempotent; by the thread that uses the link (others `interrupt`)."""


def pack_header(kind: int, request: int, n_bytes: int) -> bytes:
    return HEADER.pack(MAGIC, VERSION, kind, n_bytes, request, 0)


def unpack_header(buffer: Buffer, max_payload: int) -> tuple[int, int, int]:
    """(kind, request, payload bytes), or LinkError naming the field."""
    magic, version, kind, n_bytes, request, _ = HEADER.unpack_from(buffer)
    if magic != MAGIC:
        raise LinkError(f"malformed frame: it begins with {magic!r}; this is not a Motley link")
    if version != VERSION:
        raise LinkError(f"frame version {version} where {VERSION} is spoken: run the same Motley on all nodes")
    if n_bytes > max_payload:
        raise LinkError(f"malformed frame: {n_bytes} bytes announced, at most {max_payload} are accepted")
    return kind, request, n_bytes


def size_of(part: Buffer) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)
