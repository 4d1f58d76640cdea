"""Who may call, and how much: an ASGI layer around everything.

On loopback there is no key by default, so what a browser can be tricked into is what must be kept out: a page of
elsewhere that resolves its name to 127.0.0.1 (DNS rebinding: the Host header says so), and requests across origins
(the Origin header says so; no CORS header is ever sent, and bodies must be JSON, which a form can't send).
"""

import asyncio
import hmac
import re
from dataclasses import dataclass
from time import monotonic

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motley.serve.limits import Limits
from motley.serve.metrics import Counter
from motley.serve.problems import Problem

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PORT = re.compile(r":[0-9]{1,5}$")
_OPEN_PATHS = frozenset({"/health"})


def names_of(host: str, keyed: bool) -> frozenset[str] | None:
    """What a server that listens on loopback as `host` may be called, for `Access.hosts`. `keyed`: nothing that
    matters is told without a key, which a page of elsewhere doesn't have; so a proxy may keep its clients' names."""
    if keyed:
        return None
    return LOOPBACK | {f"[{host.strip('[]')}]" if ":" in host else host.lower()}


@dataclass(frozen=True)
class Access:
    """`keys`: any of them lets in; none: everybody who comes by one of `hosts` (None: by any name). `open_paths`: need
    no key; one that ends with / stands for all below it, but / itself. `forms`: below this path bodies need not be
    JSON: what is there looks at its forms itself."""

    keys: frozenset[str] = frozenset()
    hosts: frozenset[str] | None = LOOPBACK
    open_paths: frozenset[str] = _OPEN_PATHS
    forms: str = ""

    def check(self, scope: Scope) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self._check_host(headers.get(b"host", ""))
        self._check_origin(headers)
        if self.keys and not self._open(scope["path"]):
            self._check_key(headers.get(b"authorization", ""))
        json = headers.get(b"content-type", "").lower().startswith("application/json")
        if scope["method"] == "POST" and not (json or (self.forms and scope["path"].startswith(self.forms))):
            raise Problem(415, "the body must be JSON: send content-type: application/json")

    def _open(self, path: str) -> bool:
        folders = tuple(known for known in self.open_paths if known.endswith("/") and known != "/")
        return path in self.open_paths or path.startswith(folders)

    def _check_host(self, host: str) -> None:
        if self.hosts is not None and _PORT.sub("", host.lower()) not in self.hosts:
            raise Problem(403, "this server is for this machine only: call it as localhost or 127.0.0.1")

    def _check_origin(self, headers: dict[bytes, str]) -> None:
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2].lower() != headers.get(b"host", "").lower():
            raise Problem(403, "requests from pages of other origins are refused")

    def _check_key(self, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        fits = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in self.keys]
        if scheme.lower() != "bearer" or not any(fits):
            raise Problem(
                401, "a valid API key is needed: send it as `Authorization: Bearer KEY`", code="invalid_api_key"
            )


class Guard:
    def __init__(self, app: ASGIApp, access: Access, limits: Limits, responses: Counter) -> None:
        self._app, self._access, self._limits, self._responses = app, access, limits, responses
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._responses.add(str(status))
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        self._open += 1
        try:
            if self._open > self._limits.connections:
                raise Problem(429, "too many requests at once: try again in a moment", retry_s=1)
            self._access.check(scope)
            await self._app(scope, Body(scope, receive, self._limits), watched)
        except Problem as problem:
            if not status:
                await problem.response()(scope, receive, watched)
        finally:
            self._open -= 1


class Body:
    """`receive` of a body that is neither too long nor too slow."""

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._n, self._ended, self._until = 0, False, monotonic() + limits.body_seconds
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > limits.body_bytes:
                raise self._too_long()

    def _too_long(self) -> Problem:
        return Problem(413, f"the body is longer than this server's {self._limits.body_bytes} bytes")

    async def __call__(self) -> Message:
        if self._ended:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.01, self._until - monotonic()))
        except TimeoutError:
            raise Problem(408, f"the body did not come within {self._limits.body_seconds:.0f} s") from None
        self._n += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._n > self._limits.body_bytes:
            raise self._too_long()
        return message
