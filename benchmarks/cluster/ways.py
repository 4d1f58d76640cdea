"""Two ways of the same step, in turn, on two local nodes of one thread: which is faster, and by how much.

python benchmarks/cluster/ways.py links         a round trip of 16 KiB and bulk: shared memory, plain TCP, TLS
python benchmarks/cluster/ways.py local [FILE]  decoding, experts on both nodes: over TCP beside shared memory
python benchmarks/cluster/ways.py prompt [FILE] a prompt of 512, layers on both nodes: whole beside chunks under way
python benchmarks/cluster/ways.py batch [FILE]  8 sequences, experts on both nodes: whole beside two halves in turns
python benchmarks/cluster/ways.py rows [FILE]   decoding: one node; two with all experts on both and the head in rows;
                                                the same with q, k and v in rows
python benchmarks/cluster/ways.py cores [FILE]  decoding, the whole model each: a process of one thread; two of them at
                                                once, which exchange nothing (what two nodes can't surpass); two threads
python benchmarks/cluster/ways.py stream [FILE] a prompt of 512, home on one device of a process (`--home SPEC`), all
                                                experts on its CPU: they are asked, or brought

FILE: a GGUF model (default: the bundled one). Medians of `--repeat` pairs, and all samples.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.append(str(Path(__file__).parents[2] / "src"))  # an installed Motley first: it has its kernels

from motley.bundled import model_path
from motley.cli.options import Offered
from motley.cli.session import Seat, Session
from motley.cluster import choice
from motley.cluster.access import Access
from motley.cluster.hello import call
from motley.cluster.identity import Identity, init
from motley.cluster.neighbour import offer
from motley.cluster.remote import measure
from motley.cluster.server import Server
from motley.engine import pipeline
from motley.engine.local import LocalRunner
from motley.engine.placed import PlacedRunner
from motley.engine.remembered import Faster
from motley.engine.runner import Runner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.placement import LayerPlacement, Pace, Placement, RowsPart, Streaming
from motley.ops.devices import open_device
from motley.ops.meter import OpsMeter
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch
from motley.predict.memory import at_once

HOST, TOKENS, STEPS, WARM_UP, BATCH, DECODED = "127.0.0.1", 512, 30, 6, 8, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["links", "local", "prompt", "batch", "rows", "cores", "stream", "serve", "alone"]
    )
    parser.add_argument("file", nargs="?", default=str(model_path()))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--home", default="cpu", metavar="SPEC", help="of `stream`: as --device has it")
    parser.add_argument("--trusted-lan", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "serve":
        serve(Path(args.file), args.trusted_lan)
    elif args.what == "alone":
        alone(args.file, args.threads)
    elif args.what == "links":
        links(args.repeat)
    elif args.what == "stream":
        stream(args.file, args.repeat, args.home)
    else:
        {"local": local, "prompt": prompt, "batch": batch, "rows": rows, "cores": cores}[args.what](
            args.file, args.repeat
        )


def tell(unit: str, samples: dict[str, list[float]]) -> None:
    for name, found in samples.items():
        print(f"{name:8} {statistics.median(found):10.1f} {unit}   ({', '.join(f'{x:.1f}' for x in found)})")
    first, *others = (statistics.median(found) for found in samples.values())
    print(f"ratio of medians to the first: {', '.join(f'{other / first:.2f}' for other in others)}")


def links(repeat: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        identity = init(Path(folder), "ways", "head", HOST)
        samples: dict[str, list[float]] = {"memory": [], "plain": [], "TLS": []}
        bulk: dict[str, list[float]] = {name: [] for name in samples}
        with served(folder, "--trusted-lan") as plain, served(folder) as secure:
            for _ in range(repeat):
                for name in samples:
                    link = reached(Access.of(identity, trusted_lan=name != "TLS"), secure if name == "TLS" else plain)
                    if name == "memory":
                        link = offer(link)
                    speed = measure(link)
                    link.close()
                    samples[name].append(speed.rtt_us)
                    bulk[name].append(1e3 * speed.gb_s)
    tell("us round trip of 16 KiB", samples)
    tell("MB/s", bulk)


def reached(access: Access, port: int) -> Any:
    """By the socket, whatever `Access.reach` would choose."""
    return call(HOST, port, cluster=access.cluster, name="ways", token=access.token, tls=access.tls)


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


def seconds_of(runner: Runner, batch: Batch) -> float:
    started = time.perf_counter()
    runner.step(batch)
    return time.perf_counter() - started


def dealt(i: int, n_layers: int, n_experts: int) -> LayerPlacement:
    return LayerPlacement("a", tuple("ab"[e % 2] for e in range(n_experts)))


def local(file: str, repeat: int) -> None:
    samples: dict[str, list[float]] = {"tcp": [], "local": []}
    with ExitStack() as stack:
        runners = {}
        for name in samples:
            with mock.patch.object(choice, "possible", lambda name=name: name == "local"):
                runners[name] = stack.enter_context(placed(file, dealt, slots=1))
        for _ in range(repeat):
            for name, runner in runners.items():
                steps = [seconds_of(runner, Batch([7 * at % 500], [at], [0], [0])) for at in range(WARM_UP + DECODED)]
                samples[name].append(1e6 * statistics.median(steps[WARM_UP:]))
        assert {x.transport for runner in runners.values() for x in runner.exchanges()} == {"tcp", "local"}
    tell("us a token, median", samples)


def batch(file: str, repeat: int) -> None:
    samples: dict[str, list[float]] = {"whole": [], "halves": []}
    with placed(file, dealt, slots=BATCH) as runner:
        for _ in range(repeat):
            for name, found in samples.items():
                halves = name == "halves"
                with mock.patch.object(Faster, "second", lambda self, halves=halves: halves):
                    steps = [seconds_of(runner, of_batch(at)) for at in range(WARM_UP + STEPS)]
                found.append(BATCH * STEPS / sum(steps[WARM_UP:]))
    tell("tok/s", samples)


def rows(file: str, repeat: int) -> None:
    """All three take one step in turn, so that what else the machine does meets them alike."""
    samples: dict[str, list[float]] = {"one": [], "two": [], "rows": []}
    with ExitStack() as stack:
        whole = LocalRunner(open_checkpoint(file), NativeOps(threads=1), context=TOKENS)
        runners: dict[str, Runner] = {"one": whole}
        for name in ("two", "rows"):
            runners[name] = stack.enter_context(on_both(file, name == "rows"))
        for at in range(WARM_UP + repeat * STEPS):
            for name, runner in runners.items():
                for position in (2 * at, 2 * at + 1):  # the second finds its own weights in the caches, if any does
                    took = seconds_of(runner, Batch([7 * at % 500], [position % TOKENS], [0], [0]))
                samples[name].append(1e3 * took)
        whole.close()
    kept = {name: found[WARM_UP:] for name, found in samples.items()}
    for name, found in kept.items():
        low, middle = statistics.quantiles(found, n=10)[0], statistics.median(found)
        faster = statistics.median(one / own for one, own in zip(kept["one"], found))
        print(f"{name:8} {middle:8.2f} ms a step (a tenth below {low:.2f}); {faster:.2f} times one, median of turns")


def cores(file: str, repeat: int) -> None:
    samples: dict[str, list[float]] = {"one": [], "both": [], "threads": []}
    with ExitStack() as stack:
        first, second, third = (
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, "alone", file, "--threads", threads],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for threads in "112"
        )
        for turn in range(repeat + 1):  # the first reads the file
            found = [sum(burst(of)) for of in ([first], [first, second], [third])]
            for name, speed in zip(samples, found if turn else ()):
                samples[name].append(speed)
        for process in (first, second, third):
            assert process.stdin is not None
            process.stdin.close()
    tell("tok/s", samples)
    for name in ("both", "threads"):
        times = statistics.median(found / one for found, one in zip(samples[name], samples["one"]))
        print(f"{name:8} {times:.2f} times one, median of turns")


def burst(processes: list[Any]) -> list[float]:
    """Tokens a second of each, all at once."""
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [float(process.stdout.readline()) for process in processes]


def alone(file: str, threads: int) -> None:
    """A burst of steps for each line that comes."""
    runner = LocalRunner(open_checkpoint(file), NativeOps(threads=threads), context=TOKENS)
    for turn, _ in enumerate(sys.stdin):
        tokens = ((7 * at + turn) % 500 for at in range(WARM_UP + STEPS))
        steps = [seconds_of(runner, Batch([token], [at], [0], [0])) for at, token in enumerate(tokens)]
        print(STEPS / sum(steps[WARM_UP:]), flush=True)
    runner.close()


@contextmanager
def on_both(file: str, projections: bool) -> Iterator[PlacedRunner]:
    """All experts on both nodes, the output matrix in rows; `projections`: q, k and v, too."""
    shape = shape_of(open_checkpoint(file))
    paces = Pace("a", 0.0, 265.0, 30.0), Pace("b", 100.0, 265.0, 30.0)  # us, of OLMoE's experts on one core
    owners = tuple("ab"[e % 2] for e in range(shape.n_experts))
    layer = LayerPlacement("a", owners, tuple((e, "ba"[e % 2]) for e in range(shape.n_experts)), paces)
    if projections:
        heights = shape.projections(0)
        assert heights
        layer = replace(layer, projections=shared(heights.n_rows, 0.56))
    placement = Placement((layer,) * shape.n_layers, shared(shape.vocab_size, 0.52))
    with (
        Session.local([Seat("a", 1, 0), Seat("b", 1, 0)]) as session,
        session.placed(file, placement, slots=1, context=TOKENS) as runner,
    ):
        yield runner


def shared(n_rows: int, share: float) -> tuple[RowsPart, ...]:
    at_home = int(n_rows * share) // 16 * 16
    return RowsPart("a", 0, at_home), RowsPart("b", at_home, n_rows)


def stream(file: str, repeat: int, home: str) -> None:
    shape = shape_of(open_checkpoint(file))
    batch = Batch([7 * i % 500 for i in range(TOKENS)], range(TOKENS), [0] * TOKENS, [TOKENS - 1])
    samples: dict[str, list[float]] = {"asked": [], "brought": []}
    uploads: list[float] = []
    with ExitStack() as stack:
        runners = {name: stack.enter_context(beside(file, home, name == "brought")) for name in samples}
        for runner in runners.values():
            runner.step(batch)
        for _ in range(repeat):
            for name, runner in runners.items():
                before = runner.times().upload
                samples[name].append(1e3 * seconds_of(runner, batch))
                if name == "brought":
                    uploads.append(runner.times().upload - before)
    n_bytes = sum(shape.expert_bytes(i) * shape.experts_in(i) for i in range(shape.n_layers))
    tell("ms", samples)
    rate = n_bytes / statistics.median(uploads) / 1e9
    print(f"of which bringing {n_bytes / 1e6:.0f} MB took {1e3 * statistics.median(uploads):.1f} ms: {rate:.2f} GB/s")
    with closing(open_device(home)) as ops:
        print(f"and as the probe measures it: {OpsMeter(ops).upload_gb_s(64 << 20):.2f} GB/s")


@contextmanager
def beside(file: str, home: str, brought: bool) -> Iterator[PlacedRunner]:
    shape = shape_of(open_checkpoint(file))
    layers = []
    for i in range(shape.n_layers):
        how = Streaming(("a.cpu",), TOKENS, at_once(shape, i)) if brought else None
        layers.append(LayerPlacement("a", ("a.cpu",) * shape.experts_in(i), streaming=how))
    with (
        Session.local([Seat("a", 1, 0, (Offered(home), Offered("cpu")))]) as session,
        session.placed(file, Placement(tuple(layers)), slots=1, context=TOKENS) as runner,
    ):
        yield runner


def of_batch(at: int) -> Batch:
    return Batch([(7 * at + s) % 500 for s in range(BATCH)], [at] * BATCH, range(BATCH), range(BATCH))


if __name__ == "__main__":
    main()
