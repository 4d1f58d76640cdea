"""Decoding on two local nodes of one thread beside llama.cpp's RPC backend on two such servers, in turn: the same file.

    python benchmarks/cluster/rpc.py --llama-cpp BIN FILE [--pairs 5] [--tokens 48] [--json FILE]

BIN: the folder of `llama-bench` and `ggml-rpc-server`, built from llama.cpp's source (llama-cpp-python's source
package has it in vendor/llama.cpp): cmake -DCMAKE_BUILD_TYPE=Release -DGGML_RPC=ON, targets of these names. Ours: all
experts on both nodes, the output matrix in rows; then q, k and v in rows, too. The servers are stopped meanwhile.
"""

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "src"))  # an installed Motley first: it has its kernels

from ways import HOST, TOKENS, WARM_UP, on_both, seconds_of

from motley.engine.local import LocalRunner
from motley.engine.runner import Runner
from motley.formats.checkpoint import open_checkpoint
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--llama-cpp", type=Path, required=True, metavar="BIN")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    samples: dict[str, list[float]] = {"llama.cpp RPC": [], "two": [], "two, rows": [], "one": []}
    with rpc_servers(args.llama_cpp) as (ports, processes):
        for _ in range(args.pairs):
            for process in processes:
                process.send_signal(signal.SIGCONT)
            samples["llama.cpp RPC"].append(theirs(args.llama_cpp, args.file, ports, args.tokens))
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            for name in ("two", "two, rows"):
                with on_both(args.file, "rows" in name) as runner:
                    samples[name].append(ours(runner, args.tokens))
            alone = LocalRunner(open_checkpoint(args.file), NativeOps(threads=1), context=TOKENS)
            samples["one"].append(ours(alone, args.tokens))
            alone.close()
            print(json.dumps({name: round(found[-1], 2) for name, found in samples.items()}), flush=True)
    for name, found in samples.items():
        to_rpc, to_one = (
            statistics.median(a / b for a, b in zip(found, samples[other])) for other in ("llama.cpp RPC", "one")
        )
        print(f"{name:14} {statistics.median(found):6.2f} tok/s; {to_rpc:.2f} times RPC, {to_one:.2f} times one")
    if args.json:
        args.json.write_text(json.dumps(samples, indent=1) + "\n")


def ours(runner: Runner, tokens: int) -> float:
    """Tokens a second, of as many steps behind some that warm up."""
    steps = [seconds_of(runner, Batch([7 * at % 500], [at], [0], [0])) for at in range(WARM_UP + tokens)]
    return tokens / sum(steps[WARM_UP:])


def theirs(folder: Path, file: str, ports: list[int], tokens: int) -> float:
    servers = ",".join(f"{HOST}:{port}" for port in ports)
    words = [str(folder / "llama-bench"), "-m", file, "--rpc", servers, "-t", "1", "-ngl", "99"]
    words += ["-p", "0", "-n", str(tokens), "-r", "2", "-o", "json"]
    run = subprocess.run(words, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"llama-bench ended with status {run.returncode}: {run.stderr[-500:]}")
    return float(json.loads(run.stdout)[0]["avg_ts"])


@contextmanager
def rpc_servers(folder: Path) -> Iterator[tuple[list[int], list["subprocess.Popen[bytes]"]]]:
    with socket.create_server((HOST, 0)) as a, socket.create_server((HOST, 0)) as b:
        ports = [sock.getsockname()[1] for sock in (a, b)]
    words = [str(folder / "ggml-rpc-server"), "-t", "1", "-p"]
    processes = [
        subprocess.Popen([*words, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for port in ports
    ]
    try:
        time.sleep(1.0)
        if any(process.poll() is not None for process in processes):
            sys.exit("ggml-rpc-server did not start")
        yield ports, processes
    finally:
        for process in processes:
            process.kill()  # stopped ones, too
            process.wait()


if __name__ == "__main__":
    main()
