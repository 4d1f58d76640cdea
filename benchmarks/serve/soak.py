"""Many streams for minutes: each must end as it should, and the server must not grow.

Every client asks again as soon as it has its answer: chats and completions, some with schemas, some that go away in the
middle. Memory is the server's resident set, sampled all the time. In a checkout: PYTHONPATH=src.

    python benchmarks/serve/soak.py [--streams 64] [--minutes 10] [--slots 16] [--threads 2]
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil
from load import prompts
from servers import motley

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}

GROWTH = 1.1  # of its memory, from a third of the time to the end


async def client(url: str, rng: random.Random, until: float, seen: Counter[str]) -> None:
    while time.monotonic() < until:
        kind = rng.choice(["chat", "chat", "completion", "completion", "schema", "leave"])
        prompt = prompts(rng, 1, rng.randint(1, 120))[0]
        body = {"max_tokens": rng.randint(1, 120), "temperature": rng.choice([0, 0.8]), "stream": True}
        path = "/v1/completions" if kind in ("completion", "leave") else "/v1/chat/completions"
        body |= {"prompt": prompt} if path == "/v1/completions" else {"messages": [{"role": "user", "content": prompt}]}
        if kind == "schema":
            wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
            body |= {"response_format": wanted, "max_tokens": 200}
        seen[await ask(url + path, body, leave=kind == "leave")] += 1


async def ask(url: str, body: dict[str, object], leave: bool) -> str:
    parts, data = urlsplit(url), json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(data)}\r\nconnection: close\r\n\r\n".encode() + data)
    text = b""
    try:
        async with asyncio.timeout(120):
            while piece := await reader.read(1 << 16):
                text += piece
                if leave:
                    return "left"
    except TimeoutError:
        return "hung"
    finally:
        writer.close()
    return (
        "ended"
        if b" 200 " in text[:20] and b"[DONE]" in text and b'data: {"error"' not in text
        else f"wrong: {text[:60]!r} ... {text[-400:]!r}"
    )


async def run(url: str, streams: int, minutes: float, process: psutil.Process) -> None:
    until, seen, memory = time.monotonic() + 60 * minutes, Counter[str](), list[float]()
    clients = [asyncio.create_task(client(url, random.Random(i), until, seen)) for i in range(streams)]
    while time.monotonic() < until:
        await asyncio.sleep(min(10, 6 * minutes))
        memory.append(process.memory_info().rss / 1e6)
        print(f"{seen.total()} requests, {memory[-1]:.1f} MB, {process.num_fds()} files", flush=True)
    await asyncio.gather(*clients)
    print(dict(seen))
    third = len(memory) // 3
    print(f"memory after a third {memory[third]:.1f} MB, at the end {memory[-1]:.1f} MB")
    state = json.load(urlopen(f"{url}/api/state"))
    print(state["scheduler"], state["totals"], "idle:", all(slot["state"] == "idle" for slot in state["slots"]))
    if bad := {kind: n for kind, n in seen.items() if kind not in ("ended", "left")}:
        raise SystemExit(f"not as they should: {bad}")
    if memory[-1] > GROWTH * memory[third]:
        raise SystemExit(f"the server grows: {memory[-1] / memory[third]:.2f} times what it had after a third")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with motley(args.slots, args.threads) as server:
        asyncio.run(run(server.url, args.streams, args.minutes, psutil.Process(server.pid)))


if __name__ == "__main__":
    main()
