"""Progress on standard error for anything longer than a second."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from motley.progress import Progress

QUIET_S = 1.0


@contextmanager
def shown(console: Console) -> Iterator[Progress]:
    """A bar with words, gone at the end; without a terminal, one line for each new thing that is done. Nothing in the
    first second."""
    bar = Bar(BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True)
    task = bar.add_task("starting", total=1.0)
    began, last = time.monotonic(), ""

    def show(what: str, fraction: float) -> None:
        nonlocal last
        if time.monotonic() < began + QUIET_S:
            return
        bar.update(task, description=what, completed=fraction)
        topic = what.split(":")[0]
        if console.is_terminal:
            bar.start()
        elif topic != last:
            console.print(topic, highlight=False)
        last = topic

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
