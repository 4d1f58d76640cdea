"""Servers to be measured: processes of `motley serve` and llama.cpp's `llama-server`, ready when they answer."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from motley.bundled import model_path


@dataclass(frozen=True)
class Serving:
    name: str
    url: str
    pid: int


@contextmanager
def motley(slots: int, threads: int, *arguments: str, model: Path | None = None) -> Iterator[Serving]:
    command = [sys.executable, "-m", "motley", "serve", str(model or model_path()), "--port", "0", "--quiet"]
    command += ["--slots", str(slots), "--threads", str(threads), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"(http://\S+)/v1", line):
            break
    else:
        sys.exit("motley serve did not start")
    with ended(process):
        yield Serving("motley", found[1], process.pid)


@contextmanager
def llama_cpp(binary: Path, slots: int, threads: int, context: int, model: Path | None = None) -> Iterator[Serving]:
    """`context`: of each slot."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    command = [
        str(binary),
        "-m",
        str(model or model_path()),
        "--port",
        str(port),
        "-t",
        str(threads),
        "-tb",
        str(threads),
    ]
    command += ["-np", str(slots), "-c", str(slots * context), "--no-cache-prompt"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    with ended(process):
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                with urlopen(f"{url}/health", timeout=5):
                    break
            except OSError:
                if time.monotonic() > until or process.poll() is not None:
                    sys.exit("llama-server did not start")
                time.sleep(0.2)
        yield Serving("llama.cpp", url, process.pid)


@contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
