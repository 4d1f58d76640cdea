"""Routes that only look: models, state and its changes, metrics, health."""

import asyncio
from collections.abc import AsyncGenerator
from time import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from motley.serve.events import Events, event
from motley.serve.problems import Problem
from motley.serve.service import Service

EVERY_S = 0.25
QUIET_S = 15.0  # then a comment, so that nobody on the way takes the connection for dead


async def models(request: Request) -> Response:
    service: Service = request.app.state.service
    return _json({"object": "list", "data": [_model(service)]})


async def model(request: Request) -> Response:
    service: Service = request.app.state.service
    if (name := request.path_params["name"]) != service.served.name:
        raise Problem(
            404, f"no model is named '{name[:100]}': this server has '{service.served.name}'", code="model_not_found"
        )
    return _json(_model(service))


def _model(service: Service) -> dict[str, object]:
    return {
        "id": service.served.name,
        "object": "model",
        "created": int(service.started),
        "owned_by": "motley",
        "max_model_len": service.scheduler.context,
    }


async def state(request: Request) -> Response:
    service: Service = request.app.state.service
    return _json(service.state.snapshot())


async def events(request: Request) -> Response:
    """The state as server-sent events: whole at once, then a few times a second what of it has changed: an object with
    only those of its keys, and `clock`."""
    service: Service = request.app.state.service
    return Events(_changes(service), lambda: None)


async def _changes(service: Service) -> AsyncGenerator[bytes, None]:
    last, quiet = dict[str, Any](), 0.0
    while not service.leaving:
        now = service.state.snapshot(clock=False)
        if changed := {key: value for key, value in now.items() if key not in last or last[key] != value}:
            last, quiet = now, 0.0
            yield event(changed | {"clock": time()})
        elif quiet > QUIET_S:
            quiet = 0.0
            yield b": still here\n\n"
        await asyncio.sleep(EVERY_S)
        quiet += EVERY_S


async def metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    scheduler = service.scheduler
    gauges = {
        "motley_slots": ("Sequences that can run at once", scheduler.n_slots),
        "motley_running": ("Sequences that run", scheduler.n_running),
        "motley_waiting": ("Sequences that wait for a slot", scheduler.n_waiting),
    }
    return PlainTextResponse(service.meters.text(gauges), media_type="text/plain; version=0.0.4")


async def health(request: Request) -> Response:
    """Open to everybody, and says nothing but that."""
    service: Service = request.app.state.service
    if service.scheduler.failure is not None:
        return _json({"status": "failed"}, 503)
    return _json({"status": "ok"})


def _json(data: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(data), status, media_type="application/json")
