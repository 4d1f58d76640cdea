"""Perplexity: e to the mean negative log-likelihood of the scored tokens, with its standard error.

    for i in range(len(windows)):
        score = score.then(window_nll(runner, windows, i, n_vocab))

The standard error takes tokens as independent draws, as llama.cpp's does: neighbours in a text are not quite.
"""

from dataclasses import dataclass, field
from math import exp, sqrt

import numpy as np

from motley.engine.runner import Runner
from motley.eval.reference import Writer
from motley.eval.scoring import Doubles, blocks, log_softmax, scored_logits
from motley.eval.windows import Windows


@dataclass
class Perplexity:
    """Of the windows so far; grows by `add`."""

    windows: int = 0
    _nll: list[Doubles] = field(default_factory=list)

    def add(self, nll: Doubles) -> None:
        """One window's negative log-likelihoods, nats a token."""
        self.windows += 1
        self._nll.append(nll)

    @property
    def tokens(self) -> int:
        return sum(len(part) for part in self._nll)

    @property
    def mean_nll(self) -> float:
        return float(np.concatenate(self._nll).mean())

    @property
    def nll_error(self) -> float:
        """Of the mean; 0 where there is one token only."""
        return mean_error(np.concatenate(self._nll))

    @property
    def value(self) -> float:
        return exp(self.mean_nll)

    @property
    def error(self) -> float:
        return self.value * self.nll_error


def mean_error(values: Doubles) -> float:
    """The standard error of the mean of independent values."""
    return float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else 0.0


def window_nll(runner: Runner, windows: Windows, i: int, n_vocab: int, save: Writer | None = None) -> Doubles:
    """[scored]: the negative log-likelihood of each scored token of window i. `save`: keeps the logits."""
    targets, nll = windows.targets(i), np.empty(windows.scored, np.float64)
    for part, logits in scored_logits(runner, windows, i, n_vocab):
        for block in blocks(*logits.shape):
            wanted = targets[part][block]
            nll[part][block] = -log_softmax(logits[block])[np.arange(len(wanted)), wanted]
        if save:
            save.rows(logits)
    return nll
