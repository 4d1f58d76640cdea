"""Divergence: how far a model's predictions are from those of a reference run, token by token.

With p the reference's probabilities and q the model's: KL = sum p (log p - log q), in nats, over the whole vocabulary.
Zero where they are the same, to the last bit. The perplexities' ratio comes with an error of the paired differences,
which is far smaller than each perplexity's own.
"""

from dataclasses import dataclass, field, fields
from math import exp, sqrt

import numpy as np
from numpy.typing import NDArray

from motley.engine.runner import Runner
from motley.eval.perplexity import mean_error
from motley.eval.reference import Reference
from motley.eval.scoring import Doubles, Floats, blocks, log_softmax, scored_logits
from motley.eval.windows import Windows


@dataclass(frozen=True, eq=False)
class Rows:
    """Of some scored predictions, [n] each."""

    kl: Doubles
    same: NDArray[np.bool_]  # all probabilities are equal
    same_top: NDArray[np.bool_]  # both would say the same next
    nll: Doubles  # of the token that came, by the model
    reference_nll: Doubles


@dataclass
class Divergence:
    """Of the windows so far; grows by `add`."""

    windows: int = 0
    _rows: list[Rows] = field(default_factory=list)

    def add(self, rows: Rows) -> None:
        self.windows += 1
        self._rows.append(rows)

    @property
    def mean_kl(self) -> float:
        return float(np.concatenate([rows.kl for rows in self._rows]).mean())

    def summary(self) -> "Summary":
        kl, same, nll, reference = (
            np.concatenate([getattr(rows, name) for rows in self._rows])
            for name in ("kl", "same_top", "nll", "reference_nll")
        )
        n, share = len(kl), float(same.mean())
        ratio, perplexity = exp(float((nll - reference).mean())), exp(float(nll.mean()))
        return Summary(
            windows=self.windows,
            tokens=n,
            mean_kl=self.mean_kl,
            mean_kl_error=mean_error(kl),
            median_kl=float(np.median(kl)),
            p99_kl=float(np.quantile(kl, 0.99)),
            max_kl=float(kl.max()),
            same_top=share,
            same_top_error=sqrt(share * (1 - share) / (n - 1)) if n > 1 else 0.0,
            perplexity=perplexity,
            perplexity_error=perplexity * mean_error(nll),
            reference_perplexity=exp(float(reference.mean())),
            perplexity_ratio=ratio,
            perplexity_ratio_error=ratio * mean_error(nll - reference),
            identical=bool((np.concatenate([rows.same for rows in self._rows])).all()),
        )


@dataclass(frozen=True)
class Summary:
    """`_error`: standard errors. KL in nats."""

    windows: int
    tokens: int
    mean_kl: float
    mean_kl_error: float
    median_kl: float
    p99_kl: float
    max_kl: float
    same_top: float  # share, 0..1
    same_top_error: float
    perplexity: float
    perplexity_error: float
    reference_perplexity: float
    perplexity_ratio: float  # the model's over the reference's
    perplexity_ratio_error: float
    identical: bool  # every probability, to the last bit


def window_rows(runner: Runner, windows: Windows, reference: Reference, i: int) -> Rows:
    """Window i of the reference through the model."""
    found = []
    theirs, targets = reference.logits(i), windows.targets(i)
    for part, logits in scored_logits(runner, windows, i, reference.header.n_vocab):
        for block in blocks(*logits.shape):
            found.append(compare(theirs[part][block], logits[block], targets[part][block]))
    names = [f.name for f in fields(Rows)]
    return Rows(*(np.concatenate([getattr(rows, name) for rows in found]) for name in names))


def compare(reference: Floats, logits: Floats, targets: NDArray[np.int32]) -> Rows:
    """Two models' logits [R, V] for the same predictions, and the tokens that came."""
    log_p, log_q = log_softmax(reference), log_softmax(logits)
    at = np.arange(len(targets)), targets
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    same = (log_p == log_q).all(axis=1)
    return Rows(kl, same, reference.argmax(axis=1) == logits.argmax(axis=1), -log_q[at], -log_p[at])
