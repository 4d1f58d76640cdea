"""A progress line on stderr for whatever takes longer than a second; silent where nobody watches."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from motley.bench.progress import Progress as Report


@contextmanager
def progress_line() -> Iterator[Report]:
    """Gives `report(what, fraction)`. On a terminal one line that is redrawn; in a log a line per new thing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, fraction: bar.update(task, description=what, completed=fraction)


def _lines(console: Console) -> Report:
    said = ""

    def report(what: str, fraction: float) -> None:
        nonlocal said
        subject = what.partition(":")[0]  # "tg64: sample 2 of 5" is one thing
        if subject != said:
            said = subject
            console.print(f"[{fraction:4.0%}] {subject}", markup=False, highlight=False)

    return report
