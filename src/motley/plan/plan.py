"""Plan: a placement with its predicted speed, the reason for it, and what else was considered."""

from collections.abc import Sequence
from dataclasses import dataclass

from motley.lab.placement import Placement
from motley.plan.objective import Objective
from motley.predict.predict import Prediction


@dataclass(frozen=True)
class Alternative:
    """A simpler arrangement, priced alike. Without a speed it does not fit: `missing_bytes` says by how much."""

    name: str
    tokens_per_s: float | None
    missing_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    placement: Placement
    prediction: Prediction
    reason: list[str]
    stored: frozenset[str]  # devices that leave their weights as the file has them
    alternatives: tuple[Alternative, ...]  # fastest first, then those that do not fit
    objective: Objective
    predictions: tuple[Prediction, ...]  # of each part of the objective; the first is `prediction`

    @property
    def seconds(self) -> tuple[float, float, float]:
        """The objective's steps together: p10, p50, p90."""
        return seconds_of(self.objective, self.predictions)


def seconds_of(objective: Objective, predictions: Sequence[Prediction]) -> tuple[float, float, float]:
    """p10, p50, p90 of all its steps. `predictions`: of its parts."""
    steps = [n for _, n in objective.parts]
    seconds = [n * found.ms_per_step / 1e3 for n, found in zip(steps, predictions)]
    fast = sum(s * found.p50 / found.p90 for s, found in zip(seconds, predictions))
    slow = sum(s * found.p50 / found.p10 for s, found in zip(seconds, predictions))
    return fast, sum(seconds), slow
