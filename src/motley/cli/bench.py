"""`motley bench`: a model on a local cluster of unequal nodes: placed, predicted, measured, checked, reported."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import motley
from motley.bench import facts
from motley.bench.check import CHECK_CONTEXT
from motley.bench.energy import energy_meter, nobody
from motley.bench.folders import cache_folder
from motley.bench.journal import Journal, Placed
from motley.bench.measure import Text
from motley.bench.records import Interval
from motley.bench.result import Result
from motley.bench.run import Settings, Subject, asked_workloads, require_sense, run_bench
from motley.bench.served import AnyResult, ServedResult
from motley.bench.suite import Load, Suite, Unit, names
from motley.bench.table import view
from motley.bench.trace import write_trace
from motley.bundled import heldout_path, routes_path
from motley.cli import bench_endpoint, where
from motley.cli.joined import require_cluster
from motley.cli.keep import Places, keep
from motley.cli.options import (
    MODEL_HELP,
    counts,
    model_file,
    not_with_lab,
    output_file,
    positive,
    step_tokens,
    whole_numbers,
    writing,
)
from motley.cli.session import Session
from motley.cli.show import shown
from motley.cli.unfinished import kept_when_interrupted, open_journal, require_same_nodes
from motley.engine.assign import devices_of
from motley.engine.local import LocalRunner
from motley.engine.placed import PlacedRunner
from motley.engine.runner import Runner
from motley.errors import MotleyError, UsageError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.synth import synthesize
from motley.formats.tensor import Checkpoint
from motley.formats.tokenizer import Tokenizer
from motley.lab.lab import Lab
from motley.ops.devices import CPU
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch
from motley.predict.predict import predict
from motley.predict.routes import Routes
from motley.predict.workload import STEP_TOKENS, Workload
from motley.progress import Progress
from motley.shape.model import ModelShape

READ_BYTES = 1 << 30  # beyond any cache
READ_PASSES = 3
TRACED_PROMPT, TRACED_TOKENS = 64, 16
OTHERS_ENERGY = "the nodes are on several machines: this one's counters would miss the others"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="FILE", help=MODEL_HELP)
    parser.add_argument("--shape", metavar="NAME", help="instead of a file: random weights of a catalogue shape")
    parser.add_argument("--quant", default="q4_k", metavar="Q", help="of --shape (default: %(default)s)")
    parser.add_argument("--layers", type=positive, metavar="N", help="of --shape: only the first N layers")
    where.add_arguments(parser, nodes=2)
    step_tokens(parser)
    parser.add_argument("--pp", type=whole_numbers, metavar="N,..", help="prompts (128,512)")
    parser.add_argument("--tg", type=whole_numbers, metavar="N,..", help="tokens to generate (64)")
    parser.add_argument("--depth", type=whole_numbers, metavar="D,..", help="tokens before (0)")
    parser.add_argument("--batch", type=counts, metavar="B,..", help="sequences at once (1)")
    parser.add_argument("--repeat", type=positive, metavar="R", help="samples a test (5, or as the suite says)")
    parser.add_argument("--suite", metavar="NAME", help=f"instead: {', '.join(names())}, or a FILE.toml of your own")
    parser.add_argument("--resume", action="store_true", help="go on with the suite where it was interrupted")
    bench_endpoint.add_arguments(parser)
    parser.add_argument("--peer", choices=["llama.cpp"], help="alternate with a rival on the same file")
    parser.add_argument("--no-check", action="store_true", help="skip the comparison with one device")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the result for programs")
    parser.add_argument("--csv", type=output_file, metavar="FILE", help="write a row for each test")
    parser.add_argument("--markdown", type=output_file, metavar="FILE", help="write a block to paste, as llama-bench's")
    trace = "write what every device and link did in a prompt of 64 and 16 tokens, for Chrome or Perfetto"
    parser.add_argument("--trace", type=output_file, metavar="FILE", help=trace)
    parser.add_argument(
        "--html", type=output_file, metavar="FILE", help="write the report here (default: beside the results)"
    )


def run(args: argparse.Namespace) -> int:
    require_cluster(args, "memory", "trusted_lan")
    not_with_lab(args, "threads", "device")
    console = Console(stderr=True)
    with shown(console) as progress:
        result, journal = measured(args, progress, lambda words: console.print(words, markup=False, highlight=False))
    kept, lost = keep(result, Places(args.json, args.html, args.csv, args.markdown))
    journal.finish()
    Console().print(view(result))
    console.print("\n".join(kept), highlight=False, markup=False, soft_wrap=True)
    if lost:
        raise MotleyError("; ".join(lost))
    check = None if isinstance(result, ServedResult) else result.check
    return 0 if check is None or check.passed else 1


def measured(args: argparse.Namespace, progress: Progress, tell: Callable[[str], None]) -> tuple[AnyResult, Journal]:
    """A model of ours, or somebody's server. The journal is for the caller to finish, when the result is kept."""
    asked = _asked(args)
    if args.endpoint:
        units: list[Unit] = [*asked.workloads, *asked.loads]
        return bench_endpoint.bench_endpoint(args, units, asked.repeat, asked.suite, progress, tell)
    if args.served_model or args.api_key_env:
        raise UsageError("--model and --api-key-env belong to --endpoint; a FILE stands without a word before it")
    return bench(args, asked, progress, tell)


