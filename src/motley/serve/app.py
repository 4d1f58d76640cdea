"""The ASGI application: its routes, and what becomes of what goes wrong.

    app = build_app(service, Access(), extra=[Mount("/board", board)])

The routes are in `chat.py`, `completions.py` and `watching.py`; who may call them is in `guard.py`.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from motley.serve.chat import chat_completions
from motley.serve.completions import completions
from motley.serve.guard import Access, Guard
from motley.serve.openapi import openapi
from motley.serve.problems import Problem
from motley.serve.service import Service
from motley.serve.watching import events, health, metrics, model, models, state

log = logging.getLogger("motley.serve")


def build_app(service: Service, access: Access | None = None, extra: Sequence[BaseRoute] = ()) -> ASGIApp:
    """`extra`: further routes and mounts (the board, a page); they stand behind the same guard, and find the service at
    `request.app.state.service`. The service starts and closes with the application."""
    routes = [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/openapi.json", openapi),
        Route("/api/state", state),
        Route("/api/events", events),
        Route("/metrics", metrics),
        Route("/health", health),
        *extra,
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.close()

    handlers = {Problem: _problem, HTTPException: _http, ClientDisconnect: _gone, Exception: _mistake}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)  # type: ignore[arg-type]
    app.router.redirect_slashes = False  # an address is right or wrong
    app.state.service = service
    return Guard(app, access or Access(), service.limits, service.meters.http)


async def _problem(request: Request, problem: Problem) -> Response:
    return problem.response()


async def _gone(request: Request, error: Exception) -> Response:
    return Problem(499, "the client has gone").response()


async def _http(request: Request, error: HTTPException) -> Response:
    texts = {404: "there is nothing at this address", 405: "this address does not take this method"}
    return Problem(error.status_code, texts.get(error.status_code, error.detail)).response()


async def _mistake(request: Request, error: Exception) -> Response:
    log.exception("a mistake of the server's", exc_info=error)
    return Problem(500, "the server made a mistake: its log says which", code="internal_error").response()
