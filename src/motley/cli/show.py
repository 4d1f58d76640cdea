"""Progress on standard error for anything longer than a second."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def shown(console: Console) -> Iterator[Callable[[str, float], None]]:
    """A bar with words, gone at the end; without a terminal, one line for each new thing that is done.

    Yields (what is being done, how much of the whole is done: 0..1)."""
    bar = Progress(BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True)
    task = bar.add_task("starting", total=1.0)
    last = ""

    def show(what: str, fraction: float) -> None:
        nonlocal last
        bar.update(task, description=what, completed=fraction)
        topic = what.split(":")[0]
        if not console.is_terminal and topic != last:
            console.print(topic, highlight=False)
        last = topic

    if not console.is_terminal:
        yield show
        return
    with bar:
        yield show
