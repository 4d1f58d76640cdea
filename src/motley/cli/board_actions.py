"""What each action of `motley board` does."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from motley.board.ask import Ask, from_values, line
from motley.board.board import Board, make_admin_token
from motley.board.runner import Runner
from motley.board.settings import MOST_TITLE
from motley.board.states import Shown
from motley.board.store import Filter, Request
from motley.board.views import flags, request_view
from motley.cli.joined import cluster_named, joined_session, require_cluster
from motley.cli.session import Seat, Session
from motley.errors import UsageError
from motley.lab.lab import Lab
from motley.lab.machine import usable_cores
from motley.predict.show import number

SETTINGS = """# What this board's host allows. Left out: the values that stand here. docs/board.md explains each.
title = {title}
lab = "lab.toml"        # measured by `motley board init`; `motley probe -o lab.toml` measures again
cluster = {cluster}            # name of a joined cluster to run on; empty: local nodes as in the lab
trusted_lan = {trusted_lan}     # its activations cross in the clear, as its nodes were started
repeat = 5              # samples a test

[limits]
model_gb = 16           # of weights, 1e9 bytes
minutes = 30            # of one run
tokens = 8192           # of one sequence
sequences = 16          # at once
attempts = 2            # at a run that ends without a result
hours = ""              # "22:00-06:00": runs start only then, local time

[models]
bundled = true
synthetic = true        # random weights of catalogue shapes, written on this machine
folders = []            # of GGUF files or Hugging Face folders that may be run
downloads = []          # exactly these may be fetched, such as "hf:owner/name:FILE.gguf"; nothing else ever is

