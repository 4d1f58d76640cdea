"""The states of a request, and which may follow which. Whether it is shown to others is another matter: `Shown`."""

from enum import StrEnum

from motley.errors import UsageError


class State(StrEnum):
    ASKED = "asked"  # filed; its prediction is not there yet
    PREDICTED = "predicted"  # and that is all it gets here: the reason says why
    QUEUED = "queued"
    RUNNING = "running"
    MEASURED = "measured"
    REFUSED = "refused"  # the reason says why


class Shown(StrEnum):
    WAITING = "waiting"  # for the host's approval
    SHOWN = "shown"
    HIDDEN = "hidden"


MAY_FOLLOW: dict[State, frozenset[State]] = {
    State.ASKED: frozenset({State.PREDICTED, State.REFUSED}),
    State.PREDICTED: frozenset({State.QUEUED, State.REFUSED}),
    State.QUEUED: frozenset({State.RUNNING, State.PREDICTED, State.REFUSED}),
    State.RUNNING: frozenset({State.MEASURED, State.QUEUED, State.REFUSED}),
    State.MEASURED: frozenset({State.QUEUED}),  # the host measures anew
    State.REFUSED: frozenset({State.ASKED}),  # the host's limits or files have changed
}


def require_move(before: State, after: State) -> None:
    if after not in MAY_FOLLOW[before]:
        known = " or ".join(sorted(MAY_FOLLOW[before]))
        raise UsageError(f"a request that is {before} can't become {after}: only {known}")
