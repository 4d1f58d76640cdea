"""`motley board`: host a board where people ask for benchmarks: see docs/board.md."""

import argparse
from pathlib import Path

from motley.bench.folders import data_folder
from motley.cli.joined import DEFAULT, add_trusted_lan
from motley.cli.options import memory, not_negative, port, positive

ACTIONS = {
    "init": "make a board: measure this machine, write what is allowed into board.toml",
    "serve": "show it as web pages and take requests",
    "run": "work through the queue",
    "list": "list the requests, those that run next first",
    "show": "one request in full",
    "ask": "file a request",
    "vote": "vote for a request",
    "approve": "show what waits for approval",
    "hide": "no longer show a request or a result",
    "retry": "try a refused request again, or measure one anew",
    "submit": "add a result that `motley bench --json` wrote",
    "export": "write the board as a static site",
}
_TESTS = (
    ("pp", not_negative, 512, "prompt tokens"),
    ("tg", not_negative, 64, "tokens to generate"),
    ("depth", not_negative, 0, "tokens of context before"),
    ("batch", positive, 1, "sequences at once"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        action.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        _add(name, action)
        folder = "of the board (default: board in the data folder)"
        action.add_argument("--board", type=Path, metavar="FOLDER", help=folder)


def _add(name: str, action: argparse.ArgumentParser) -> None:
    match name:
        case "init":
            where = action.add_mutually_exclusive_group()
            where.add_argument("--lab", type=Path, metavar="FILE", help="take these figures instead of measuring")
            where.add_argument("--nodes", type=positive, default=1, help="local nodes (default: %(default)s)")
            joined = "measure, and run on, the joined nodes of a cluster"
            where.add_argument("--cluster", nargs="?", const=DEFAULT, metavar="NAME", help=joined)
            add_trusted_lan(action)
            size = "of this machine, for models (default: what is free)"
            action.add_argument("--memory", type=memory, default=0, metavar="SIZE", help=size)
            action.add_argument("--title", default="Motley board", help="of the pages (default: %(default)s)")
        case "serve":
            action.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
            action.add_argument("--port", type=port, default=8477, help="0: a free one (default: %(default)s)")
            action.add_argument("--run", action="store_true", help="work through the queue, too, beside the pages")
        case "run":
            how = action.add_mutually_exclusive_group()
            how.add_argument("--once", action="store_true", help="the first of the queue only")
            how.add_argument("--watch", action="store_true", help="wait for more when the queue is empty")
        case "ask":
            model = "of the catalogue, or a file's name in the host's folders (default: the bundled model)"
            action.add_argument("model", nargs="?", default="", metavar="MODEL", help=model)
            action.add_argument("--quant", default="", metavar="Q", help="(default: the file's own, or q4_k)")
            for test, kind, usual, what in _TESTS:
                told = f"{what} (default: %(default)s)"
                action.add_argument(f"--{test}", type=kind, default=usual, metavar="N", help=told)
            other = "other than this host's, predicted only: a name or shorthand"
            action.add_argument("--hardware", default="", metavar="LAB", help=other)
            action.add_argument("--note", default="", help="for everyone to read")
        case "show" | "vote" | "retry":
            action.add_argument("id", metavar="ID", help="of the request")
        case "approve" | "hide":
            action.add_argument("ids", nargs="+", metavar="ID", help="of requests (3) or results (r3)")
        case "submit":
            action.add_argument("file", type=Path, metavar="FILE", help="the JSON")
            action.add_argument("--note", default="", help="for everyone to read")
        case "export":
            action.add_argument("folder", type=Path, metavar="FOLDER", help="made where it is not there")


def run(args: argparse.Namespace) -> int:
    from motley.cli import board_actions

    args.board = args.board or data_folder() / "board"
    board_actions.ACTIONS[args.action](args)
    return 0
