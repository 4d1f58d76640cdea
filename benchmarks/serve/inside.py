"""ASGI applications in this process, to be fuzzed: `motley serve`'s with a toy runner (tests/serve_toy.py), and the
board's, which have no socket and no model between a request and the code that reads it. `Inside` calls them.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from described import Asked, Narrowing

from motley.bench.result import Result
from motley.board.ask import Ask

LEAVES = 0.03  # of the clients: before their answer is there
CONTEXT, SLOTS = 192, 6
SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"enum": ["object", "string", "array", "integer", "null", "x"]},
        "properties": {
            "type": "object",
            "additionalProperties": {"enum": [{}, True, {"type": "integer"}, {"enum": [1]}]},
        },
        "required": {"type": "array", "items": {"enum": ["a", "b"]}},
        "items": {"enum": [{}, True, {"type": "string", "pattern": "a+"}]},
        "$ref": {"enum": ["#", "#/properties/a", "file:///etc/passwd", "http://127.0.0.1:1/x"]},
        "minItems": {"type": "integer", "minimum": -1, "maximum": 9},
        "pattern": {"enum": ["a*", "(", "[0-9]{3}", "(a+)+$"]},
        "anyOf": {"enum": [[], [{"type": "null"}, {}], {}]},
    },
    "additionalProperties": False,
}
SHORT = {"type": "integer", "minimum": 1, "maximum": 4}
TEXT = {"type": "string", "maxLength": 20}
SMALL = {"type": "object", "maxProperties": 2}


def tokens(least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "maxItems": 4, "items": {"type": "integer", "minimum": least, "maximum": most}}


# What a chat template, a limit or the toy's context takes: so that more requests get as far as the engine.
SERVE = Narrowing(always=("max_tokens",), hints={
    "max_tokens": SHORT,
    "max_completion_tokens": {"anyOf": [SHORT, {"type": "null"}]},
    "n": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 9}, {"type": "null"}]},
    "role": {"anyOf": [{"enum": ["user", "assistant", "system", "tool", "developer"]}, TEXT]},
    "prompt": {"anyOf": [TEXT, tokens(-1, 4200),
                         {"type": "array", "maxItems": 4, "items": {"anyOf": [TEXT, tokens(0, 4096)]}}]},
    "top_logprobs": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 21}, {"type": "null"}]},
    "logit_bias": {"enum": [None, {}, {"5": 100}, {"5": -100.0, "6": 1e-3}, {"4097": 1}, {"-1": 0}]},
    "best_of": {"enum": [None, 1, 2, -1]},
    "echo": {"enum": [None, False, True]},
    "suffix": {"enum": [None, "", "a"]},
    "schema": {"anyOf": [SCHEMA, SMALL, {"type": "null"}]},
    "parameters": {"anyOf": [SCHEMA, SMALL, {"type": "null"}]},
    "name": {"anyOf": [{"enum": ["f", "g"]}, TEXT]},
    "arguments": {"anyOf": [{"enum": ["{}", '{"a": 1}', "{", "[]", "null", ""]}, SMALL]},
})  # fmt: skip


@dataclass
class Inside:
    """`check` raises AssertionError for an answer that breaks a promise."""

    app: Any
    check: Callable[[Asked, int, dict[str, str], bytes], None]
    hang_s: float
    at_once: int
    seen: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    async def all(self, requests: list[Asked], seed: int) -> None:
        rng, left = random.Random(seed), iter(requests)

        async def worker() -> None:
            for request in left:
                await self.one(request, rng.random() < LEAVES, rng.random() * 0.05)

        await asyncio.gather(*(worker() for _ in range(self.at_once)))

    async def one(self, asked: Asked, leaves: bool, after_s: float) -> None:
        path, _, query = asked.target.partition("?")
        headers = [(b"host", b"127.0.0.1:8080"), (b"origin", b"http://127.0.0.1:8080")]
        if asked.body is not None:
            headers += [(b"content-type", asked.media.encode()), (b"content-length", str(len(asked.body)).encode())]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": asked.method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": headers,
            "client": (f"10.0.{self.seen.total() >> 8 & 255}.{self.seen.total() & 255}", 5),  # limits are per address
            "server": ("127.0.0.1", 8080),
            "state": {},
        }
        bodies = [{"type": "http.request", "body": asked.body or b"", "more_body": False}]
        ended, status, head, body = asyncio.Event(), 0, dict[str, str](), bytearray()

        async def receive() -> dict[str, Any]:
            if bodies:
                return bodies.pop()
            if leaves:
                await asyncio.wait([asyncio.ensure_future(ended.wait())], timeout=after_s)
            else:
                await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                head.update({name.decode(): value.decode() for name, value in message["headers"]})
            else:
                body.extend(message.get("body", b""))

        started = time.perf_counter()
        try:
            await asyncio.wait_for(self.app(scope, receive, send), self.hang_s)
            if not leaves:
                self.check(asked, status, head, bytes(body))
        except Exception as error:
            import traceback

            traceback.print_exc()
            sys.exit(f"{type(error).__name__} {error}\n{status} {asked}\n{bytes(body)[:1000]!r}")
        finally:
            ended.set()
        self.slowest = max(self.slowest, time.perf_counter() - started)
        self.seen["left" if leaves else str(status)] += 1


def serve_check(asked: Asked, status: int, head: dict[str, str], body: bytes) -> None:
    """Errors in OpenAI's form, answers that are the JSON or the events that they say they are."""
    assert 200 <= status < 500, "status"
    if status >= 400:
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}, "form of the error"
        assert error["message"], "no message"
    elif head["content-type"].startswith("text/event-stream"):
        events = body.decode().split("\n\n")
        assert events[-1] == "", "half an event"
        said = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
        assert not any("server_error" in json.dumps(event.get("error")) for event in said), "error of the server"
        assert events[-2] == "data: [DONE]" or "error" in json.loads(events[-2].removeprefix("data: ")), "no end"
    elif head["content-type"].startswith("application/json"):
        json.loads(body)


