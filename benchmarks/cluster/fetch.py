"""How fast nodes fetch weights, beside the same link's bulk bandwidth and the folder's own, in turn.

python benchmarks/cluster/fetch.py [--gb 1] [--repeat 5]: one process serves random bytes on loopback, this one fetches
them into a sparse file in a temporary folder (in memory, where there is /dev/shm). Across hosts: `--serve --host
ADDRESS` on one prints its port, and `--at ADDRESS:PORT` on the other fetches. The link's bandwidth is that of
`motley.cluster.remote.measure`: 8 MiB there and back on one connection, each byte checked. The folder's: the same file
written by a plain loop. Prints the medians, and the ratio to the slower of the two.

`--hosts N --mbit RATE` (as root): the head and N nodes are network namespaces whose links carry that much each way, and
all nodes fetch the same bytes at the same time: by turns from the head only, and from each other too. With `--full` the
last node has all of it from the beginning. Prints the seconds until the last has all, and what the head sent.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parents[2] / part) for part in ("src", "tests")]  # an installed Motley first

import numpy as np

from cluster.netlab import Host, netlab
from motley.cluster.fetching import fetch
from motley.cluster.hello import call
from motley.cluster.kept import Kept
from motley.cluster.remote import measure
from motley.cluster.server import Server
from motley.cluster.tcp_link import TcpLink, listen
from motley.cluster.weights import PIECE_BYTES, FileFacts, Layout, Served

HASH, TOKEN, PORT = "00" * 16, "benchmark", 7000  # the port in a network namespace of its own
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def layout_of(size: int) -> Layout:
    return Layout([FileFacts("model.gguf", size, 0)])


class Shelf:
    def __init__(self, served: Served) -> None:
        self.served, self.sent = served, 0

    @classmethod
    def full(cls, size: int) -> "Shelf":
        return cls(Served(layout_of(size), [memoryview(np.random.default_rng(0).bytes(size))]))

    def fetch(self, file_hash: str, start: int, end: int) -> memoryview:
        self.sent += end - start
        return self.served.piece(start, end)

    def ask(self, what: str, arguments: dict[str, Any], progress: object) -> dict[str, Any]:
        if what == "file":
            return self.served.facts()
        return {"digest": self.served.digest(arguments["start"], arguments["end"])}


def serve(size: int, host: str, port: int) -> None:
    """Until standard input ends; then says how many bytes it sent."""
    listener, shelf = listen(host, port), Shelf.full(size)
    server = Server(listener, shelf, cluster="bench", name="head", token=TOKEN)  # type: ignore[arg-type]
    print(listener.port, flush=True)
    sys.stdin.read()
    print(shelf.sent, flush=True)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--at", metavar="ADDRESS:PORT")
    parser.add_argument("--hosts", type=int, metavar="N")
    parser.add_argument("--mbit", type=int, default=1000)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--node", nargs="+", metavar="ADDRESS", help=argparse.SUPPRESS)  # its own, head, peers
    args = parser.parse_args()
    size = int(args.gb * 1e9)
    if args.serve:
        serve(size, args.host, args.port)
    elif args.node:
        node(size, *args.node)
    elif args.hosts:
        share(args.hosts, args.mbit, args.gb, args.repeat, args.full)
    elif args.at:
        host, _, port = args.at.rpartition(":")
        report(host, int(port), size, args.repeat)
    else:
        words = [sys.executable, __file__, "--serve", "--gb", str(args.gb)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as source:
            assert source.stdout is not None
            report("127.0.0.1", int(source.stdout.readline()), size, args.repeat)
            source.communicate()


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
        kept = Kept.open(Path(folder), HASH, layout_of(size))
        started = time.perf_counter()
        fetch(kept, [(0, size)], connect)
        return size / (time.perf_counter() - started) / 1e9


# -- several nodes that want the same


def node(size: int, own: str, head: str, *peers: str) -> None:
    """One of them: begins at a line on standard input, says its seconds, and serves until that ends."""

    def to(host: str) -> Callable[[], TcpLink]:
        return lambda: call(host, PORT, cluster="bench", name=own, token=TOKEN)

    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        kept = Kept.open(Path(folder), HASH, layout_of(size))
        shelf = Shelf(Served(kept.layout, kept.mapped(), kept.there))
        server = Server(listen(own, PORT), shelf, cluster="bench", name=own, token=TOKEN)  # type: ignore[arg-type]
        print("up", flush=True)
        sys.stdin.readline()
        started = time.perf_counter()
        fetch(kept, [(0, size)], to(head), [to(peer) for peer in peers], seed=own)
        print(time.perf_counter() - started, flush=True)
        sys.stdin.read()
        server.close()


def share(n: int, mbit: int, gb: float, repeat: int, full: bool) -> None:
    names = ["a", *(f"n{i}" for i in range(n))]
    with netlab(*names) as hosts:
        for host in hosts.values():
            limit(host, mbit)
        ways = {"from the head": False, "and from each other": True}
        rows: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(repeat):
            for way, together in ways.items():
                rows[way].append(shared(list(hosts.values()), gb, together, full))
                print(f"{way}: {rows[way][-1][0]:.2f} s", file=sys.stderr)
    for way, row in rows.items():
        seconds, sent = (statistics.median(column) for column in zip(*row))
        told = ", ".join(f"{s:.2f} s" for s, _ in row)
        print(f"{way}: {seconds:.2f} s until the last has all, {sent / gb / 1e9:.2f} times it from the head ({told})")


def limit(host: Host, mbit: int) -> None:
    """What it sends, by tbf: where several want the same, what the head sends decides."""
    bucket = ["rate", f"{mbit}mbit", "burst", f"{max(64, mbit // 4)}kb", "latency", "50ms"]
    host.run(["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *bucket], check=True)


def shared(hosts: Sequence[Host], gb: float, together: bool, full: bool) -> tuple[float, float]:
    """(seconds of the slowest node, bytes that the head sent)"""
    words = [sys.executable, __file__, "--gb", str(gb)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holders = hosts[:1] + hosts[-1:] * full
    others = hosts[1:-1] if full else hosts[1:]
    serving = [h.popen([*words, "--serve", "--host", h.address, "--port", str(PORT)], **pipes) for h in holders]
    nodes = []
    for h in others:
        peers = [other.address for other in hosts[1:] if other is not h] if together else []
        nodes.append(h.popen([*words, "--node", h.address, hosts[0].address, *peers], **pipes))
    for process in [*serving, *nodes]:
        process.stdout.readline()
    for process in nodes:
        process.stdin.write("\n")
        process.stdin.flush()
    seconds = [float(process.stdout.readline()) for process in nodes]
    sent, *_ = [process.communicate()[0] for process in (*serving, *nodes)]
    return max(seconds), float(sent)


if __name__ == "__main__":
    main()