[public]
moderated = true        # what others file is shown after `motley board approve`
behind_proxy = false    # one proxy in front adds X-Forwarded-For
asks_per_hour = 12      # of one address
votes_per_hour = 60
results_per_hour = 12
pages_per_minute = 240
most_open = 500         # requests and results that wait
result_mb = 4           # of a submitted result
"""


def init(args: argparse.Namespace) -> None:
    folder: Path = args.board
    if (folder / "board.toml").exists():
        raise UsageError(f"there is a board at {folder}: edit its board.toml")
    require_cluster(args, "trusted_lan")
    title = line(args.title).replace("\\", "").replace('"', "'")
    if not 1 <= len(title) <= MOST_TITLE:
        raise UsageError(f"--title: give it 1 to {MOST_TITLE} characters that are seen")
    if args.lab:
        lab = Lab.load(args.lab)
    else:
        print(f"measuring {'the cluster' if args.cluster else 'this machine'}, about 10 s a node", file=sys.stderr)
        with _session(args) as session:
            lab = session.probe()
    cluster = cluster_named(args) if args.cluster else ""
    folder.mkdir(parents=True, exist_ok=True)
    lab.save(folder / "lab.toml")
    make_admin_token(folder)
    text = SETTINGS.format(title=f'"{title}"', cluster=f'"{cluster}"', trusted_lan=str(args.trusted_lan).lower())
    (folder / "board.toml").write_text(text, encoding="utf-8")
    Board(folder)
    print(f"The board is in {folder}; board.toml there says what is allowed.\n\n    motley board serve --run\n")


def _session(args: argparse.Namespace) -> Session:
    if args.cluster:
        return joined_session(args, usable_cores())
    threads = max(1, usable_cores() // args.nodes)
    return Session.local([Seat(f"node{i}", threads, args.memory // args.nodes) for i in range(args.nodes)])


def run(args: argparse.Namespace) -> None:
    runner = Runner(Board(args.board), lambda words: print(words, flush=True))
    if args.once:
        runner.once()
        return
    n = runner.work(watch=args.watch)
    print(f"{n} measured; nothing more to run")


def ask(args: argparse.Namespace) -> None:
    board = Board(args.board)
    asked = from_values({name: getattr(args, name) for name in Ask.__struct_fields__})
    id, new = board.ask(asked)
    print("" if new else "It was asked for before: you voted for it.\n", end="")
    _print(board, id)


def list_(args: argparse.Namespace) -> None:
    board = Board(args.board)
    table = Table(box=None, header_style="bold")
    for name in ("id", "state", "votes", "model", "quant", "tests", "predicted", "measured", "hardware"):
        table.add_column(name, no_wrap=name != "hardware", max_width=30 if name == "hardware" else None)
    for request in board.store.requests(Filter(shown=tuple(Shown))):
        state = request.state if request.shown is Shown.SHOWN else f"{request.state}, {request.shown}"
        told = [number(speed.p50) for speed in request.forecast.speeds] if request.forecast else []
        cells = [request.model, request.quant, names_of_tests(request, "\n"), "\n".join(told)]
        cells += ["\n".join(measured(board, request)), request.hardware or "here"]
        table.add_row(str(request.id), state, str(request.votes), *map(escape, cells))
    Console().print(table)
    for kept in board.store.results(elsewhere=True, shown=tuple(Shown)):
        print(
            f"r{kept.id}  {kept.shown}: {kept.model} {kept.quant}, submitted {kept.at[:10]}"
            + "".join(f"; {f}" for f in flags(kept.json))
        )


def show(args: argparse.Namespace) -> None:
    _print(Board(args.board), _number(args.id))


def vote(args: argparse.Namespace) -> None:
    new = Board(args.board).store.vote(_number(args.id), "host")
    print("voted" if new else "you had voted for it")


def approve(args: argparse.Namespace) -> None:
    _show(args, Shown.SHOWN)


def hide(args: argparse.Namespace) -> None:
    _show(args, Shown.HIDDEN)


def _show(args: argparse.Namespace, shown: Shown) -> None:
    board = Board(args.board)
    for text in args.ids:
        board.store.show("result" if text.startswith("r") else "request", _number(text.removeprefix("r")), shown)
        print(f"{text}: {shown}")


def retry(args: argparse.Namespace) -> None:
    board = Board(args.board)
    board.retry(_number(args.id))
    _print(board, _number(args.id))


def submit(args: argparse.Namespace) -> None:
    try:
        data = args.file.read_bytes()
    except OSError as error:
        raise UsageError(f"{args.file}: can't be read: {error.strerror}") from None
    board = Board(args.board)
    id, new = board.submit(data, args.note)
    print(f"r{id}" if new else f"r{id}: it was there already")
    for flag in flags(board.store.result(id).json):
        print(f"flagged: {flag}")


def serve(args: argparse.Namespace) -> None:
    from motley.board.web.serve import serve as serve_pages

    serve_pages(Board(args.board), args.host, args.port, also_run=args.run)


def export(args: argparse.Namespace) -> None:
    from motley.board.export import export as write_site

    n = write_site(Board(args.board), args.folder)
    print(f"{n} files in {args.folder}")


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 12:
        raise UsageError(f"{text[:20]!r} is no id: `motley board list` shows them")
    return int(text)


def names_of_tests(request: Request, between: str = ", ") -> str:
    if request.forecast is None:
        return f"pp{request.pp}{between}tg{request.tg}"
    return between.join(speed.test for speed in request.forecast.speeds)


def predicted(request: Request) -> str:
    if request.forecast is None:
        return "-"
    return ", ".join(f"{number(s.p50)} ({number(s.p10)}-{number(s.p90)})" for s in request.forecast.speeds)


def measured(board: Board, request: Request) -> list[str]:
    """Empty, too, where the host hid the measurement."""
    result = request_view(board, request).result
    return [number(test.tokens_per_s.median) for test in result.results] if result else []


def _print(board: Board, id: int) -> None:
    request = board.store.get(id)
    print(f"request {id}: {request.model} {request.quant} on {request.hardware or 'this host'}: {request.state}")
    for name, words in (("why", request.reason), ("tests", names_of_tests(request)), ("predicted", predicted(request))):
        if words:
            print(f"  {name}: {words}")
    if found := measured(board, request):
        print(f"  measured: {', '.join(found)}")
    print(f"  votes: {request.votes}")
    for event in board.store.events(id):
        print(f"  {event.at} {event.state} {event.words}".rstrip())


ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "init": init,
    "serve": serve,
    "run": run,
    "list": list_,
    "show": show,
    "ask": ask,
    "vote": vote,
    "approve": approve,
    "hide": hide,
    "retry": retry,
    "submit": submit,
    "export": export,
}
