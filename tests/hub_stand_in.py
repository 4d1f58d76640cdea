"""A stand-in for the Hugging Face hub on loopback: what `huggingface_hub` asks of a model repository, no more."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED, PRIVATE = "gated/model", "private/model"


class Hub(ThreadingHTTPServer):
    """`repos`: {"owner/name": {"file": bytes}}. `stall_at`: a file's name -> its download stops for good after so many
    bytes; `cut_at`: the connection is closed there, once. `asked`: (method, path, range, token) of every request."""

    daemon_threads = True

    def __init__(self, repos: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos = repos
        self.cut_at: dict[str, int] = {}
        self.stall_at: dict[str, int] = {}
        self.stalled, self.go_on = threading.Event(), threading.Event()
        self.asked: list[tuple[str, str, str | None, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloads(self, name: str) -> list[str | None]:
        """The ranges that were asked of a file."""
        return [span for method, path, span, _ in self.asked if method == "GET" and path.endswith("/" + name)]


@contextmanager
def hub(repos: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    server = Hub(repos)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).removeprefix("/")
        token = self.headers.get("Authorization")
        self.server.asked.append((self.command, path, self.headers.get("Range"), token))
        if path.startswith("api/models/"):
            self._model(path.removeprefix("api/models/"))
        elif "/resolve/" in path:
            repo, _, rest = path.partition("/resolve/")
            self._file(repo, rest.partition("/")[2], body)
        else:
            self._error(404, "EntryNotFound")

    def _refused(self, repo: str, file: bool = False) -> bool:
        """401 for what is private or not there, as the hub answers strangers; 403 for the files of what is gated."""
        if file and repo == GATED and self.headers.get("Authorization") != "Bearer hf_secret":
            self._error(403, "GatedRepo")
        elif repo not in self.server.repos:
            self._error(404 if repo != PRIVATE else 401, "RepoNotFound")
        else:
            return False
        return True

    def _model(self, path: str) -> None:
        repo = "/".join(path.split("/")[:2])
        if self._refused(repo):
            return
        files = [{"rfilename": name} for name in self.server.repos[repo]]
        self._send(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": files}).encode())

    def _file(self, repo: str, name: str, body: bool) -> None:
        if self._refused(repo, file=True):
            return None
        data = self.server.repos[repo].get(name)
        if data is None:
            return self._error(404, "EntryNotFound")
        start, status = 0, 200
        if span := self.headers.get("Range"):
            start, status = int(span.removeprefix("bytes=").partition("-")[0]), 206
        self.send_response(status)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if body:
            self._body(name, data[start:])
        return None

    def _body(self, name: str, data: bytes) -> None:
        if at := self.server.cut_at.pop(name, 0):
            self.wfile.write(data[:at])
            self.wfile.flush()
            self.close_connection = True
        elif at := self.server.stall_at.pop(name, 0):
            self.wfile.write(data[:at])
            self.wfile.flush()
            self.server.stalled.set()
            self.server.go_on.wait(60)
            self.close_connection = True
        else:
            self.wfile.write(data)

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json", "Content-Length": str(len(data))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
