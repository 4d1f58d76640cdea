"""`motley trace-routes`: which experts the tokens of texts choose, written as a trace, and what it tells."""

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from motley.cli.options import MODEL_HELP, model_file, no_repack, output_file, positive, writing
from motley.cli.run import repacked_fits
from motley.cli.show import shown
from motley.errors import UsageError
from motley.eval.routing import Report, report
from motley.eval.routing_show import report_lines
from motley.predict.routes import Routes
from motley.progress import Progress

CONTEXT = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    text = "UTF-8; repeatable: the trace says which tokens are of which text, and the report compares them"
    parser.add_argument("--text", type=Path, action="append", default=[], metavar="FILE", help=text)
    parser.add_argument("-o", "--output", type=output_file, metavar="TRACE", help="write the trace (.npz) here")
    parser.add_argument("--show", type=Path, metavar="TRACE", help="instead: the report of a trace that is there")
    context = "tokens that see each other; every window starts anew (default: %(default)s)"
    parser.add_argument("--context", type=positive, default=CONTEXT, metavar="N", help=context)
    parser.add_argument("--chunks", type=positive, metavar="N", help="only the first N windows of each text")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: all cores")
    no_repack(parser)
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the report for programs")


def run(args: argparse.Namespace) -> int:
    if args.show:
        if args.model or args.text or args.output:
            raise UsageError("--show reads a trace that is there: leave out MODEL, --text and -o")
        _tell(report(Routes.load(args.show)), args.json)
        return 0
    if not args.text or not args.output:
        raise UsageError("give at least one --text, and -o TRACE to write to; or --show TRACE")
    with shown(Console(stderr=True)) as progress:
        routes, whole = _traced(args, progress)
    with writing(args.output):
        routes.save(args.output)
    _tell(report(routes), args.json)
    of = "" if whole else " (interrupted: what there was)"
    print(f"\ntrace: {args.output}{of}; `motley plan` and `motley predict` read it with --routes")
    return 0 if whole else 130


def _traced(args: argparse.Namespace, progress: Progress) -> tuple[Routes, bool]:
    """The trace, and whether all was read: Ctrl-C after the first window keeps what there is."""
    from motley.engine.local import LocalRunner
    from motley.eval.tracing import Tracer, joined, text_windows
    from motley.eval.windows import read_text
    from motley.formats.checkpoint import open_checkpoint
    from motley.formats.shape_of import shape_of
    from motley.formats.tokenizer import Tokenizer
    from motley.lab.machine import usable_cores
    from motley.ops.native import NativeOps

    checkpoint = open_checkpoint(model_file(args.model))
    shape, tokenizer = shape_of(checkpoint), Tokenizer.from_metadata(checkpoint.metadata)
    if args.context > shape.context:
        raise UsageError(
            f"windows of {args.context} tokens exceed the {shape.context} that {shape.name} was trained for: "
            "take a shorter --context"
        )
    names = text_names(args.text)
    texts = [text_windows(tokenizer, read_text(path), args.context, args.chunks) for path in args.text]
    for path, windows in zip(args.text, texts):
        if not windows:
            raise UsageError(f"the text {path} is empty: leave it out")
    skip = 1 if tokenizer.add_bos and tokenizer.bos is not None else 0
    repack = args.repack and repacked_fits(shape, args.context)
    ops = NativeOps(threads=args.threads or usable_cores())
    found: dict[str, list[NDArray[np.int32]]] = {name: [] for name in names}
    n, done = sum(map(len, texts)), 0
    with closing(LocalRunner(checkpoint, ops, context=args.context, repack=repack, progress=progress)) as runner:
        tracer = Tracer(runner, shape)
        try:
            for name, windows in zip(names, texts):
                for window in windows:
                    found[name].append(tracer.window(window, skip))
                    done += 1
                    progress(f"tracing: {name}, window {done} of {n}", done / n)
        except KeyboardInterrupt:
            if not done:
                raise
    return joined(found, shape.n_experts, tracer.routed), done == n


def text_names(paths: Sequence[Path]) -> list[str]:
    """The files' names; where two are called alike, their whole paths."""
    names = [path.name for path in paths]
    found = names if len(set(names)) == len(names) else [str(path) for path in paths]
    if len(set(found)) < len(found):
        raise UsageError("a text is given twice: name each --text once")
    return found


def _tell(found: Report, json_file: Path | None) -> None:
    if json_file:
        with writing(json_file):
            json_file.write_text(json.dumps(asdict(found), indent=1) + "\n")
    print("\n".join(report_lines(found)))
