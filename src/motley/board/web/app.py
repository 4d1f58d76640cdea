"""The board's routes. `routes(board)` hangs into any starlette application; `application(board)` is one."""

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from motley.board import tables, views
from motley.board.ask import Ask, from_fields, from_values
from motley.board.board import Board, Told
from motley.board.links import Links
from motley.board.pages import PAGE_SIZE, Pages, style
from motley.board.question import Understood
from motley.board.states import Shown, State
from motley.board.store import Filter, Kept
from motley.board.store import Request as Asked
from motley.board.web.guard import Guard, Refused, address_of, refusal
from motley.board.web.limits import Bucket
from motley.errors import MotleyError

T = TypeVar("T")


class Number(IntegerConvertor):
    """Of a row. Starlette's own takes any length: Python refuses to read over 4,300 digits, SQLite to keep 19."""

    regex = "[0-9]{1,18}"


register_url_convertor("number", Number())

MOST_FIELDS = 20
MOST_ROWS = 10_000  # of the table to download: a millisecond each; `motley board export` has all
MOST_PREDICTING = 8  # that wait for the one that is worked out


def application(board: Board, hosts: frozenset[str] | None = None) -> ASGIApp:
    """`hosts`: the names it answers to; None: any. Nothing stands before the guard: a mount refuses newlines."""
    return Guard(Site(board).app, board, hosts)


def routes(board: Board, hosts: frozenset[str] | None = None) -> list[BaseRoute]:
    """For `Mount("/board", routes=routes(board))`. Limits, headers and error pages come with them."""
    return [Mount("/", app=application(board, hosts))]


