"""Guard: what every request to the board passes: who it is from, how often, how large, from which page, and with which
headers the answer leaves.
"""

import asyncio
import math
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motley.board.board import Board
from motley.board.links import Links
from motley.board.pages import Pages
from motley.board.web.limits import Bucket, household

FORM_BYTES = 64 << 10
BODY_SECONDS = 30.0

HEADERS = {
    # No script at all, nothing from elsewhere, no framing, forms only to this site.
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "cache-control": "no-cache",
}


class Refused(Exception):
    """Answered with `status` and `words`."""

    def __init__(self, status: int, words: str, retry_s: float = 0.0) -> None:
        super().__init__(words)
        self.status, self.words, self.retry_s = status, words, retry_s


class Guard:
    """ASGI. `hosts`: names that the board answers to, of IPv6 in brackets; None: any."""

    def __init__(self, app: ASGIApp, board: Board, hosts: frozenset[str] | None = None) -> None:
        self.app, self.board, self.hosts = app, board, hosts
        public = board.settings.public
        self.pages = Bucket(public.pages_per_minute, 60)
        self.most_bytes = max(FORM_BYTES, int(public.result_mb * 1e6) + FORM_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._admit(request)
            await self.app(scope, self._limited(request, receive), sending)
        except Refused as refused:
            if started:
                raise
            await refusal(self.board, request, refused)(scope, receive, sending)

    def _admit(self, request: Request) -> None:
        if wait := self.pages.take(address_of(self.board, request)):
            raise Refused(429, "That was a lot at once.", wait)
        if self.hosts is not None and _host(request.headers) not in self.hosts:
            raise Refused(421, f"This board answers to {', '.join(sorted(self.hosts))} only.")
        if request.method not in ("GET", "HEAD"):
            require_same_site(request)

    def _limited(self, request: Request, receive: Receive) -> Receive:
        """Bodies are counted as they arrive, and given half a minute."""
        most = self.most_bytes if is_result(request) else FORM_BYTES
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:18]) > most:
            raise Refused(413, f"That is over {most:,} bytes, more than is taken here.")
        read, arriving = 0, True
        until = time.monotonic() + BODY_SECONDS

        async def limited() -> Message:
            nonlocal read, arriving
            try:
                left = until - time.monotonic() if arriving else None
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                raise Refused(408, "The request took too long to arrive.") from None
            read += len(message.get("body", b""))
            arriving = arriving and bool(message.get("more_body"))
            if read > most:
                raise Refused(413, f"That is over {most:,} bytes, more than is taken here.")
            return message

        return limited


def is_result(request: Request) -> bool:
    return request.url.path.rstrip("/").endswith(("/submit", "/api/results"))


def is_api(request: Request) -> bool:
    """By its path below the place where the board is mounted."""
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    return path.startswith("/api/")


def require_same_site(request: Request) -> None:
    """Forms of other sites are refused. A browser says where a request comes from; without that, only the API is
    served, and only for what a form can't send."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site in ("same-origin", "none") or (site is None and origin and _netloc(origin) == request.headers.get("host")):
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if is_api(request) and site is None and origin is None and kind == "application/json":
        return
    if is_api(request) and site is None and origin is None:
        raise Refused(415, "Send it as application/json.")
    raise Refused(403, "That came from another site: use this board's own forms.")


def address_of(board: Board, request: Request) -> str:
    peer = request.client.host if request.client else ""
    if board.settings.public.behind_proxy:
        lines = request.headers.getlist("x-forwarded-for")  # whoever asks may have sent some: the proxy's word is last
        forwarded = ",".join(lines).rpartition(",")[2].strip()
        peer = forwarded[:64] or peer
    return household(peer)


def refusal(board: Board, request: Request, refused: Refused) -> Response:
    headers = {"retry-after": str(math.ceil(refused.retry_s))} if refused.retry_s else {}
    if is_api(request):
        return JSONResponse({"error": refused.words}, refused.status, headers)
    pages = Pages(board, Links.served(request.scope.get("root_path", "")))
    wait = f" Try again in {math.ceil(refused.retry_s)} seconds." if refused.retry_s else ""
    return HTMLResponse(pages.message("That did not work", refused.words + wait), refused.status, headers)


def _host(headers: Headers) -> str:
    """Without the port."""
    host = headers.get("host", "").lower()
    return host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
