"""Responses that follow their client: server-sent events, and whole answers that are given up when nobody waits."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from motley.serve.problems import Problem

Result = TypeVar("Result")
DONE = b"data: [DONE]\n\n"


def event(data: Any) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


async def gone(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Events(Response):
    """`bodies`: events as they come. `left`: what to do when the client goes first, or at the end: may be called
    twice. A `Problem` on the way becomes the last event."""

    media_type = "text/event-stream"

    def __init__(self, bodies: AsyncGenerator[bytes, None], left: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._bodies, self._left = bodies, left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        watching = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._left()
            for task in (sending, watching):
                task.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for body in self._bodies:
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except Problem as problem:
            await send({"type": "http.response.body", "body": b"data: " + problem.body + b"\n\n", "more_body": True})
        finally:
            await self._bodies.aclose()
        await send({"type": "http.response.body", "body": b""})


async def while_there(request: Request, work: Awaitable[Result], left: Callable[[], None]) -> Result:
    """The work's result; `left` where the client has gone before it is there (then nobody sees what this raises)."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Problem(499, "the client has gone")
    finally:
        left()
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
