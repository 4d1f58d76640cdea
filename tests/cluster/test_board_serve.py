"""`motley board serve` as a process: who connects and says nothing, or never ends its head, keeps nobody else out."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from board_fakes import board

pytest.importorskip("uvicorn", reason="the pages need the extra [serve]")
pytest.importorskip("python_multipart", reason="the pages need the extra [serve]")

MANY = 300


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = board(tmp_path_factory.mktemp("served")).folder
    words = [sys.executable, "-m", "motley", "board", "serve", "--port", "0", "--board", str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield int(server.stdout.readline().rpartition(":")[2].strip("/\n"))
        server.send_signal(signal.SIGINT)
        assert server.wait(60) in (0, 130)


def status(port: int, **headers: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_silent_connections_keep_nobody_out(port: int) -> None:
    with ExitStack() as silent:
        for _ in range(MANY):
            silent.enter_context(socket.create_connection(("127.0.0.1", port), 60))
        assert status(port) == 200


def test_a_head_without_an_end_is_cut_off(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 60) as sock, suppress(ConnectionError):
        sock.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x-more: yyyyy\r\n" * 10_000)
        assert sock.recv(1) == b""
    assert status(port) == 200


@pytest.mark.parametrize(
    ("host", "answer"), [("localhost", 200), ("[::1]:1", 200), ("LOCALHOST:99", 200), ("rebound.example", 421)]
)
def test_only_its_own_names_are_taken_for_it(port: int, host: str, answer: int) -> None:
    assert status(port, host=host) == answer


def test_a_taken_port_is_said_in_a_sentence(port: int, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "motley", "board", "serve", "--port", str(port), "--board", str(tmp_path / "b")]
    board(tmp_path / "b")
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"port {port} of 127.0.0.1 is taken" in done.stderr