class Site:
    def __init__(self, board: Board) -> None:
        public = board.settings.public
        self.board = board
        self.asks = Bucket(public.asks_per_hour, 3600)
        self.votes = Bucket(public.votes_per_hour, 3600)
        self.results = Bucket(public.results_per_hour, 3600)
        self.previews = Bucket(30, 60)
        self._predicting = anyio.CapacityLimiter(1)
        self._style = style()
        handlers: dict[Any, Callable[[Request, Any], Any]] = {
            Refused: self._refused,
            MotleyError: self._wrong,
            HTTPException: self._http_error,
            ClientDisconnect: self._gone,
        }
        self.app = Starlette(routes=self._routes(), exception_handlers=handlers)

    def _routes(self) -> list[BaseRoute]:
        return [
            Route("/", self.home),
            Route("/ask", self.ask_form),
            Route("/ask", self.ask, methods=["POST"]),
            Route("/submit", self.submit_form),
            Route("/submit", self.submit, methods=["POST"]),
            Route("/about", self.about),
            Route("/requests/{id:number}", self.request),
            Route("/requests/{id:number}/vote", self.vote, methods=["POST"]),
            Route("/results/{id:number}", self.result),
            Route("/results/{id:number}.json", self.result_file),
            Route("/requests.csv", self.csv),
            Route("/board.css", self.css),
            Route("/api/requests", self.api_list),
            Route("/api/requests", self.api_ask, methods=["POST"]),
            Route("/api/predict", self.api_predict, methods=["POST"]),
            Route("/api/requests/{id:number}", self.api_request),
            Route("/api/requests/{id:number}/vote", self.api_vote, methods=["POST"]),
            Route("/api/results", self.api_submit, methods=["POST"]),
            Route("/api/results/{id:number}", self.api_result),
            Route("/api/{table:str}/{id:number}/{verb:str}", self.api_moderate, methods=["POST"]),
        ]

    # -- pages
    async def home(self, request: Request) -> Response:
        what = _filter(request)
        return await self._page(request, lambda pages: pages.home(what))

    async def about(self, request: Request) -> Response:
        return await self._page(request, Pages.about)

    async def request(self, request: Request) -> Response:
        asked = self._asked(request)
        return await self._page(request, lambda pages: pages.request(asked))

    async def result(self, request: Request) -> Response:
        kept = self._kept(request)
        if kept.shown is not Shown.SHOWN:
            words = "The host has not looked at it yet. Until then nobody sees it; this address will show it."
            return await self._page(request, lambda pages: pages.message(f"Result {kept.id} waits for approval", words))
        return await self._page(request, lambda pages: pages.result(kept))

    async def result_file(self, request: Request) -> Response:
        kept = self._kept(request)
        if kept.shown is not Shown.SHOWN:
            raise Refused(404, "There is no such result.")
        headers = {"content-disposition": f'attachment; filename="result-{kept.id}.json"'}
        return Response(kept.json, media_type="application/json", headers=headers)

    async def csv(self, request: Request) -> Response:
        return Response(
            await run_in_threadpool(tables.csv_of, self.board, MOST_ROWS), media_type="text/csv; charset=utf-8"
        )

    async def css(self, request: Request) -> Response:
        return Response(self._style, media_type="text/css")

    async def ask_form(self, request: Request) -> Response:
        """With the fields of an ask in the query: its prediction, too."""
        fields = {name: value for name, value in request.query_params.items() if name in Ask.__struct_fields__}
        if not fields:
            return await self._page(request, lambda pages: pages.ask({}))
        self._limit(self.previews, request)
        return await self._preview(request, fields)

    async def ask(self, request: Request) -> Response:
        fields = await self._fields(request)
        try:
            ask = from_fields(fields)
            await run_in_threadpool(self.board.understand, ask)
        except MotleyError as error:
            words = str(error)
            return await self._page(request, lambda pages: pages.ask(fields, error=words), 422)
        id = (await self._file(request, ask))[0]
        return RedirectResponse(self._links(request).request(id), 303)

    async def vote(self, request: Request) -> Response:
        await self._vote(request)
        return RedirectResponse(self._links(request).request(request.path_params["id"]), 303)

    async def submit_form(self, request: Request) -> Response:
        return await self._page(request, Pages.submit)

    async def submit(self, request: Request) -> Response:
        fields, data = await self._upload(request)
        try:
            id, _ = await self._keep(request, data, fields.get("note", ""))
        except MotleyError as error:
            words = str(error)
            return await self._page(request, lambda pages: pages.submit(words), 422)
        return RedirectResponse(self._links(request).result(id), 303)

    # -- API
    async def api_list(self, request: Request) -> Response:
        what = _filter(request)

        def found() -> list[dict[str, Any]]:
            return [views.request_json(views.request_view(self.board, r)) for r in self.board.store.requests(what)]

        return _json({"requests": await run_in_threadpool(found), "counts": self.board.store.counts()})

    async def api_request(self, request: Request) -> Response:
        view = await run_in_threadpool(views.request_view, self.board, self._asked(request))
        return _json(views.request_json(view))

    async def api_ask(self, request: Request) -> Response:
        ask = from_values(await self._json_body(request))
        id, new = await self._file(request, ask)
        view = await run_in_threadpool(views.request_view, self.board, self.board.store.get(id))
        return _json({**views.request_json(view), "new": new}, 201 if new else 200)

    async def api_predict(self, request: Request) -> Response:
        self._limit(self.previews, request)
        ask = from_values(await self._json_body(request))
        asked, told = await self._told(ask)
        predicted = [] if isinstance(told, str) else msgspec.to_builtins(told.speeds)
        reason = told if isinstance(told, str) else asked.why_not
        model, quant = asked.question.model, asked.question.quant
        return _json({"model": model, "quant": quant, "predicted": predicted, "reason": reason})

    async def api_vote(self, request: Request) -> Response:
        return _json({"voted": await self._vote(request)})

    async def api_submit(self, request: Request) -> Response:
        id, new = await self._keep(request, await request.body(), "")
        return _json({**views.result_json(self.board.store.result(id)), "new": new}, 201 if new else 200)

    async def api_result(self, request: Request) -> Response:
        return _json(views.result_json(self._kept(request)))

    async def api_moderate(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self.board.is_admin(token.strip()):
            raise Refused(401, "This takes the board's admin token.")
        table, verb = request.path_params["table"].removesuffix("s"), request.path_params["verb"]
        shown = {"approve": Shown.SHOWN, "hide": Shown.HIDDEN}.get(verb)
        if table not in ("request", "result") or shown is None:
            raise Refused(404, "There is nothing here.")
        self.board.store.show(table, request.path_params["id"], shown)
        return _json({"id": request.path_params["id"], "shown": shown})

    # -- what they share
    async def _page(self, request: Request, show: Callable[[Pages], str], status: int = 200) -> Response:
        return HTMLResponse(await run_in_threadpool(show, Pages(self.board, self._links(request))), status)

    def _links(self, request: Request) -> Links:
        return Links.served(request.scope.get("root_path", ""))

    async def _preview(self, request: Request, fields: dict[str, str]) -> Response:
        try:
            asked, told = await self._told(from_fields(fields))
        except MotleyError as error:
            words = str(error)
            return await self._page(request, lambda pages: pages.ask(fields, error=words), 422)
        return await self._page(request, lambda pages: pages.ask(fields, told, asked))

    async def _told(self, ask: Ask) -> tuple[Understood, Told]:
        def work() -> tuple[Understood, Told]:
            asked = self.board.understand(ask)
            return asked, self.board.tell(asked)

        return await self._predict(work)

    async def _file(self, request: Request, ask: Ask) -> tuple[int, bool]:
        self._limit(self.asks, request)
        voter = self._voter(request)
        return await self._predict(lambda: self.board.ask(ask, voter))

    async def _predict(self, work: Callable[[], T]) -> T:
        """One at a time: predicting is arithmetic, and this machine may be measuring."""
        if self._predicting.statistics().tasks_waiting >= MOST_PREDICTING:
            raise Refused(503, "Many ask for a prediction now.", 10)
        return await anyio.to_thread.run_sync(work, limiter=self._predicting)

    async def _vote(self, request: Request) -> bool:
        asked = self._asked(request)
        if asked.shown is not Shown.SHOWN:
            raise Refused(409, "It waits for approval: votes count after that.")
        self._limit(self.votes, request)
        return await run_in_threadpool(self.board.store.vote, asked.id, self._voter(request))

    async def _keep(self, request: Request, data: bytes, note: str) -> tuple[int, bool]:
        self._limit(self.results, request)
        return await run_in_threadpool(self.board.submit, data, note, self._voter(request))

    def _voter(self, request: Request) -> str:
        return self.board.voter(address_of(self.board, request))

    def _limit(self, bucket: Bucket, request: Request) -> None:
        if wait := bucket.take(address_of(self.board, request)):
            raise Refused(429, "That was a lot at once.", wait)

    def _asked(self, request: Request) -> Asked:
        found = self.board.store.get(request.path_params["id"])
        if found.shown is Shown.HIDDEN:
            raise Refused(404, "There is no such request.")
        return found

    def _kept(self, request: Request) -> Kept:
        found = self.board.store.result(request.path_params["id"])
        if found.shown is Shown.HIDDEN:
            raise Refused(404, "There is no such result.")
        return found

    async def _fields(self, request: Request) -> dict[str, str]:
        async with request.form(max_files=0, max_fields=MOST_FIELDS) as form:
            return {name: value for name, value in form.items() if isinstance(value, str)}

    async def _upload(self, request: Request) -> tuple[dict[str, str], bytes]:
        """A file, or its text pasted."""
        most = int(self.board.settings.public.result_mb * 1e6) + 1
        async with request.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=most) as form:
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            file = form.get("file")
            data = await file.read() if isinstance(file, UploadFile) else b""
        return fields, data or fields.get("json", "").encode("utf-8", "replace")

    async def _json_body(self, request: Request) -> object:
        try:
            return msgspec.json.decode(await request.body())
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Refused(400, f"That is no JSON: {error}") from None

    # -- errors
    async def _refused(self, request: Request, refused: Refused) -> Response:
        return refusal(self.board, request, refused)

    async def _wrong(self, request: Request, error: MotleyError) -> Response:
        missing = str(error).startswith("the board has no ")
        return refusal(self.board, request, Refused(404 if missing else 422, str(error)))

    async def _http_error(self, request: Request, error: HTTPException) -> Response:
        words = "There is nothing here." if error.status_code == 404 else str(error.detail)
        return refusal(self.board, request, Refused(error.status_code, words))

    async def _gone(self, request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)


def _filter(request: Request) -> Filter:
    query = request.query_params
    states = tuple(State(s) for s in query.getlist("state") if s in list(State))
    page = query.get("page", "1")
    number = int(page) if page.isdecimal() and len(page) < 7 else 1
    return Filter(states, words=query.get("words", "")[:100], limit=PAGE_SIZE, offset=PAGE_SIZE * max(0, number - 1))


def _json(document: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status, media_type="application/json")
