"""Suites that were interrupted: what is told about them, and how they go on."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from motley.bench import facts
from motley.bench.journal import Journal, left_over
from motley.errors import UsageError
from motley.lab.lab import Lab

Tell = Callable[[str], None]


def open_journal(suite: str, question: Sequence[object], resume: bool, tell: Tell) -> Journal:
    """With `resume`, the interrupted run's; else a new one, and a word about what the interrupted one had."""
    if resume:
        journal = Journal.resumed(suite, question, facts.now())
        tell(f"Going on with suite {suite}, begun {journal.sessions[0]}: {journal.n_done} tests are measured")
        return journal
    if left := left_over(suite, question):
        tell(
            f"An interrupted run of suite {suite}, begun {left.sessions[0]}, has {len(left.done)} tests: this run "
            "starts anew and will replace it (Ctrl-C now, and --resume goes on with it)"
        )
    return Journal.fresh(suite, question, facts.now())


def require_same_nodes(lab: Lab, there: Collection[str]) -> None:
    """UsageError where the placement that a suite was begun with can't be had any more."""
    if missing := sorted({device.node for device in lab.devices} - set(there)):
        raise UsageError(
            f"the suite was begun with {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not here: "
            "bring them back, or run it without --resume"
        )


@contextmanager
def kept_when_interrupted(journal: Journal, units: int, tell: Tell) -> Iterator[None]:
    """Whatever ends the block early, the user learns what is kept and how to go on."""
    try:
        yield
    except BaseException:
        if journal.path and journal.n_done:
            tell(
                f"{journal.n_done} of {units} tests are kept in {journal.path}: "
                "the same command with --resume goes on with the others"
            )
        raise
