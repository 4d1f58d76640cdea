"""`motley report`: past benchmark results, one by one or side by side; one as a page, or as a block to paste."""

import argparse
from pathlib import Path

from rich.console import Console

from motley.bench.export import csv_text
from motley.bench.markdown import markdown
from motley.bench.report.page import write_report
from motley.bench.served import AnyResult, load_any
from motley.bench.store import Store
from motley.bench.table import list_view, side_by_side, view
from motley.cli.options import output_file, positive, writing
from motley.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="*", metavar="ID_OR_FILE", help="one: in full, several: side by side")
    parser.add_argument("--model", metavar="NAME", help="list only this model's")
    parser.add_argument("--limit", type=positive, default=20, help="list at most so many (default: %(default)s)")
    parser.add_argument("--html", type=output_file, metavar="FILE", help="write one result as a page")
    parser.add_argument("--markdown", action="store_true", help="print one result as a block to paste in a post")
    parser.add_argument("--csv", action="store_true", help="print one result as rows for a spreadsheet")


def run(args: argparse.Namespace) -> int:
    store = Store()
    found = [(name, _read(name, store)) for name in args.results]
    form = next((f"--{name}" for name in ("html", "markdown", "csv") if getattr(args, name)), None)
    if form and len(found) != 1:
        raise UsageError(f"{form} takes one result: name its id or its JSON file")
    if args.markdown or args.csv:  # for other programs: as they are, whatever the terminal's width
        print(markdown(found[0][1]) if args.markdown else csv_text(found[0][1]), end="")
    else:
        _show(found, args, store)
    if args.html:
        with writing(args.html):
            write_report(found[0][1], args.html)
        Console(stderr=True).print(f"report: {args.html}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _show(found: list[tuple[str, AnyResult]], args: argparse.Namespace, store: Store) -> None:
    console = Console()
    if not found:
        console.print(list_view(store.rows(args.model, args.limit)))
    elif len(found) == 1:
        console.print(view(found[0][1]))
    else:
        console.print(side_by_side(found))


def _read(name: str, store: Store) -> AnyResult:
    if name.isdecimal():
        return store.get(int(name))
    return load_any(Path(name))
