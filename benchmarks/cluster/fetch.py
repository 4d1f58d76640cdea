"""How fast a node fetches weights, beside the same link's bulk bandwidth, in turn.

python benchmarks/cluster/fetch.py [--gb 1] [--repeat 5]: one process serves random bytes on loopback, this one fetches
them into a sparse file in a temporary folder. The link's bandwidth is that of `motley.cluster.remote.measure`: 8 MiB
there and back on one connection, each byte checked. Prints the medians, and their ratio pair by pair.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

import numpy as np

from motley.cluster.hello import call
from motley.cluster.remote import measure
from motley.cluster.server import Server
from motley.cluster.tcp_link import listen
from motley.cluster.weights import Kept, Served, fetch
from motley.progress import silent

HASH, TOKEN = "00" * 16, "benchmark"


class Shelf:
    def __init__(self, size: int) -> None:
        self.served = Served(memoryview(np.random.default_rng(0).bytes(size)), 0)

    def fetch(self, file_hash: str, start: int, end: int) -> memoryview:
        return self.served.piece(start, end)


def serve(size: int) -> None:
    listener = listen()
    server = Server(listener, Shelf(size), cluster="bench", name="head", token=TOKEN)  # type: ignore[arg-type]
    print(listener.port, flush=True)
    sys.stdin.read()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    size = int(args.gb * 1e9)
    words = [sys.executable, __file__, "--serve", str(size)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as source:
        assert source.stdout is not None
        assert source.stdin is not None
        port = int(source.stdout.readline())
        pairs = [(link_gb_s(port), fetch_gb_s(port, size)) for _ in range(args.repeat)]
        source.stdin.close()
    link, fetched = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"link {link:.2f} GB/s, fetched {fetched:.2f} GB/s, ratio {ratio:.2f} (medians of {len(pairs)})")
    print("pairs: " + ", ".join(f"{a:.2f}/{b:.2f}" for a, b in pairs))


def link_gb_s(port: int) -> float:
    link = call("127.0.0.1", port, cluster="bench", name="n", token=TOKEN)
    try:
        return measure(link, pings=50).gb_s
    finally:
        link.close()


def fetch_gb_s(port: int, size: int) -> float:
    def connect():  # type: ignore[no-untyped-def]
        return call("127.0.0.1", port, cluster="bench", name="n", token=TOKEN)

    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        kept = Kept.open(Path(folder), HASH, size)
        started = time.perf_counter()
        fetch(kept, HASH, [(0, size)], connect, silent)
        return size / (time.perf_counter() - started) / 1e9


if __name__ == "__main__":
    main()
