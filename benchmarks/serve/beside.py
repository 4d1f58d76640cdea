"""`motley serve` beside llama.cpp's server: the same file, threads, slots and load, in turn, pair by pair.

Both run all the time; the one that is not asked idles. Ratios are of the two rounds of a pair, which follow each other;
their order changes from pair to pair. In a checkout: PYTHONPATH=src.

    python benchmarks/serve/beside.py --llama-server BINARY [--streams 8] [--pairs 7] [--threads 2] [--tokens 200]
        [--model FILE] [--json FILE]
"""

import argparse
import asyncio
import json
import random
import statistics
from pathlib import Path

from load import a_round, prompts
from servers import llama_cpp, motley


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--prompt", type=int, default=40, help="words")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rng, pairs = random.Random(1), []
    context = ["--context", str(args.context)]
    with (
        motley(args.streams, args.threads, *context, model=args.model) as ours,
        llama_cpp(args.llama_server, args.streams, args.threads, args.context, args.model) as theirs,
    ):
        for i in range(args.pairs + 1):
            asked, pair = prompts(rng, args.streams, args.prompt), {}
            for server in (ours, theirs) if i % 2 else (theirs, ours):
                wall, got = asyncio.run(a_round(server.url, asked, args.tokens))
                first = statistics.median(g.first_s for g in got)
                pair[server.name] = {"tokens_per_s": sum(g.tokens for g in got) / wall, "ttft_ms": 1e3 * first}
            if i:  # the first warms up
                pairs.append(pair)
                print(json.dumps(pair), flush=True)
    for what in ("tokens_per_s", "ttft_ms"):
        ratios = [pair["motley"][what] / pair["llama.cpp"][what] for pair in pairs]
        medians = {name: statistics.median(pair[name][what] for pair in pairs) for name in pairs[0]}
        print(f"{what}: {medians}, ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if args.json:
        args.json.write_text(
            json.dumps({"settings": {k: str(v) for k, v in vars(args).items()}, "pairs": pairs}) + "\n"
        )


if __name__ == "__main__":
    main()
