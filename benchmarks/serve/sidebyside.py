"""Two servers of the same model, benched by the same suite, one after the other, then the other way round.

    python benchmarks/serve/sidebyside.py --suite quick \\
        --server "llama.cpp=python -m llama_cpp.server --model FILE --port 8391 --n_ctx 1024" \\
        --server "motley=motley serve FILE --port 8392"

Each command is started when its turn comes and ended afterwards; its port is the one after `--port`. llama.cpp's server
is that of llama-cpp-python (`pip install "llama-cpp-python[server]"`) or its own `llama-server`. A server that answers
one request at a time may cut the others short: the gate says so.
"""

import argparse
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "src"))  # an installed Motley first: it has its kernels

from rich.console import Console
from servers import ended

from motley.bench.endpoint import Address
from motley.bench.load_http import Served, run_served
from motley.bench.result import to_json
from motley.bench.served import ServedResult
from motley.bench.suite import Suite
from motley.bench.table import side_by_side

READY_S = 120


@contextmanager
def running(command: str) -> Iterator[str]:
    """The server's address, once it answers."""
    port = re.search(r"--port[= ](\d+)", command)
    if not port:
        raise SystemExit(f"name a --port in: {command}")
    url = f"http://127.0.0.1:{port[1]}"
    if listens(int(port[1])):
        raise SystemExit(f"something listens at port {port[1]} already: end it, or name another --port in: {command}")
    process = subprocess.Popen(shlex.split(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    with ended(process):
        until = time.monotonic() + READY_S
        while not answers(url):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"it did not come up: {command}")
            time.sleep(0.2)
        yield url


def listens(port: int) -> bool:
    """Its answers would be taken for those of the server that could not have the port."""
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except OSError:
        return False
    return True


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--server", action="append", required=True, metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=2, help="every other one in the opposite order (default: 2)")
    parser.add_argument("--out", type=Path, help="a folder for the results' JSON, made where it is not there")
    args = parser.parse_args()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    suite = Suite.load(args.suite)
    servers = [server.split("=", 1) for server in args.server]
    found: list[tuple[str, ServedResult]] = []
    for i in range(args.rounds):
        for name, command in servers if i % 2 == 0 else servers[::-1]:
            with running(command) as url:
                result = run_served(Served(Address.of(url), None, suite.units, suite.repeat, suite.name))
            found.append((f"{name} {i + 1}", result))
            if args.out:
                (args.out / f"{name}-{i + 1}.json").write_bytes(to_json(result))
    found.sort(key=lambda pair: [name for name, _ in servers].index(pair[0].rsplit(" ", 1)[0]))
    Console(width=40 + 24 * len(found)).print(side_by_side(found))


if __name__ == "__main__":
    main()
