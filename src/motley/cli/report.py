"""`motley report`: what past benches found. The list, some of them side by side, or one in full and as a page."""

import argparse
from pathlib import Path

from rich.console import Console

from motley.bench.report.page import write_report
from motley.bench.result import Result, load_result, to_json
from motley.bench.store import Store
from motley.bench.table import list_view, result_view, side_by_side
from motley.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        nargs="*",
        metavar="RESULT",
        help="ids from the list, or files that `motley bench --json` wrote; one: in full, several: side by side",
    )
    parser.add_argument("--model", metavar="NAME", help="list only this model's results")
    parser.add_argument("--last", type=int, default=20, metavar="N", help="length of the list; default: %(default)s")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page of one result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one result as JSON")


def run(args: argparse.Namespace) -> int:
    store, console = Store(), Console(highlight=False)
    if not args.results:
        if args.html or args.json:
            raise UsageError("--html and --json need one RESULT: an id from `motley report`, or a file")
        console.print(list_view(store.rows(args.model, args.last)))
        return 0
    found = [(name, _find(store, name)) for name in args.results]
    if len(found) == 1:
        return _one(found[0][1], args, console)
    if args.html or args.json:
        raise UsageError("--html and --json take one RESULT")
    console.print(side_by_side([(Path(name).name, result) for name, result in found]))
    return 0


def _find(store: Store, name: str) -> Result:
    return store.get(int(name)) if name.isdecimal() else load_result(Path(name))


def _one(result: Result, args: argparse.Namespace, console: Console) -> int:
    console.print(result_view(result))
    for path, write in ((args.html, write_report), (args.json, lambda r, p: p.write_bytes(to_json(r)))):
        if path:
            write(result, path)
            console.print(f"wrote {path}")
    return 0
