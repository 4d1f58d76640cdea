"""Who is let in, and what of a body."""

import asyncio
import json
from typing import Any

import pytest

from motley.serve.guard import LOOPBACK, Access, Guard, names_of
from motley.serve.limits import Limits
from motley.serve.listen import is_loopback
from motley.serve.metrics import Meters

JSON = {"content-type": "application/json"}
OPEN, KEYED = Access(), Access(keys=frozenset(["secret"]), hosts=None)


def called(
    access: Access,
    headers: dict[str, str],
    method: str = "GET",
    path: str = "/v1/models",
    body: list[bytes] | None = None,
    limits: Limits = Limits(),  # noqa: B008
    hang: bool = False,
) -> tuple[int, dict[str, Any]]:
    """Status, and what was said; 200 with the body's length where the application was reached and read it."""
    sent: list[dict[str, Any]] = []
    pieces = list(body or [b""])

    async def application(scope: Any, receive: Any, send: Any) -> None:
        n, more = 0, True
        while more:
            message = await receive()
            n, more = n + len(message["body"]), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"n": n}).encode()})

    async def receive() -> dict[str, Any]:
        if hang and not pieces:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces) or hang}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b""}
    asyncio.run(Guard(application, access, limits, Meters().http)(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(m["body"] for m in sent[1:]))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1"])
def test_on_loopback_this_machine_s_names_are_enough(host: str) -> None:
    assert called(OPEN, {"host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    ["", "example.com", "127.0.0.1.example.com", "localhost.example.com:8080", "localhost:", "user@localhost", "::1"],
)
def test_other_names_are_refused_there(host: str) -> None:
    """A page of elsewhere whose name was made to mean 127.0.0.1."""
    assert called(OPEN, {"host": host})[0] == 403


def test_the_name_it_was_told_to_listen_as_is_its_own_and_with_a_key_any() -> None:
    second = Access(hosts=names_of("127.0.0.2", keyed=False))
    assert called(second, {"host": "127.0.0.2:8080"})[0] == 200
    assert called(second, {"host": "localhost:8080"})[0] == 200
    assert called(second, {"host": "example.com"})[0] == 403
    assert names_of("::1", keyed=False) == LOOPBACK
    behind = Access(frozenset(["secret"]), names_of("127.0.0.1", keyed=True))
    proxied = {"host": "llm.example.com", "origin": "https://llm.example.com"}
    assert called(behind, proxied | {"authorization": "Bearer secret"})[0] == 200
    assert called(behind, proxied)[0] == 401


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9", "https://evil.example:8080"])
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    assert called(OPEN, {"host": "localhost:8080", "origin": origin})[0] == 403


def test_its_own_page_is_not() -> None:
    assert called(OPEN, {"host": "localhost:8080", "origin": "http://localhost:8080"})[0] == 200


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer wrong", "Bearer secret2", "Bearer secre", "Basic secret", "secret"]
)
def test_without_the_key_nothing(given: str) -> None:
    status, said = called(KEYED, {"host": "any.example", "authorization": given})
    assert status == 401
    assert said["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("given", ["Bearer secret", "bearer secret"])
def test_with_the_key(given: str) -> None:
    assert called(KEYED, {"host": "any.example", "authorization": given})[0] == 200


def test_open_paths_need_no_key() -> None:
    assert called(KEYED, {"host": "x"}, path="/health")[0] == 200
    assert called(KEYED, {"host": "x"}, path="/healthy")[0] == 401
    page = Access(frozenset(["secret"]), None, ["/health", "/static/"])
    assert called(page, {"host": "x"}, path="/static/app.js")[0] == 200
    assert called(page, {"host": "x"}, path="/static")[0] == 401


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_bodies_are_json_or_nothing(kind: str) -> None:
    """What a form of another page can send without asking."""
    assert called(OPEN, {"host": "localhost", "content-type": kind}, method="POST")[0] == 415


def test_a_body_that_is_too_long() -> None:
    small = Limits(body_bytes=10)
    headers = {"host": "localhost", **JSON}
    assert called(OPEN, headers, "POST", body=[b"12345", b"67890"], limits=small)[1] == {"n": 10}
    assert called(OPEN, headers, "POST", body=[b"12345", b"67890", b"1"], limits=small)[0] == 413
    assert called(OPEN, headers | {"content-length": "11"}, "POST", body=[b""], limits=small)[0] == 413


def test_a_body_that_does_not_come() -> None:
    headers = {"host": "localhost", **JSON}
    assert called(OPEN, headers, "POST", body=[b"1"], limits=Limits(body_seconds=0.05), hang=True)[0] == 408


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.1.5", "example.com", "localhost.example.com", ""]))
