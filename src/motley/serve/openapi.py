"""`GET /openapi.json`: what the server takes, generated from the request records themselves."""

from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

import motley
from motley.serve.records import ChatRequest, CompletionRequest

REF = "#/components/schemas/{name}"
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


async def openapi(request: Request) -> Response:
    return Response(document(), media_type="application/json")


@cache
def document() -> bytes:
    (chat, completion), schemas = msgspec.json.schema_components([ChatRequest, CompletionRequest], ref_template=REF)
    found = {
        "openapi": "3.1.0",
        "info": {"title": "Motley", "version": motley.__version__, "license": {"name": "Apache-2.0"}},
        "paths": {
            "/v1/chat/completions": {"post": _operation("The next message of a conversation", chat)},
            "/v1/completions": {"post": _operation("Text that goes on", completion)},
            "/v1/models": {"get": _operation("The models that are served: one")},
            "/v1/models/{name}": {"get": _operation("One model", parameter="name")},
            "/api/state": {"get": _operation("What the server does now")},
            "/health": {"get": _operation("Whether it works", open_to_all=True)},
        },
        "components": {
            "schemas": {**schemas, "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }
    return msgspec.json.encode(found)


def _operation(
    summary: str, body: dict[str, Any] | None = None, parameter: str = "", open_to_all: bool = False
) -> dict[str, Any]:
    wrong = {
        "description": "What is wrong",
        "content": {"application/json": {"schema": {"$ref": REF.format(name="Error")}}},
    }
    fine: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if body:
        fine["text/event-stream"] = {"schema": {"type": "string"}}
    found: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "Done", "content": fine}, "default": wrong},
    }
    if body:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if parameter:
        found["parameters"] = [{"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}]
    return found | ({"security": []} if open_to_all else {})