def bench(
    args: argparse.Namespace, asked: "Asked", progress: Progress, tell: Callable[[str], None]
) -> tuple[Result, Journal]:
    settings = Settings(
        asked.workloads,
        asked.repeat,
        peer=args.peer,
        trace=_tracing(args.trace),
        loads=asked.loads,
        suite=asked.suite,
        step_tokens=args.step_tokens,
    )
    target = _open_target(args, progress)
    require_sense(settings, target.shape, target.path)
    fitting = [unit for unit in settings.units if unit.context <= target.shape.context]
    context = max([CHECK_CONTEXT, *(unit.context for unit in fitting)])
    slots = max([1, *(unit.concurrency if isinstance(unit, Load) else unit.batch for unit in fitting)])
    room = where.Room(context, slots, args.step_tokens)
    journal = _journal(args, asked, target, tell)
    with where.session(args, target.shape, room) as (session, given):
        if journal.placed:
            require_same_nodes(journal.placed.lab, {session.own.name, *session.cluster.nodes})
        placed = journal.placed or _place(args, asked, target, session, given, room, progress)
        journal.begin(placed)
        subject = _subject(target, session, placed, room, check=not args.no_check)
        with kept_when_interrupted(journal, len(settings.units), tell):
            return run_bench(subject, settings, progress, journal), journal


@dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    workloads: list[Workload]
    loads: list[Load]
    repeat: int
    suite: str | None = None


def _asked(args: argparse.Namespace) -> Asked:
    given = [f"--{name}" for name in ("pp", "tg", "depth", "batch") if getattr(args, name) is not None]
    if args.suite:
        if given:
            raise UsageError(
                f"--suite says what is measured: leave {', '.join(given)} out, or write a suite of your own"
            )
        suite = Suite.load(args.suite)
        workloads = _in_steps([unit for unit in suite.units if isinstance(unit, Workload)], args.step_tokens)
        loads = [unit for unit in suite.units if isinstance(unit, Load)]
        return Asked(workloads, loads, args.repeat or suite.repeat, suite.name)
    if args.resume:
        raise UsageError("--resume goes on with a suite: name it with --suite")
    asked = asked_workloads(
        [128, 512] if args.pp is None else args.pp,
        [64] if args.tg is None else args.tg,
        args.depth or [0],
        args.batch or [1],
    )
    return Asked(_in_steps(asked, args.step_tokens), [], args.repeat or 5)


def _in_steps(workloads: list[Workload], most: int) -> list[Workload]:
    return [replace(workload, chunk=most) for workload in workloads]


def _journal(args: argparse.Namespace, asked: Asked, target: "Target", tell: Callable[[str], None]) -> Journal:
    if asked.suite is None:
        return Journal(facts.now())
    ignored = {"json", "html", "csv", "markdown", "resume", "verbose", "trace", "command"}
    options = [f"{name}={value}" for name, value in sorted(vars(args).items()) if name not in ignored]
    version = (motley.__version__, facts.commit(), target.checkpoint.hash)
    return open_journal(asked.suite, [*version, asked.workloads, asked.loads, *options], args.resume, tell)


def _place(
    args: argparse.Namespace,
    asked: Asked,
    target: "Target",
    session: Session,
    given: Lab | None,
    room: where.Room,
    progress: Progress,
) -> Placed:
    progress("measuring the devices and the links", 0.0)
    lab = given or session.probe()
    progress("searching for the best placement", 0.0)
    plan = where.placement(
        args, target.shape, lab, _main(asked, room.step_tokens), room, session.own.name, target.routes
    )
    return Placed(lab=lab, placement=plan.placement, stored=tuple(sorted(plan.stored)), reasons=tuple(plan.reason))


def _tracing(path: Path | None) -> Callable[[Runner, Text], None] | None:
    def trace(runner: Runner, text: Text) -> None:
        if not isinstance(runner, PlacedRunner):
            raise UsageError("--trace: there is one device only, and it does not trace")
        n = min(TRACED_PROMPT, runner.context - TRACED_TOKENS)
        runner.trace(on=True)
        runner.step(Batch(text.tokens(0, 0, n), range(n), [0] * n, [n - 1]))
        for i in range(n, n + TRACED_TOKENS):
            runner.step(Batch(text.tokens(0, i, i + 1), [i], [0], [0]))
        spans, errors = runner.trace(on=False)
        with writing(path or Path()):
            write_trace(spans, errors, path or Path())

    return trace if path else None


@dataclass(frozen=True)
class Target:
    """What is benched."""

    path: Path
    checkpoint: Checkpoint
    shape: ModelShape
    text: Text
    routes: Routes | None  # known for the bundled model


