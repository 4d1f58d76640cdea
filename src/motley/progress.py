"""Progress: how long work tells its watcher what is being done, and how much of the whole is done (0..1).

One shape for everything that takes longer than a second, in process and across nodes."""

from collections.abc import Callable

Progress = Callable[[str, float], None]


def silent(_what: str, _fraction: float) -> None:
    """For those who don't watch."""


def stages(progress: Progress, n: int) -> Callable[[], Progress]:
    """Cut one bar into `n` equal parts, handed out in order."""
    begun = iter(range(n))

    def stage() -> Progress:
        i = next(begun)
        return lambda what, fraction: progress(what, (i + fraction) / n)

    return stage
