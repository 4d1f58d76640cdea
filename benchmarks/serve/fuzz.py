"""Fuzzed requests: no answer of 500, none that does not come, a server that lives on.

    python benchmarks/serve/fuzz.py [--kind serve|board] [--requests 2000] [--seed 1]
    motley serve --port 8080 --quiet &
    python benchmarks/serve/fuzz.py --kind described|bytes --url http://127.0.0.1:8080 [--requests 2000] [--seed 1]

serve and board run in this process, with a toy for a model and no sockets; described and bytes ask a server that runs.
All but bytes start from a description (serve's /openapi.json; the board's is made of its records): a tenth or less are
schemathesis's own cases, most of them of a description narrowed to the keys that are read; the others cross those.
bytes: valid requests with flipped, cut, doubled and inserted parts. All but bytes need `pip install schemathesis`.
In a checkout: PYTHONPATH=src:tests.
"""

import argparse
import asyncio
import json
import random
import socket
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import urlopen

if TYPE_CHECKING:  # they need schemathesis, which bytes does without
    from described import Asked
    from inside import Inside

HANG_S = 60.0
STARTED = time.monotonic()
BODIES = [
    {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": True, "logprobs": True, "stop": ["a"]},
    {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "response_format": {"type": "json_object"}},
    {"prompt": ["a", "b"], "max_tokens": 2, "logprobs": 1, "n": 2},
]
TARGETS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/api/state",
    "/health",
    "/metrics",
    "/openapi.json",
]
CHUNKS = [
    b"\r\n",
    b"\x00",
    b"{" * 300,
    b'"',
    b"\xff\xfe",
    b"%2e%2e/",
    b"transfer-encoding: chunked\r\n",
    b"\\ud800",
    b"1e999",
]


class Client:
    """One request at a time."""

    def __init__(self, url: str) -> None:
        self.parts, self.sock = urlsplit(url), None
        self.seen: Counter[str] = Counter()
        self.slowest = 0.0

    def send(self, data: bytes, more: bool = False) -> None:
        """`more`: that nothing else comes is not said: the request is complete, or thought to be."""
        started = time.perf_counter()
        with socket.create_connection((self.parts.hostname, self.parts.port), timeout=HANG_S) as sock:
            text = b""
            try:
                sock.sendall(data)
                if not more:
                    sock.shutdown(socket.SHUT_WR)
                while len(text) < 1 << 20 and (piece := sock.recv(1 << 16)):
                    text += piece
            except TimeoutError:
                self.fail("no answer", data, text)
            except ConnectionError:
                pass
        self.slowest = max(self.slowest, time.perf_counter() - started)
        status = text[9:12].decode(errors="replace") if text.startswith(b"HTTP/1.1 ") else "closed"
        self.seen[status] += 1
        if status in ("500", "501", "502") or b'"server_error"' in text:
            self.fail(f"status {status}", data, text)

    def fail(self, why: str, data: bytes, text: bytes) -> None:
        sys.exit(f"{why}\n{data[:3000]!r}\n{text[:1000]!r}")

    def request(self, method: str, path: str, body: bytes | None, media: str = "application/json") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nhost: {self.parts.netloc}\r\nconnection: close\r\n"
        if body is not None:
            head += f"content-type: {media}\r\ncontent-length: {len(body)}\r\n"
        return head.encode("utf-8", "surrogateescape") + b"\r\n" + (body or b"")


def over_sockets(client: Client, requests: "list[Asked]") -> None:
    for asked in requests:
        media = asked.media if asked.body is not None else ""
        client.send(client.request(asked.method, asked.target, asked.body, media), more=True)


async def inside(name: str, n: int, seed: int) -> "Inside":
    """In this process, without sockets: see inside.py."""
    from described import described
    from inside import Inside, board, serve

    async with {"serve": serve, "board": board}[name]() as target:
        called = Inside(target.app, target.check, HANG_S, target.at_once)
        requests = list(described(target.document, n, seed, target.narrowing))
        print(f"{len(requests)} made in {time.process_time():.1f} s of CPU", flush=True)
        await called.all(requests, seed)
        until = time.monotonic() + HANG_S
        while not target.idle():
            assert time.monotonic() < until, "something of the requests goes on"
            await asyncio.sleep(0.02)
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            sys.exit(f"tasks are left over: {left}")
    return called


def of_bytes(client: Client, n: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(n):
        target = rng.choice(TARGETS)
        method = rng.choice(["GET", "POST", "POST", "POST", "PUT", "OPTIONS", "HEAD", "DELETE"])
        body = json.dumps(rng.choice(BODIES)).encode() if method == "POST" else None
        if body is not None and rng.random() < 0.7:  # a body that is wrong, in a request that is right
            data = client.request(method, target, mutated(rng, body))
        else:
            data = mutated(rng, client.request(method, target, body))
        client.send(data)


def mutated(rng: random.Random, data: bytes) -> bytes:
    text = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(5):
            case 0 if at < len(text):
                text[at] ^= 1 << rng.randrange(8)
            case 1:
                del text[at : at + rng.randint(1, 20)]
            case 2:
                text[at:at] = text[at : at + rng.randint(1, 60)]
            case 3:
                text[at:at] = rng.choice(CHUNKS)
            case _:
                text[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--kind", choices=["bytes", "described", "serve", "board"], default="serve")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    called: Client | Inside
    if args.kind in ("serve", "board"):
        called = asyncio.run(inside(args.kind, args.requests, args.seed))
    else:
        called = Client(args.url)
        if args.kind == "bytes":
            of_bytes(called, args.requests, args.seed)
        else:
            from described import described
            from inside import SERVE

            document = json.load(urlopen(f"{args.url}/openapi.json"))
            over_sockets(called, list(described(document, args.requests, args.seed, SERVE)))
        assert json.load(urlopen(f"{args.url}/health")) == {"status": "ok"}
    seen = dict(sorted(called.seen.items()))
    line = {"kind": args.kind, "seed": args.seed, "n": called.seen.total(), "seen": seen}
    times = {"slowest_s": round(called.slowest, 2), "cpu_s": round(time.process_time(), 1)}
    print(json.dumps(line | times | {"s": round(time.monotonic() - STARTED, 1)}))


if __name__ == "__main__":
    main()
