"""A small OpenAI server for tests: answers at a known pace, and misbehaves in every way that was asked for.

A "token" is a word. It runs in a thread of the test's process on a free port of the loopback.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OVERHEAD = 3  # tokens that it puts before every prompt


@dataclass
class Behaviour:
    """`faults[i]` befalls the i-th generation, counted from the start: a status code, or how its stream goes wrong."""

    first_s: float = 0.0
    gap_s: float = 0.0
    usage: bool = True
    tokenizer: str = ""  # its path; none: 404
    apis: tuple[str, ...] = ("completions", "chat")
    refuses: tuple[str, ...] = ()  # fields: 400
    key: str = ""
    models: Any = field(default_factory=lambda: {"data": [{"id": "stand-in"}]})
    tokens_per_word: int = 1
    per_piece: int = 1  # tokens
    odd: bool = False  # bytes cut anywhere, CR LF, comments, an event in two data lines
    stops_at: int = 10**9  # tokens
    cached: int = 0
    done_line: bool = True
    keep_alive: bool = True
    faults: dict[int, Any] = field(default_factory=dict)
    every: Any = None  # a fault of every generation that has none of its own


class StandIn(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = behaviour
        self.lock = threading.Lock()
        self.asked: list[dict[str, Any]] = []  # bodies of generations
        self.headers: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A generation is under way: until its last word, as whoever has heard the end may ask again at once."""
        with self.lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            yield
        finally:
            with self.lock:
                self.under_way -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


@contextmanager
def stand_in(**behaviour: Any) -> Iterator[StandIn]:
    server = StandIn(Behaviour(**behaviour))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "stand-in/1", ""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if not self._allowed():
            return self._json(401, {"error": {"message": "no key"}})
        if self.path == "/v1/models":
            return self._json(200, self.server.behaviour.models)
        return self._json(404, {"error": {"message": "no such path"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        does = self.server.behaviour
        if not self._allowed():
            return self._json(401, {"error": {"message": "no key"}})
        if self.path == does.tokenizer:
            return self._json(200, {"tokens": list(range(self._tokens(body["content"])))})
        api = {"/v1/completions": "completions", "/v1/chat/completions": "chat"}.get(self.path)
        if api not in does.apis:
            return self._json(404, {"error": {"message": "no such path"}})
        if refused := [name for name in does.refuses if name in body]:
            return self._json(400, {"error": {"message": f"unknown field {refused[0]}"}})
        with self.server.lock:
            number = len(self.server.asked)
            self.server.asked.append(body)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        return self._generate(api, body, does.faults.get(number, does.every))

    def _allowed(self) -> bool:
        key = self.server.behaviour.key
        return not key or self.headers["authorization"] == f"Bearer {key}"

    def _tokens(self, text: str) -> int:
        return OVERHEAD + self.server.behaviour.tokens_per_word * len(text.split())

    def _json(self, status: int, body: Any, **headers: str) -> None:
        self._text(status, json.dumps(body), Content_Type="application/json", **headers)

    def _text(self, status: int, text: str, **headers: str) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _generate(self, api: str, body: dict[str, Any], fault: Any) -> None:
        if fault == 429:
            return self._json(429, {"error": {"message": "full"}}, Retry_After="0.01")
        if fault == "json":
            return self._json(200, {"choices": [{"text": "all at once"}]})
        if fault == "escape":
            return self._text(500, "\x1b[31mred")
        if isinstance(fault, int):
            return self._json(fault, {"error": {"message": "broken"}})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        if not self.server.behaviour.keep_alive:
            self.send_header("Connection", "close")
        self.end_headers()
        for event in self._events(api, body, fault):
            if event is None:  # the connection breaks
                self.close_connection = True
                self.wfile.flush()
                self.connection.close()
                return None
            self._send(event)
        self.wfile.write(b"0\r\n\r\n")
        return None

    def _events(self, api: str, body: dict[str, Any], fault: Any) -> Iterator[str | None]:
        does = self.server.behaviour
        prompt = body["prompt"] if api == "completions" else body["messages"][0]["content"]
        n = min(body["max_tokens"], does.stops_at)
        if api == "chat":
            yield json.dumps({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        with self.server.counted():
            yield from self._words(api, n, fault)
        if does.usage and "stream_options" in body:
            details = {"prompt_tokens_details": {"cached_tokens": does.cached}} if does.cached else {}
            usage = {"prompt_tokens": self._tokens(prompt), "completion_tokens": n, **details}
            yield json.dumps({"choices": [], "usage": usage})
        if does.done_line and fault != "no end":
            yield "[DONE]"

    def _words(self, api: str, n: int, fault: Any) -> Iterator[str | None]:
        does = self.server.behaviour
        time.sleep(does.first_s)
        if fault == "nothing":
            yield None
        for i in range(0, n, does.per_piece):
            if i:
                time.sleep(does.gap_s)
            if fault == "half" and i >= n // 2:
                yield None
            if fault == "garbage":
                yield "{not json"
            if fault == "error":
                yield json.dumps({"error": {"message": "out of memory"}})
            text = "word " * min(does.per_piece, n - i)
            last = i + does.per_piece >= n and fault != "no end"
            choice: dict[str, Any] = {"text": text} if api == "completions" else {"delta": {"content": text}}
            yield json.dumps({"choices": [{**choice, "finish_reason": "length" if last else None}]})

    def _send(self, event: str) -> None:
        if not self.server.behaviour.odd:
            return self._chunk(f"data: {event}\n\n".encode())
        head, comma, tail = event.partition(",")
        lines = (
            f": a comment\r\nevent: message\r\ndata:{head}{comma}\r\n" + (f"data: {tail}\r\n" if tail else "") + "\r\n"
        )
        for i in range(0, len(lines), 7):
            self._chunk(lines[i : i + 7].encode())
        return None

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()
