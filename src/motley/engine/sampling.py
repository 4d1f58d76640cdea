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

FIRST_SORTED = 128  # candidates


@dataclass(frozen=True)
class Sampling:
    """temperature 0: greedy, the lowest id among equals. top_k 0, top_p 1, min_p 0, repetition_penalty 1, presence and
    frequency penalty 0: off. These two count what was sampled, not the prompt, as OpenAI's API describes them."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def cuts(self) -> bool:
        """Whether unlikely tokens are left out by their odds."""
        return self.top_p < 1 or self.min_p > 0

    @property
    def looks_back(self) -> bool:
        """Whether it matters which tokens came before."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    def __post_init__(self) -> None:
        checks = {
            "temperature": (0 <= self.temperature < math.inf, "0 or more, and finite"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "repetition_penalty": (1e-3 <= self.repetition_penalty <= 1e3, "between 0.001 and 1000 (1 is off)"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "between -2 and 2 (0 is off)"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "between -2 and 2 (0 is off)"),
            "seed": (0 <= self.seed < 2**64, "a non-negative 64-bit integer"),
        }
        for name, (fine, accepted) in checks.items():
            if not fine:  # a NaN is never fine
                raise UsageError(f"{name} = {getattr(self, name)!r} must be {accepted}")


def sample(logits: NDArray[np.float32], history: Sequence[int], settings: Sampling, step: int) -> int:
    """logits [V]; `history`: the sequence's tokens so far (any, where `settings` don't look back); `step`: how many
    tokens were sampled before this one.

    MotleyError where no choice can be honest: a logit is NaN, or the largest is infinite."""
    best = int(logits.argmax())
    if not math.isfinite(logits[best]):  # a NaN anywhere is what argmax finds
        raise MotleyError(
            f"the model's logits hold {int(np.isnan(logits).sum())} NaN and {int(np.isinf(logits).sum())} infinite of "
            f"{len(logits)} after {step} tokens of the answer: its weights are damaged, or its numbers overflowed; "
            "check the file, or try another quantisation of it"
        )
    if settings.repetition_penalty != 1.0 and len(history):
        logits = _penalise(logits, history, settings.repetition_penalty)
    if (settings.presence_penalty or settings.frequency_penalty) and step:
        logits = _count_against(logits, history[len(history) - step :], settings)
    if settings.temperature == 0.0:
        return int(logits.argmax()) if settings.looks_back else best
    return _drawn(logits, settings, _uniform(settings.seed, step))


def _drawn(logits: NDArray[np.float32], settings: Sampling, uniform: float) -> int:
    """The token at which the odds of the candidates that stay, summed from the likeliest down, exceed `uniform` of all
    of theirs. Only as many are sorted as that takes: of a large vocabulary hardly ever more than the first few."""
    possible = logits > -np.inf
    if not possible.all():  # a grammar may leave fewer than the first few: then all that it forbids would be sorted
        ids = np.flatnonzero(possible)
        return int(ids[_drawn(logits[ids], settings, uniform)])
    n = min(settings.top_k or len(logits), len(logits))
    size, total = n, 0.0
    if not settings.top_k:
        size, total = min(FIRST_SORTED, n), _total(logits, settings.temperature)
    while True:
        order = _likeliest(logits, size)
        odds = _odds(logits[order], logits[order[0]], settings.temperature)
        sums = np.cumsum(odds)
        total = float(sums[-1]) if size == n else total
        keep = _kept(odds, sums, total, settings)
        if keep or size == n or not settings.cuts:
            keep = keep or size
            at = int(np.searchsorted(sums[:keep], uniform * float(sums[keep - 1] if settings.cuts else total), "right"))
            if at < keep or size == n or settings.cuts:
                return int(order[min(at, keep - 1, int(np.count_nonzero(odds)) - 1)])  # never what is impossible
        size = min(16 * size, n)


def _kept(odds: NDArray[np.float64], sums: NDArray[np.float64], total: float, settings: Sampling) -> int:
    """How many stay: the smallest set whose share of the total reaches top_p, none below min_p of the best. 0: what
    ends it is not among these."""
    keep = len(odds) + 1
    if settings.top_p < 1:
        keep = min(keep, int(np.searchsorted(sums, settings.top_p * total)) + 1)
    if settings.min_p > 0 and (above := int(np.count_nonzero(odds >= settings.min_p * odds[0]))) < len(odds):
        keep = min(keep, max(1, above))
    return keep if keep <= len(odds) else 0


def _likeliest(logits: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """The `n` ids of the largest logits, from the top; the lower id first among equals."""
    if n < len(logits):
        least = np.partition(logits, len(logits) - n)[len(logits) - n]
        ids = np.flatnonzero(logits >= least)
    else:
        ids = np.arange(len(logits))
    return np.asarray(ids[np.argsort(-logits[ids], kind="stable")][:n], np.int64)


def _odds(logits: NDArray[np.float32], largest: np.float32, temperature: float) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # a tiny temperature: minus infinity is right
        return np.asarray(np.exp((logits.astype(np.float64) - largest) / temperature), np.float64)


def _total(logits: NDArray[np.float32], temperature: float) -> float:
    """The sum of all odds. In float32, a tenth of float64's time: what it is off, 1e-7, moves no odds that count."""
    odds = np.exp((logits - logits.max()) / np.float32(max(temperature, 1e-30)))
    return float(odds.sum(dtype=np.float64))


_MASK = 2**64 - 1


def _uniform(seed: int, step: int) -> float:
    """In [0, 1), by SplitMix64's mixing (Steele, Lea and Flood, 2014) of both: numpy's generators take longer to make
    than a token to sample."""
    return (_mixed(_mixed(seed) + (step + 1) * 0x9E3779B97F4A7C15) >> 11) / 2**53


def _mixed(x: int) -> int:
    x &= _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _penalise(logits: NDArray[np.float32], history: Sequence[int], penalty: float) -> NDArray[np.float32]:
    """Seen tokens' logits are divided (if positive) or multiplied by the penalty, as CTRL (2019) proposed."""
    seen = np.unique(np.asarray(history, np.int64))
    logits = logits.copy()
    logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    return logits


def _count_against(logits: NDArray[np.float32], sampled: Sequence[int], settings: Sampling) -> NDArray[np.float32]:
    seen, times = np.unique(np.asarray(sampled, np.int64), return_counts=True)
    logits = logits.copy()
    logits[seen] -= (settings.presence_penalty + settings.frequency_penalty * times).astype(np.float32)
    return logits
