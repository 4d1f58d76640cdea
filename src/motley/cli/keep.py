"""Keeping a bench's result: a place that can't be written loses neither the other places nor, ever, the result."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from motley.bench.report.page import write_report
from motley.bench.result import Result, to_json
from motley.bench.store import Store
from motley.errors import MotleyError


def keep(result: Result, json_file: Path | None, page: Path | None) -> tuple[list[str], list[str]]:
    """Write the JSON if asked for, the store and the page (without `page`: beside the store), each for itself.

    Returns sentences: what was kept where, and what could not be. JSON that found no place goes to a new file in the
    system's temporary folder."""
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

    if json_file:
        attempt(str(json_file), lambda: json_file.write_bytes(to_json(result)))
    if attempt(f"the entry in {store.path}", lambda: numbers.append(store.save(result))):
        kept.append(f"Kept as result {numbers[0]} in {store.path}")
        page = page or store.path.parent / f"report-{numbers[0]}.html"
    elif json_file is None or len(lost) == 2:
        with tempfile.NamedTemporaryFile(prefix="motley-result-", suffix=".json", delete=False) as file:
            file.write(to_json(result))
        kept.append(f"Kept in {file.name}: `motley report {file.name}` shows it")
    if page and attempt(f"the report {page}", lambda: write_report(result, page)):
        kept.append(f"Report: {page}")
    return kept, lost
