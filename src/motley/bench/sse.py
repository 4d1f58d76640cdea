"""Server-sent events out of a stream of bytes, cut anywhere: the `data` of each event, and nothing else of it."""

from collections.abc import AsyncIterable, AsyncIterator

MOST_BYTES = 1 << 20  # of an event


class MalformedStream(Exception):
    """What came is no stream of events."""


async def events(pieces: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """Lines may end in LF, CR LF or CR; comments and other fields are skipped. An event without its empty line at the
    end of the stream is given too: servers forget it."""
    data: list[str] = []
    async for line in _lines(pieces):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" ").decode(errors="replace"))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


async def _lines(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in pieces:
        rest += piece
        held = b"\r" if rest.endswith(b"\r") else b""  # a LF may follow in the next piece
        lines = (rest.removesuffix(held) if held else rest).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        rest = lines.pop() + held
        if len(rest) > MOST_BYTES:
            raise MalformedStream(f"a line of more than {MOST_BYTES} bytes")
        for line in lines:
            yield line
    for line in rest.replace(b"\r", b"\n").split(b"\n"):
        yield line
