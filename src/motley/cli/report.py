"""`motley report`: past benchmark results, one by one or side by side."""

import argparse
from pathlib import Path

from rich.console import Console

from motley.bench.report.page import write_report
from motley.bench.result import Result, load_result
from motley.bench.store import Store
from motley.bench.table import list_view, result_view, side_by_side
from motley.cli.options import output_file, positive, writing
from motley.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="*", metavar="ID_OR_FILE", help="one: in full, several: side by side")
    parser.add_argument("--model", metavar="NAME", help="list only this model's")
    parser.add_argument("--limit", type=positive, default=20, help="list at most so many (default: %(default)s)")
    parser.add_argument("--html", type=output_file, metavar="FILE", help="write one result as a page")


def run(args: argparse.Namespace) -> int:
    console, store = Console(), Store()
    found = [(name, _read(name, store)) for name in args.results]
    if args.html and len(found) != 1:
        raise UsageError("--html writes one result: name its id or its JSON file")
    if not found:
        console.print(list_view(store.rows(args.model, args.limit)))
    elif len(found) == 1:
        console.print(result_view(found[0][1]))
    else:
        console.print(side_by_side(found))
    if args.html:
        with writing(args.html):
            write_report(found[0][1], args.html)
        console.print(f"report: {args.html}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _read(name: str, store: Store) -> Result:
    if name.isdecimal():
        return store.get(int(name))
    return load_result(Path(name))
