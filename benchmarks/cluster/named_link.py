"""Round trips over a transport that is named (`--link`) beside tcp's, between two processes of this machine.

    python benchmarks/cluster/named_link.py --link ring

Checksummed ping-pongs of 16 KiB and 1 MiB, in turn, so that what else the machine does meets both.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

SOURCE = str(Path(__file__).parents[2] / "src")
sys.path.insert(0, SOURCE)
os.environ["PYTHONPATH"] = SOURCE  # of the helpers

from motley.cluster import agreed
from motley.cluster.hello import call
from motley.cluster.remote import ping_s
from motley.cluster.server import Server
from motley.cluster.tcp_link import TcpLink, listen

SIZES = (16 << 10, 1 << 20)


def serve(named: str) -> None:
    server = Server(listen(), None, cluster="c", name="there", token="t", named=named)  # type: ignore[arg-type]
    print(server.listener.port, flush=True)
    sys.stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--link", choices=agreed.NAMED, default="ring")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pings", type=int, default=100, help="of each in a round")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.link)
        return
    words = [sys.executable, __file__, "--serve", "--link", args.link]
    there = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert there.stdout
    port = int(there.stdout.readline())

    def greeted() -> TcpLink:
        return call("127.0.0.1", port, cluster="c", name="here", token="t")

    links = {"tcp": greeted(), args.link: agreed.offer(greeted(), args.link)}
    took: dict[tuple[str, int], list[float]] = {(name, size): [] for name in links for size in SIZES}
    for _ in range(args.rounds):
        for (name, size), samples in took.items():
            samples += [ping_s(links[name], size) for _ in range(args.pings)]
    for (name, size), samples in took.items():
        median, best = statistics.median(samples), min(samples)
        print(f"{name:6} {size >> 10:5} KiB: {median * 1e6:7.0f} us (fastest {best * 1e6:.0f}) of {len(samples)}")
    for link in links.values():
        link.close()
    there.kill()


if __name__ == "__main__":
    main()