@dataclass(frozen=True)
class Target:
    """`idle`: whether nothing is under way any more."""

    app: Any
    document: dict[str, Any]
    narrowing: Narrowing
    check: Callable[[Asked, int, dict[str, str], bytes], None]
    idle: Callable[[], bool]
    at_once: int


@asynccontextmanager
async def serve() -> AsyncIterator[Target]:
    from motley.bundled import model_path
    from motley.engine.engine import Engine
    from motley.formats.chat import ChatTemplate
    from motley.formats.checkpoint import open_checkpoint
    from motley.serve.app import build_app
    from motley.serve.openapi import document
    from motley.serve.service import Served, Service
    from serve_toy import TOKENIZER, VOCAB, Counting

    served = Served("toy", TOKENIZER, ChatTemplate.from_metadata(open_checkpoint(model_path()).metadata), VOCAB)
    service = Service(served, Engine(Counting(SLOTS, CONTEXT), beside=64))
    service.start()
    try:
        idle = lambda: service.scheduler.n_running == service.scheduler.n_waiting == 0  # noqa: E731
        yield Target(build_app(service), json.loads(document()), SERVE, serve_check, idle, 12)
    finally:
        service.close()


OPEN = "[public]\nmoderated = false\nasks_per_hour = 100000000\nresults_per_hour = 100000000\n"
OPEN += "votes_per_hour = 100000000\npages_per_minute = 100000000\nmost_open = 300\n"
ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
BOARD = Narrowing(
    hints={
        "model": {"anyOf": [{"enum": ["", "olmoe-1b-7b", "Qwen3-30B-A3B", "deepseek-v3"]}, TEXT]},
        "quant": {"anyOf": [{"enum": ["", "q4_k", "Q8_0", "bf16"]}, TEXT]},
        "hardware": {"anyOf": [{"enum": ["", "here", "m3-ultra-512", "2x m3-ultra-512 @10gbe", "9x"]}, TEXT]},
        "note": TEXT,
    }
)


@asynccontextmanager
async def board() -> AsyncIterator[Target]:
    from board_fakes import board as new
    from board_fakes import result_json
    from motley.board.web.app import application

    with tempfile.TemporaryDirectory() as folder:
        app = application(new(Path(folder) / "board", OPEN))
        yield Target(app, board_document(json.loads(result_json())), BOARD, board_check, lambda: True, 6)


def board_document(result: Any) -> dict[str, Any]:
    """The board has no description of its own: this is of the same records that it reads."""
    (ask, kept), schemas = msgspec.json.schema_components([Ask, Result], ref_template="#/components/schemas/{name}")
    json_of: Callable[..., Any] = lambda schema, **more: {"requestBody": {"required": True, "content": {  # noqa: E731
        "application/json": {"schema": schema, **more}}}}  # fmt: skip
    form = {"requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": ask}}}}
    queries = [{"name": name, "in": "query", "schema": schema} for name, schema in {
        "state": {"enum": ["asked", "predicted", "queued", "running", "measured", "refused"]},
        "words": {"type": "string"}, "page": {"type": "integer"}}.items()]  # fmt: skip
    kinds = {name: BOARD.hints.get(name, {"type": "integer"}) for name in Ask.__struct_fields__}
    asking = [{"name": name, "in": "query", "schema": kind} for name, kind in kinds.items()]
    shown = ("/requests", "/results", "/api/requests", "/api/results")
    operations: dict[str, Any] = {
        "/": {"get": {"parameters": queries}},
        "/api/requests": {"get": {"parameters": queries}, "post": json_of(ask)},
        "/api/predict": {"post": json_of(ask)},
        "/ask": {"get": {"parameters": asking}, "post": form},
        "/api/results": {"post": json_of(kept, example=result)},
        **{f"{path}/{{id}}": {"get": {"parameters": [ID]}} for path in shown},
        **{f"{path}/{{id}}/vote": {"post": {"parameters": [ID]}} for path in ("/requests", "/api/requests")},
        "/api/{table}/{id}/{verb}": {"post": {"parameters": [ID, *({"name": name, "in": "path", "required": True,
                                     "schema": {"type": "string"}} for name in ("table", "verb"))]}},
    }  # fmt: skip
    for item in operations.values():
        for operation in item.values():
            operation["responses"] = {"default": {"description": "Anything"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "board", "version": "0"},
        "paths": operations,
        "components": {"schemas": schemas},
    }


def board_check(asked: Asked, status: int, head: dict[str, str], body: bytes) -> None:
    assert 200 <= status < 500 or (status == 503 and "retry-after" in head), "status"
    assert "default-src 'none'" in head["content-security-policy"], "headers"
    if head.get("content-type") == "application/json":
        json.loads(body)
    elif head.get("content-type", "").startswith("text/html"):
        assert b"<script" not in body.lower(), "a script"
