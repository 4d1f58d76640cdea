"""The server's log: a line of JSON for each request, with numbers and never with text of a prompt or an answer."""

from typing import IO, Any

import msgspec


class Journal:
    """Writes to `stream`, or nowhere. What it can't write is lost, and the server goes on."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    def write(self, entry: dict[str, Any]) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(msgspec.json.encode(entry).decode() + "\n")
            self._stream.flush()
        except OSError:
            self._stream = None
