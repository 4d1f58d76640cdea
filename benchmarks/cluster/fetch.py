"""How fast a node fetches weights, beside the same link's bulk bandwidth and the folder's own, in turn.

python benchmarks/cluster/fetch.py [--gb 1] [--repeat 5]: one process serves random bytes on loopback, this one fetches
them into a sparse file in a temporary folder (in memory, where there is /dev/shm). Across hosts: `--serve --host
ADDRESS` on one prints its port, and `--at ADDRESS:PORT` on the other fetches. The link's bandwidth is that of
`motley.cluster.remote.measure`: 8 MiB there and back on one connection, each byte checked. The folder's: the same file
written by a plain loop. Prints the medians, and the ratio to the slower of the two.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

import numpy as np

from motley.cluster.hello import call
from motley.cluster.remote import measure
from motley.cluster.server import Server
from motley.cluster.tcp_link import TcpLink, listen
from motley.cluster.weights import PIECE_BYTES, Kept, Served, fetch
from motley.progress import silent

HASH, TOKEN = "00" * 16, "benchmark"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Shelf:
    def __init__(self, size: int) -> None:
        self.served = Served(memoryview(np.random.default_rng(0).bytes(size)), 0)

    def fetch(self, file_hash: str, start: int, end: int) -> memoryview:
        return self.served.piece(start, end)


def serve(size: int, host: str) -> None:
    listener = listen(host)
    server = Server(listener, Shelf(size), cluster="bench", name="head", token=TOKEN)  # type: ignore[arg-type]
    print(listener.port, flush=True)
    sys.stdin.read()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--at", metavar="ADDRESS:PORT")
    args = parser.parse_args()
    size = int(args.gb * 1e9)
    if args.serve:
        serve(size, args.host)
    elif args.at:
        host, _, port = args.at.rpartition(":")
        report(host, int(port), size, args.repeat)
    else:
        words = [sys.executable, __file__, "--serve", "--gb", str(args.gb)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as source:
            assert source.stdout is not None
            assert source.stdin is not None
            report("127.0.0.1", int(source.stdout.readline()), size, args.repeat)
            source.stdin.close()


def report(host: str, port: int, size: int, repeat: int) -> None:
    def connect() -> TcpLink:
        return call(host, port, cluster="bench", name="n", token=TOKEN)

    rows = [(link_gb_s(connect), write_gb_s(size), fetch_gb_s(connect, size)) for _ in range(repeat)]
    link, written, fetched = (statistics.median(column) for column in zip(*rows))
    ratio = statistics.median(c / min(a, b) for a, b, c in rows)
    print(f"link {link:.3f} GB/s, writing {written:.2f}, fetched {fetched:.3f}: {ratio:.2f} (medians of {len(rows)})")
    print("link/writing/fetched: " + ", ".join("/".join(f"{x:.3g}" for x in row) for row in rows))


def link_gb_s(connect: Callable[[], TcpLink]) -> float:
    link = connect()
    try:
        return measure(link, pings=50).gb_s
    finally:
        link.close()


def write_gb_s(size: int) -> float:
    piece = np.random.default_rng(1).bytes(PIECE_BYTES)
    with tempfile.TemporaryFile(dir=MEMORY) as file:
        started = time.perf_counter()
        for at in range(0, size, PIECE_BYTES):
            os.pwrite(file.fileno(), piece, at)
        return size / (time.perf_counter() - started) / 1e9


def fetch_gb_s(connect: Callable[[], TcpLink], size: int) -> float:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        kept = Kept.open(Path(folder), HASH, size)
        started = time.perf_counter()
        fetch(kept, HASH, [(0, size)], connect, silent)
        return size / (time.perf_counter() - started) / 1e9


if __name__ == "__main__":
    main()
