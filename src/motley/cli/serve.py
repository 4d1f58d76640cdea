"""`motley serve`: the OpenAI API over a model, on this machine or on nodes, where it goes on when they are lost."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from motley.cli.joined import DEFAULT, add_grow, add_link, add_trusted_lan, joined_session, named_link, require_cluster
from motley.cli.options import (
    MODEL_HELP,
    cache_type,
    memory,
    model_file,
    no_repack,
    not_negative,
    not_with_lab,
    port,
    positive,
    step_tokens,
)
from motley.cli.run import repacked_fits
from motley.cli.session import Seat, Session, local_seats
from motley.cli.show import shown
from motley.engine.assign import devices_of
from motley.engine.engine import Engine
from motley.engine.local import LocalRunner
from motley.engine.survival import Layout, SurvivingEngine
from motley.errors import MotleyError, UsageError
from motley.formats.chat import ChatTemplate
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.tensor import Checkpoint
from motley.formats.tokenizer import Tokenizer
from motley.lab.lab import Lab
from motley.lab.machine import usable_cores
from motley.ops.native import NativeOps
from motley.predict.memory import without_kernels
from motley.predict.predict import predict
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

SLOTS, CONTEXT = 8, 4096
BOARD = "/board"
BESIDE = 64  # tokens of prompts in a step that streams wait for, until their speed is known
KEY = "MOTLEY_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help=MODEL_HELP)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=port, default=8080, help="default: %(default)s; 0 takes a free one")
    parser.add_argument("--name", help="the model's name for clients (default: the file's)")
    parser.add_argument("--slots", type=positive, default=SLOTS, help="sequences at once (default: %(default)s)")
    context = f"tokens of each sequence, prompt and answer (default: {CONTEXT}, or what the model was trained for)"
    parser.add_argument("--context", type=positive, help=context)
    parser.add_argument("--queue", type=not_negative, default=64, help="sequences that may wait (default: %(default)s)")
    key = f"clients must send it (default: {KEY} of the environment); needed where --host is not this machine"
    parser.add_argument("--api-key", metavar="KEY", help=key)
    parser.add_argument("--quiet", action="store_true", help="no line on standard error for each request")
    parser.add_argument("--threads", type=positive, metavar="N", help="of this process (default: most of the cores)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--nodes", type=positive, default=1, metavar="N", help="over so many local nodes (default: 1)")
    where.add_argument("--lab", type=Path, metavar="FILE", help="a lab file: its devices as local nodes, its figures")
    where.add_argument("--cluster", nargs="?", const=DEFAULT, metavar="NAME", help="over the joined nodes of a cluster")
    add_trusted_lan(parser)
    add_link(parser)
    add_grow(parser)
    memory_help = "with --cluster: what this machine gives, e.g. 8GB (default: what is free)"
    parser.add_argument("--memory", type=memory, default=0, metavar="SIZE", help=memory_help)
    board = f"show this board at {BOARD}/, open to whoever reaches the server (`motley board init` makes one)"
    parser.add_argument("--board", type=Path, metavar="FOLDER", help=board)
    cache_type(parser)
    no_repack(parser)
    step_tokens(parser)


def run(args: argparse.Namespace) -> int:
    require_cluster(args, "memory", "trusted_lan", "grow")
    not_with_lab(args, "threads")
    try:
        from starlette.routing import Mount

        from motley.board.board import Board
        from motley.board.web.app import routes as board_routes
        from motley.dashboard.routes import OPEN_PATHS, routes
        from motley.dashboard.view import Shown
        from motley.serve.app import build_app
        from motley.serve.guard import Access, names_of
        from motley.serve.journal import Journal
        from motley.serve.limits import Limits
        from motley.serve.listen import bound, is_loopback, listen
        from motley.serve.service import Served, Service
    except ModuleNotFoundError as error:
        raise UsageError(f"serving needs the package {error.name}: pip install 'motley-moe[serve]'") from None
    key = args.api_key or os.environ.get(KEY, "")
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        raise UsageError("the API key can't be sent in a header: choose one of letters, digits and signs of ASCII")
    here = is_loopback(args.host)
    if not (here or key):
        raise UsageError(f"{args.host} can be reached by others: give an --api-key (or {KEY}), or keep to 127.0.0.1")
    path = model_file(args.model)
    if path.is_dir() and not (path / "tokenizer.json").is_file():
        raise UsageError(f"{path} has no tokenizer.json, which text needs: download it too")
    checkpoint = open_checkpoint(path)
    for note in checkpoint.notes:
        print(f"note: {note}", file=sys.stderr)
    shape = shape_of(checkpoint).with_cache(args.cache_type)
    context = args.context or min(CONTEXT, shape.context)
    if context > shape.context:
        raise UsageError(f"--context {context} exceeds the {shape.context} that {shape.name} was trained for")
    served = Served(
        args.name or path.name.removesuffix(".gguf"),
        Tokenizer.from_metadata(checkpoint.metadata),
        ChatTemplate.from_metadata(checkpoint.metadata),
        shape.vocab_size,
    )
    board = [Mount(BOARD, routes=board_routes(Board(args.board)))] if args.board else []
    open_paths = Access().open_paths | OPEN_PATHS | ({f"{BOARD}/"} if board else set())
    hosts = names_of(args.host, keyed=bool(key) and not board) if here else None
    access = Access(frozenset([key] if key else []), hosts, open_paths, f"{BOARD}/" if board else "")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    told = Told()
    with bound(args.host, args.port) as sock, _engine(args, path, checkpoint, shape, context, told) as (engine, placed):
        journal = Journal(None if args.quiet else sys.stderr)
        service = Service(served, engine, Limits(queue=args.queue), shape, placed, journal)
        told.to(lambda text: service.state.note("node", text))
        host, number = sock.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{number}"
        print(
            f"{served.name} is served at {address}/v1, its page at {address}/; Ctrl-C ends it",
            file=sys.stderr,
            flush=True,
        )
        page = routes(Shown(str(path), shape, context, args.slots, placed, args.step_tokens), board=bool(board))
        listen(build_app(service, access, [*page, *board]), sock, service.leave)
    return 0


class Told:
    """What becomes of the nodes: to standard error, and to whoever wants to know from some time on."""

    def __init__(self) -> None:
        self._also: Callable[[str], None] = lambda text: None

    def to(self, also: Callable[[str], None]) -> None:
        self._also = also

    def __call__(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        self._also(text)


@contextmanager
def _engine(
    args: argparse.Namespace, path: Path, checkpoint: Checkpoint, shape: ModelShape, context: int, tell: Told
) -> Iterator[tuple[Engine, Callable[[], Any]]]:
    """The engine, and what says where the model is now (a `serve.state.Placed`, or None on one device)."""
    for sentence in without_kernels(shape, args.repack):
        print(sentence, file=sys.stderr, flush=True)
    if args.nodes == 1 and not (args.lab or args.cluster):
        repack = args.repack and repacked_fits(shape, context * args.slots, args.step_tokens)
        with shown(Console(stderr=True)) as progress:
            ops = NativeOps(threads=args.threads or usable_cores())
            runner = LocalRunner(
                checkpoint,
                ops,
                n_slots=args.slots,
                context=context,
                cache=shape.cache,
                repack=repack,
                progress=progress,
            )
        try:
            yield Engine(runner, args.step_tokens, BESIDE), lambda: None
        finally:
            runner.close()
        return
    given = Lab.load(args.lab) if args.lab else None
    with _session(args, given, shape, context) as session:
        print(f"nodes: {session.processes()}; measuring them", file=sys.stderr, flush=True)
        lab = given or session.probe()
        with session.surviving(
            str(path),
            lab,
            shape,
            slots=args.slots,
            context=context,
            step_tokens=args.step_tokens,
            repack=args.repack,
            grow=args.grow,
            tell=tell,
        ) as engine:
            print(f"the model is on {', '.join(engine.used)}", file=sys.stderr, flush=True)
            engine.beside = BESIDE
            yield engine, _where(engine, session, shape, Workload(batch=args.slots, chunk=args.step_tokens))


def _where(engine: SurvivingEngine, session: Session, shape: ModelShape, workload: Workload) -> Callable[[], Any]:
    """What the engine's layout of the moment means; its load may be under way."""
    from motley.serve.state import Placed

    head = session.own.name

    def of(layout: Layout) -> Placed:
        used, lab = devices_of(layout.placement), session.lab
        there = lab.subset({*used, head})  # the head drives the steps, though it may hold nothing
        try:
            prediction = predict(shape, there, layout.placement, workload, head=head)
        except MotleyError:  # the lab's figures may allow less than the nodes did
            prediction = None
        return Placed(lab, layout.placement, prediction, tuple(used), head, layout.stored)

    last = engine.layout, of(engine.layout)

    def where() -> Placed:
        nonlocal last
        if (layout := engine.layout) is not last[0]:
            last = layout, of(layout)
        return last[1]

    return where


def _session(args: argparse.Namespace, given: Lab | None, shape: ModelShape, context: int) -> Session:
    if args.cluster:
        return joined_session(args, args.threads or usable_cores())
    if given:
        return Session.local([Seat(d.name, d.threads, d.memory_bytes) for d in given.devices], named_link(args))
    seats = local_seats(
        args.nodes, usable_cores(), shape, context, args.slots, args.threads, step_tokens=args.step_tokens
    )
    return Session.local(seats, named_link(args))
