"""`motley bench`: a model on a local cluster of unequal nodes: placed, predicted, measured, checked, reported."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from motley.bench.folders import cache_folder
from motley.bench.measure import Text
from motley.bench.result import Interval, Result
from motley.bench.run import Settings, Subject, asked_workloads, require_sense, run_bench
from motley.bench.table import result_view
from motley.bench.trace import write_trace
from motley.bundled import heldout_path, routes_path
from motley.cli import where
from motley.cli.keep import keep
from motley.cli.options import MODEL_HELP, counts, model_file, output_file, positive, whole_numbers, writing
from motley.cli.session import Session
from motley.cli.show import shown
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
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch
from motley.plan.plan import Plan
from motley.predict.predict import predict
from motley.predict.routes import Routes
from motley.predict.workload import Workload
from motley.progress import Progress
from motley.shape.model import ModelShape

READ_BYTES = 1 << 30  # beyond any cache
READ_PASSES = 3
TRACED_PROMPT, TRACED_TOKENS = 64, 16
CHECK_CONTEXT = 256  # what the check's prompts and answers need


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="FILE", help=MODEL_HELP)
    parser.add_argument("--shape", metavar="NAME", help="instead of a file: random weights of a catalogue shape")
    parser.add_argument("--quant", default="q4_k", metavar="Q", help="of --shape (default: %(default)s)")
    parser.add_argument("--layers", type=positive, metavar="N", help="of --shape: only the first N layers")
    where.add_arguments(parser, nodes=2)
    parser.add_argument("--pp", type=whole_numbers, default=[128, 512], metavar="N,..", help="prompts (128,512)")
    parser.add_argument("--tg", type=whole_numbers, default=[64], metavar="N,..", help="tokens to generate (64)")
    parser.add_argument("--depth", type=whole_numbers, default=[0], metavar="D,..", help="tokens before (0)")
    parser.add_argument("--batch", type=counts, default=[1], metavar="B,..", help="sequences at once (1)")
    parser.add_argument("--repeat", type=positive, default=5, metavar="R", help="samples a test (default: %(default)s)")
    parser.add_argument("--peer", choices=["llama.cpp"], help="alternate with a rival on the same file")
    parser.add_argument("--no-check", action="store_true", help="skip the comparison with one device")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the result for programs")
    trace = "write what every device and link did in a prompt of 64 and 16 tokens, for Chrome or Perfetto"
    parser.add_argument("--trace", type=output_file, metavar="FILE", help=trace)
    parser.add_argument(
        "--html", type=output_file, metavar="FILE", help="write the report here (default: beside the results)"
    )


def run(args: argparse.Namespace) -> int:
    console = Console(stderr=True)
    with shown(console) as progress:
        result = bench(args, progress)
    kept, lost = keep(result, args.json, args.html)
    Console().print(result_view(result))
    console.print("\n".join(kept), highlight=False, markup=False, soft_wrap=True)
    if lost:
        raise MotleyError("; ".join(lost))
    return 0 if result.check is None or result.check.passed else 1


def bench(args: argparse.Namespace, progress: Progress) -> Result:
    workloads = asked_workloads(args.pp, args.tg, args.depth, args.batch)
    settings = Settings(workloads, args.repeat, peer=args.peer, trace=_tracing(args.trace))
    target = _open_target(args, progress)
    require_sense(settings, target.shape, target.path)
    context = max(CHECK_CONTEXT, *(w.context for w in workloads))
    room = where.Room(context, slots=max(args.batch))
    with where.session(args, target.shape, room) as (session, given):
        progress("measuring the devices and the links", 0.0)
        lab = given or session.probe()
        progress("searching for the best placement", 0.0)
        plan = where.placement(args, target.shape, lab, _main(workloads), room, session.own.name, target.routes)
        subject = _subject(target, session, lab, plan, room, check=not args.no_check)
        return run_bench(subject, settings, progress)


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
    if args.peer and path.is_dir():
        raise UsageError(f"--peer: llama.cpp reads GGUF only: `motley convert {path} -o FILE.gguf` makes one")
    checkpoint = open_checkpoint(path)
    shape = shape_of(checkpoint)
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


def _main(workloads: list[Workload]) -> Workload:
    """What the placement is chosen for: generating, where that is asked."""
    return next((w for w in workloads if w.kind == "decode"), workloads[0])


def _said_of(session: Session) -> list[str]:
    if not session.across_machines or session.cluster.access.tls:
        return []
    return ["Activations crossed the network in the clear (--trusted-lan); the members were authenticated"]


def _subject(target: Target, session: Session, lab: Lab, plan: Plan, room: where.Room, *, check: bool) -> Subject:
    threads = session.own.threads if session.across_machines else sum(device.threads for device in lab.devices)
    meter = session.meter(threads)

    def placed(progress: Progress) -> AbstractContextManager[Runner]:
        path = str(target.path)
        return session.placed(
            path, plan.placement, slots=room.slots, context=room.context, stored=plan.stored, progress=progress
        )

    def whole(progress: Progress) -> AbstractContextManager[Runner]:
        ops = NativeOps(threads=threads)
        slots, context, repack = room.slots, room.context, not plan.stored
        return closing(
            LocalRunner(target.checkpoint, ops, n_slots=slots, context=context, repack=repack, progress=progress)
        )

    def expected(workload: Workload) -> Interval:
        found = predict(
            target.shape, lab.with_stored(plan.stored), plan.placement, workload, target.routes, session.own.name
        )
        return Interval(p10=found.p10, p50=found.p50, p90=found.p90)

    return Subject(
        shape=target.shape,
        lab=lab,
        placement=plan.placement,
        text=target.text,
        open_placed=placed,
        predict=expected,
        read_gb_s=lambda: meter.read_gb_s(READ_BYTES, READ_PASSES),
        threads=threads,
        int8_gops=meter.int8_gops(),
        open_reference=whole if check else None,
        reasons=(*plan.reason, *target.checkpoint.notes, *_said_of(session)),
        file=target.path,
        file_hash=target.checkpoint.hash,
        peak_memory=lambda runner: runner.node_memory() if isinstance(runner, PlacedRunner) else {},
    )