def _open_target(args: argparse.Namespace, progress: Progress) -> Target:
    if args.shape and args.model:
        raise UsageError("give a FILE or --shape, not both")
    path = _synthetic_file(args, progress) if args.shape else model_file(args.model)
    if args.peer and args.cache_type != "f16":
        raise UsageError("--peer: llama.cpp is run with its f16 cache: leave out --cache-type")
    if args.peer and path.is_dir():
        raise UsageError(f"--peer: llama.cpp reads GGUF only: `motley convert {path} -o FILE.gguf` makes one")
    checkpoint = open_checkpoint(path)
    shape = shape_of(checkpoint).with_cache(args.cache_type)
    if args.shape or args.model:
        return Target(path, checkpoint, shape, Text.random(shape.vocab_size), None)
    routes = Routes.load(routes_path())
    return Target(path, checkpoint, shape, Text(_held_out_tokens(checkpoint)), routes)


def _synthetic_file(args: argparse.Namespace, progress: Progress) -> Path:
    """Random weights of a shape, written once and kept."""
    shape = ModelShape.named(args.shape, quant=args.quant)
    if args.layers:
        shape = shape.with_layers(args.layers)
    path = cache_folder() / "synthetic" / f"{shape.name}-{args.quant}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        what = f"writing {shape.n_bytes / 1e9:.1f} GB of random weights to {path}"
        synthesize(shape, path, progress=lambda _, done: progress(what, done))
    return path


def _held_out_tokens(checkpoint: Checkpoint) -> NDArray[np.int32]:
    """The bundled model reads text that it was not trained on."""
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata)
    return np.array(tokenizer.encode(heldout_path().read_text(encoding="utf-8")[:40_000]), np.int32)


def _main(asked: Asked, chunk: int) -> Workload:
    """What the placement is chosen for: generating, where that is asked; of loads alone, their steps."""
    decode = [w for w in asked.workloads if w.kind == "decode"]
    steps = [Workload("decode", load.output, load.prompt, load.concurrency, chunk) for load in asked.loads]
    return (decode or steps or asked.workloads)[0]


def _said_of(session: Session, lab: Lab, shape: ModelShape, chunk: int) -> list[str]:
    said = [] if shape.cache == "f16" else [f"Keys and values are stored as {shape.cache}"]
    if chunk != STEP_TOKENS:
        said.append(f"A step carries up to {chunk:,} tokens, not {STEP_TOKENS} (--step-tokens)")
    if session.across_machines and not session.cluster.access.encrypted:
        said.append("Activations crossed the network in the clear (--trusted-lan); the members were authenticated")
    named = session.cluster.access.named
    if named and any(link.transport == named for link in lab.links):
        said.append(f"The {named} link does not encrypt: activations crossed every one in the clear (--link {named})")
    if named == "jaccl":
        said.append("The jaccl link is untested: no Mac had run it when this version was made")
    return said


def _subject(target: Target, session: Session, placed: Placed, room: where.Room, *, check: bool) -> Subject:
    lab, stored = placed.lab, frozenset(placed.stored)
    here = sum(device.threads for device in lab.devices if device.kind == "cpu")
    threads = session.own.threads if session.across_machines or not here else here
    meter = session.meter(threads)
    mixed = any(session.specs().get(name, CPU) != CPU for name in devices_of(placed.placement))

    def open_placed(progress: Progress) -> AbstractContextManager[Runner]:
        path = str(target.path)
        return session.placed(
            path,
            placed.placement,
            slots=room.slots,
            context=room.context,
            step_tokens=room.step_tokens,
            cache=target.shape.cache,
            stored=stored,
            progress=progress,
        )

    def whole(progress: Progress) -> AbstractContextManager[Runner]:
        ops = NativeOps(threads=threads)
        slots, context, repack = room.slots, room.context, not stored
        return closing(
            LocalRunner(
                target.checkpoint,
                ops,
                n_slots=slots,
                context=context,
                cache=target.shape.cache,
                repack=repack,
                progress=progress,
            )
        )

    def expected(workload: Workload) -> Interval:
        found = predict(
            target.shape, lab.with_stored(stored), placed.placement, workload, target.routes, session.own.name
        )
        return Interval(p10=found.p10, p50=found.p50, p90=found.p90)

    return Subject(
        shape=target.shape,
        lab=lab,
        placement=placed.placement,
        text=target.text,
        open_placed=open_placed,
        predict=expected,
        read_gb_s=lambda: meter.read_gb_s(READ_BYTES, READ_PASSES),
        threads=threads,
        int8_gops=meter.int8_gops(),
        open_reference=whole if check else None,
        reference="one CPU, whose kernels round activations to int8" if mixed else "one device",
        kinds_differ=mixed,
        reasons=(*placed.reasons, *target.checkpoint.notes, *_said_of(session, lab, target.shape, room.step_tokens)),
        file=target.path,
        file_hash=target.checkpoint.hash,
        peak_memory=lambda runner: runner.node_memory() if isinstance(runner, PlacedRunner) else {},
        energy=nobody(OTHERS_ENERGY) if session.across_machines else energy_meter(),
    )
