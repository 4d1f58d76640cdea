"""Two ways of the same step, in turn, on two local nodes of one thread: which is faster, and by how much.

python benchmarks/cluster/ways.py links         a round trip of 16 KiB and bulk, plain beside TLS
python benchmarks/cluster/ways.py prompt [FILE] a prompt of 512, layers on both nodes: whole beside chunks under way
python benchmarks/cluster/ways.py batch [FILE]  8 sequences, experts on both nodes: whole beside two halves in turns

FILE: a GGUF model (default: the bundled one). Medians of `--repeat` pairs, and all samples.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from motley.bundled import model_path
from motley.cli.session import Seat, Session
from motley.cluster.access import Access
from motley.cluster.identity import Identity, init
from motley.cluster.remote import measure
from motley.cluster.server import Server
from motley.engine import pipeline
from motley.engine.placed import PlacedRunner
from motley.engine.remembered import Faster
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.placement import LayerPlacement, Placement
from motley.ops.protocol import Batch

HOST, TOKENS, STEPS, WARM_UP, BATCH = "127.0.0.1", 512, 30, 6, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["links", "prompt", "batch", "serve"])
    parser.add_argument("file", nargs="?", default=str(model_path()))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--trusted-lan", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "serve":
        serve(Path(args.file), args.trusted_lan)
    elif args.what == "links":
        links(args.repeat)
    else:
        (prompt if args.what == "prompt" else batch)(args.file, args.repeat)


def tell(unit: str, samples: dict[str, list[float]]) -> None:
    for name, found in samples.items():
        print(f"{name:8} {statistics.median(found):10.1f} {unit}   ({', '.join(f'{x:.1f}' for x in found)})")
    first, second = samples.values()
    print(f"ratio of medians, second to first: {statistics.median(second) / statistics.median(first):.2f}")


def links(repeat: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        identity = init(Path(folder), "ways", "head", HOST)
        samples: dict[str, list[float]] = {"plain": [], "TLS": []}
        bulk: dict[str, list[float]] = {"plain": [], "TLS": []}
        with served(folder, "--trusted-lan") as plain, served(folder) as secure:
            for _ in range(repeat):
                for name, port in (("plain", plain), ("TLS", secure)):
                    link = Access.of(identity, trusted_lan=name == "plain").reach(HOST, port)
                    speed = measure(link)
                    link.close()
                    samples[name].append(speed.rtt_us)
                    bulk[name].append(1e3 * speed.gb_s)
    tell("us round trip of 16 KiB", samples)
    tell("MB/s", bulk)


@contextmanager
def served(folder: str, *options: str) -> Iterator[int]:
    words = [sys.executable, __file__, "serve", folder, *options]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield int(process.stdout.readline())
        process.stdin.close()


def serve(folder: Path, trusted_lan: bool) -> None:
    access = Access.of(Identity.load(folder, "ways"), trusted_lan=trusted_lan)
    server = Server(access.listen(), object(), cluster="ways", name="head", token=access.token)  # type: ignore[arg-type]
    print(server.listener.port, flush=True)
    sys.stdin.read()
    server.close()


@contextmanager
def placed(file: str, layer: Callable[[int, int, int], LayerPlacement], slots: int) -> Iterator[PlacedRunner]:
    shape = shape_of(open_checkpoint(file))
    layers = tuple(layer(i, shape.n_layers, shape.n_experts) for i in range(shape.n_layers))
    with (
        Session.local([Seat("a", 1, 0), Seat("b", 1, 0)]) as session,
        session.placed(file, Placement(layers), slots=slots, context=TOKENS) as runner,
    ):
        yield runner


def prompt(file: str, repeat: int) -> None:
    def half(i: int, n_layers: int, n_experts: int) -> LayerPlacement:
        device = "ab"[2 * i // n_layers]
        return LayerPlacement(device, (device,) * n_experts)

    batch = Batch([7 * i % 500 for i in range(TOKENS)], range(TOKENS), [0] * TOKENS, [TOKENS - 1])
    samples: dict[str, list[float]] = {"whole": [], "chunks": []}
    with placed(file, half, slots=1) as runner:
        runner.step(batch)
        for _ in range(repeat):
            with mock.patch.object(pipeline, "chunks_of", lambda batch, n_stages: [batch]):
                samples["whole"].append(TOKENS / seconds_of(runner, batch))
            samples["chunks"].append(TOKENS / seconds_of(runner, batch))
    tell("tok/s", samples)


def seconds_of(runner: PlacedRunner, batch: Batch) -> float:
    started = time.perf_counter()
    runner.step(batch)
    return time.perf_counter() - started


def batch(file: str, repeat: int) -> None:
    def dealt(i: int, n_layers: int, n_experts: int) -> LayerPlacement:
        return LayerPlacement("a", tuple("ab"[e % 2] for e in range(n_experts)))

    samples: dict[str, list[float]] = {"whole": [], "halves": []}
    with placed(file, dealt, slots=BATCH) as runner:
        for _ in range(repeat):
            for name, found in samples.items():
                halves = name == "halves"
                with mock.patch.object(Faster, "second", lambda self, halves=halves: halves):
                    steps = [seconds_of(runner, of_batch(at)) for at in range(WARM_UP + STEPS)]
                found.append(BATCH * STEPS / sum(steps[WARM_UP:]))
    tell("tok/s", samples)


def of_batch(at: int) -> Batch:
    return Batch([(7 * at + s) % 500 for s in range(BATCH)], [at] * BATCH, range(BATCH), range(BATCH))


if __name__ == "__main__":
    main()
