"""Streams against an OpenAI server's /v1/completions: tokens a second and time to the first token, by how many.

Throughput is all tokens of a round over its wall time, first request to last byte. Each prompt is another piece of the
held-out text, so that no prefix helps. A light client of its own, as the machine's cores are the server's, too. Greedy,
no end token. In a checkout: PYTHONPATH=src.

    python benchmarks/serve/load.py [--streams 1,8,16] [--tokens 200] [--prompt 40] [--rounds 5] [--threads 2]
        [--url http://127.0.0.1:8080] [--json FILE]

Without --url it starts a `motley serve` of the bundled model, with a slot for each stream, and says at the end which
share of the scheduler's steps took it less than 2 ms beside the model.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from servers import motley

from motley.bundled import heldout_path


@dataclass
class Got:
    tokens: int
    first_s: float
    wall_s: float


async def one(url: str, body: dict[str, object]) -> Got:
    parts, data = urlsplit(url), json.dumps(body).encode()
    started, first, tokens = time.perf_counter(), 0.0, 0
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    writer.write(head.encode() + f"content-length: {len(data)}\r\nconnection: close\r\n\r\n".encode() + data)
    text = b""
    while piece := await reader.read(1 << 16):
        if not first and b"data:" in piece:
            first = time.perf_counter() - started
        text += piece
    writer.close()
    if b" 200 " not in text[:20] or b"[DONE]" not in text:
        raise RuntimeError(f"a request failed: {text[:500]!r}")
    at = text.rindex(b'"completion_tokens":')
    tokens = int(text[at + 20 :].lstrip().split(b",", 1)[0].split(b"}", 1)[0])
    return Got(tokens, first, time.perf_counter() - started)


async def a_round(url: str, prompts: list[str], n_tokens: int) -> tuple[float, list[Got]]:
    bodies = [
        {
            "prompt": prompt,
            "max_tokens": n_tokens,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
            "cache_prompt": False,
            "stream_options": {"include_usage": True},
        }
        for prompt in prompts
    ]
    started = time.perf_counter()
    got = await asyncio.gather(*(one(url, body) for body in bodies))
    return time.perf_counter() - started, list(got)


def prompts(rng: random.Random, n: int, words: int) -> list[str]:
    text = heldout_path().read_text().split()
    starts = [rng.randrange(len(text) - words) for _ in range(n)]
    return [" ".join(text[at : at + words]) for at in starts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a server that runs; its slots are its own matter")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--streams", default="1,8,16")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--prompt", type=int, default=40, help="words")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    streams = [int(part) for part in args.streams.split(",")]
    if args.url:
        results = measured(args, args.url, streams)
    else:
        with motley(max(streams), args.threads) as server:
            results = measured(args, server.url, streams)
            print(f"scheduler: {under_2_ms(server.url):.2%} of its steps took it less than 2 ms")
    print(f"{streams[-1]} streams: {results[-1]['tokens_per_s'] / results[0]['tokens_per_s']:.2f} times {streams[0]}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def measured(args: argparse.Namespace, url: str, streams: list[int]) -> list[dict[str, object]]:
    rng, results = random.Random(1), []
    for n in streams:
        speeds, firsts, tokens = [], [], 0
        for i in range(args.rounds + 1):
            wall, got = asyncio.run(a_round(url, prompts(rng, n, args.prompt), args.tokens))
            if i:  # the first warms up
                speeds.append(sum(g.tokens for g in got) / wall)
                firsts += [1e3 * g.first_s for g in got]
                tokens += sum(g.tokens for g in got)
        firsts.sort()
        result = {
            "streams": n,
            "tokens_per_s": round(statistics.median(speeds), 1),
            "samples": [round(s, 1) for s in speeds],
            "ttft_ms_p50": round(statistics.median(firsts), 2),
            "ttft_ms_p95": round(firsts[int(0.95 * (len(firsts) - 1))], 2),
            "tokens": tokens,
        }
        results.append(result)
        print(json.dumps(result), flush=True)
    return results


def under_2_ms(url: str) -> float:
    """From /metrics: a histogram's cumulative counts."""
    name = "motley_scheduler_step_seconds"
    lines = urlopen(f"{url}/metrics").read().decode().splitlines()
    counts = {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if line.startswith(name))}
    return counts[f'{name}_bucket{{le="0.002"}}'] / counts[f"{name}_count"]


if __name__ == "__main__":
    main()
