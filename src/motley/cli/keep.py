"""Keeping a bench's result: a place that can't be written loses neither the other places nor, ever, the result."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from motley.bench.export import csv_text
from motley.bench.markdown import markdown
from motley.bench.report.page import write_report
from motley.bench.result import to_json
from motley.bench.served import AnyResult
from motley.bench.store import Store
from motley.errors import MotleyError


@dataclass(frozen=True)
class Places:
    """Files that were asked for; without `page` the report lies beside the store."""

    json: Path | None = None
    page: Path | None = None
    csv: Path | None = None
    markdown: Path | None = None


def keep(result: AnyResult, places: Places) -> tuple[list[str], list[str]]:
    """Write what was asked for, the store and the page, each for itself.

    Returns sentences: what was kept where, and what could not be. A result that found no place as JSON goes to a new
    file in the system's temporary folder."""
    kept: list[str] = []
    lost: list[str] = []
    store = Store()
    numbers: list[int] = []

    def attempt(what: str, write: Callable[[], object]) -> bool:
        try:
            write()
        except (OSError, MotleyError) as error:
            lost.append(f"{what} was not written: {error}")
            return False
        return True

    written = False
    if file := places.json:
        written = attempt(str(file), lambda: file.write_bytes(to_json(result)))
    if table := places.csv:
        attempt(str(table), lambda: table.write_text(csv_text(result), encoding="utf-8", newline=""))
    if block := places.markdown:
        attempt(str(block), lambda: block.write_text(markdown(result), encoding="utf-8"))
    page = places.page
    if attempt(f"the entry in {store.path}", lambda: numbers.append(store.save(result))):
        kept.append(f"Kept as result {numbers[0]} in {store.path}")
        page = page or store.path.parent / f"report-{numbers[0]}.html"
    elif not written:
        with tempfile.NamedTemporaryFile(prefix="motley-result-", suffix=".json", delete=False) as spare:
            spare.write(to_json(result))
        kept.append(f"Kept in {spare.name}: `motley report {spare.name}` shows it")
    if page and attempt(f"the report {page}", lambda: write_report(result, page)):
        kept.append(f"Report: {page}")
    return kept, lost
