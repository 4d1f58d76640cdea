"""Link: an ordered, reliable, framed connection between two nodes. One tiny base class, several transports.

A frame is a kind (uint16), a request id (uint32), a JSON-free binary header owned by the message layer, and raw
array payloads. Links know nothing of models. `memory` is the twin for tests; `tcp` is the one that always works.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Frame:
    kind: int
    request: int
    payload: memoryview  # valid until the next `receive` on this link


class Link(ABC):
    """Not thread-safe: one exchange at a time per link. Errors: LinkError (broken, closed, malformed, timeout)."""

    transport: str

    @abstractmethod
    def send(self, kind: int, request: int, parts: Sequence[Buffer]) -> None:
        """One frame; `parts` are sent back to back without being joined."""

    @abstractmethod
    def receive(self, timeout_s: float | None = None) -> Frame:
        """The next frame. Raises LinkError when the other side is gone or the time is over."""

    @abstractmethod
    def close(self) -> None: ...
