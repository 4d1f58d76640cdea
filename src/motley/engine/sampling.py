"""Sampling: from one row of logits to one token. Pure: (logits, history, settings, step) -> token.

The random number of a step comes from (seed, step) alone, so the same seed gives the same tokens whatever else is in
the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motley.errors import MotleyError, UsageError


@dataclass(frozen=True)
class Sampling:
    """temperature 0: greedy, the lowest id among equals. top_k 0, top_p 1, min_p 0, repetition_penalty 1: off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "temperature": (0 <= self.temperature < math.inf, "0 or more, and finite"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "repetition_penalty": (1e-3 <= self.repetition_penalty <= 1e3, "between 0.001 and 1000 (1 is off)"),
            "seed": (0 <= self.seed < 2**64, "a non-negative 64-bit integer"),
        }
        for name, (fine, accepted) in checks.items():
            if not fine:  # a NaN is never fine
                raise UsageError(f"{name} = {getattr(self, name)!r} must be {accepted}")


def sample(logits: NDArray[np.float32], history: Sequence[int], settings: Sampling, step: int) -> int:
    """logits [V]; `history`: the sequence's tokens so far; `step`: how many tokens were sampled before this one.

    MotleyError where no choice can be honest: a logit is NaN, or the largest is infinite."""
    if not np.isfinite(logits.max()):  # a NaN anywhere makes the maximum NaN
        raise MotleyError(
            f"the model's logits hold {int(np.isnan(logits).sum())} NaN and {int(np.isinf(logits).sum())} infinite of "
            f"{len(logits)} after {len(history)} tokens: its weights are damaged, or its numbers overflowed; "
            "check the file, or try another quantisation of it"
        )
    if settings.repetition_penalty != 1.0 and len(history):
        logits = _penalise(logits, history, settings.repetition_penalty)
    if settings.temperature == 0.0:
        return int(np.argmax(logits))
    order = np.argsort(-logits, kind="stable")  # most likely first
    if settings.top_k:
        order = order[: settings.top_k]
    with np.errstate(over="ignore"):  # a tiny temperature: minus infinity is right
        odds = np.exp((logits[order].astype(np.float64) - logits[order[0]]) / settings.temperature)
    keep = _nucleus(odds / odds.sum(), settings)
    odds = odds[:keep]
    uniform = np.random.Generator(np.random.Philox(key=np.array([settings.seed, step], np.uint64))).random()
    return int(order[np.searchsorted(np.cumsum(odds), uniform * odds.sum(), side="right").clip(0, keep - 1)])


def _penalise(logits: NDArray[np.float32], history: Sequence[int], penalty: float) -> NDArray[np.float32]:
    """Seen tokens' logits are divided (if positive) or multiplied by the penalty, as CTRL (2019) proposed."""
    seen = np.unique(np.asarray(history, np.int64))
    logits = logits.copy()
    logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    return logits


def _nucleus(probabilities: NDArray[np.float64], settings: Sampling) -> int:
    """How many of the sorted candidates stay: the smallest set reaching top_p, none below min_p of the best."""
    keep = len(probabilities)
    if settings.top_p < 1:
        keep = int(np.searchsorted(np.cumsum(probabilities), settings.top_p)) + 1
    if settings.min_p > 0:
        keep = min(keep, int(np.count_nonzero(probabilities >= settings.min_p * probabilities[0])))
    return max(1, min(keep, len(probabilities)))
