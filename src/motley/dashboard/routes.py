"""The page's addresses: its files, where the model is now, what-if, results.

    app = build_app(service, access, extra=routes(Shown(...)))

The files need no key, as there is nothing in them; what they ask of the server does.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from motley.bench.report.page import render
from motley.bench.store import Store
from motley.dashboard.planning import Planning
from motley.dashboard.view import Shown, view
from motley.errors import MotleyError, UsageError
from motley.page.template import look
from motley.serve.events import while_there
from motley.serve.problems import Problem

FOLDER = "/page/"
OPEN_PATHS = frozenset({"/", FOLDER})  # of the guard: no key needed
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
# Nothing from elsewhere, and no script but the page's own files. Styles in elements are the chart library's; in a
# result's report they are its own.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MOST_RESULTS = 100


def routes(shown: Shown, store: Store | None = None, board: bool = False) -> list[BaseRoute]:
    """`store`: past results. `board`: whether one is mounted at /board/."""
    page = _Page(shown, store or Store(), board, Planning(shown))
    return [
        Route("/", page.index),
        Route(FOLDER, page.file),
        Route(FOLDER + "{name:path}", page.file),
        Route("/api/page", page.about),
        Route("/api/placement", page.placement),
        Route("/api/whatif", page.whatif, methods=["POST"]),
        Route("/api/results", page.results),
        Route("/api/results/{id}", page.result),
    ]


@dataclass(frozen=True)
class _Page:
    shown: Shown
    store: Store
    board: bool
    planning: Planning

    async def index(self, request: Request) -> Response:
        return RedirectResponse(FOLDER)

    async def file(self, request: Request) -> Response:
        name = request.path_params.get("name") or "index.html"
        found = _files().get(name)
        if found is None:
            raise Problem(404, "there is nothing at this address")
        headers = {"etag": found.tag, "cache-control": "no-cache", "content-security-policy": POLICY}
        headers |= {"referrer-policy": "no-referrer", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(found.packed, media_type=found.kind, headers=headers | {"content-encoding": "gzip"})
        return Response(found.body, media_type=found.kind, headers=headers)

    async def about(self, request: Request) -> Response:
        placed = self.shown.placed()
        return _json({"board": self.board, "measured": placed is not None, "model": self.shown.shape.name})

    async def placement(self, request: Request) -> Response:
        return _json(await run_in_threadpool(view, self.shown))

    async def whatif(self, request: Request) -> Response:
        try:
            search = self.planning.answer(await request.body())
            return _json(await while_there(request, search, lambda: None))
        except UsageError as error:
            raise Problem(400, str(error)) from None

    async def results(self, request: Request) -> Response:
        return _json([msgspec.to_builtins(row) for row in await self._stored(self.store.rows, None, MOST_RESULTS)])

    async def result(self, request: Request) -> Response:
        """A report as a page."""
        try:
            result = await self._stored(self.store.get, _id(request.path_params["id"]))
        except UsageError:
            raise Problem(404, "there is no such result") from None
        return HTMLResponse(await run_in_threadpool(render, result), headers={"content-security-policy": POLICY})

    async def _stored(self, read: Any, *args: Any) -> Any:
        try:
            return await run_in_threadpool(read, *args)
        except UsageError:
            raise
        except MotleyError as error:
            raise Problem(500, f"the results can't be read: {error}", code="results") from None


@dataclass(frozen=True)
class _File:
    body: bytes
    packed: bytes
    kind: str
    tag: str

    @classmethod
    def of(cls, name: str, body: bytes) -> "_File":
        kind = KINDS.get(name.rpartition(".")[2], "text/plain")
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        return cls(body, gzip.compress(body, 9, mtime=0), f"{kind}; charset=utf-8", tag)


@cache
def _files() -> dict[str, _File]:
    """Name -> file: whatever is in `static`, and the look that all pages have. A name that is not here is nowhere."""
    found = {"look.css": _File.of("look.css", look().encode())}
    top = files("motley.dashboard") / "static"
    for folder in (top, top / "uplot"):
        for entry in folder.iterdir():
            if entry.is_file():
                name = entry.name if folder is top else f"uplot/{entry.name}"
                found[name] = _File.of(name, entry.read_bytes())
    return found


def _id(text: str) -> int:
    """Of a result; UsageError for what no row can have: SQLite's are below 2**63."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise UsageError(f"{text[:20]!r} is no result's number")
    return int(text)


def _json(data: object) -> Response:
    return Response(msgspec.json.encode(data), media_type="application/json")
