"""Spread: how a step's chosen experts fall on the devices that hold them.

A layer waits for its slowest device, and the expected slowest is later than the slowest expectation: with top-8 of 64
split evenly, 4 + 4 is the mean, but 5 + 3 and worse are the rule. So the cost model averages over a spread of cases:

- one token, no trace: every case with its exact probability (multivariate hypergeometric), if there are few enough;
- few tokens, or a trace: drawn cases, always the same ones for the same question;
- many tokens without a trace: the expectation alone, as the counts hardly vary.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from motley.lab.choice import Choice

_MAX_CASES = 600  # exact cases worth enumerating
_DRAWN_TOKENS = 4096  # a drawn case of few tokens says little: the fewer, the more cases
_LEAST_DRAWS = 96
_MANY_DEVICES = 16  # of which fewer cases say as much: each counts for many
_MANY_TOKENS = 64  # from here the expectation stands for all cases

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Spread:
    """S cases over D devices. `weight` [S] sums to 1; `distinct` [S, D]: different experts touched on a device;
    `pairs` [S, D]: (token, expert) pairs computed there. The same array where every pair is another expert."""

    weight: NDArray[np.float64]
    distinct: NDArray[np.float64]
    pairs: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Draws:
    """Drawn cases, whoever holds the experts: the case and the expert of every choice, and of every expert touched."""

    n: int
    chosen: tuple[Ints, Ints]  # cases, experts
    touched: tuple[Ints, Ints]

    def on(self, owner: Ints, n_devices: int) -> Spread:
        """`owner` [E]: index of each expert's device."""
        pairs = self._counted(self.chosen, owner, n_devices)
        distinct = pairs if self.touched is self.chosen else self._counted(self.touched, owner, n_devices)
        return Spread(np.full(self.n, 1 / self.n), distinct, pairs)

    def _counted(self, choices: tuple[Ints, Ints], owner: Ints, n_devices: int) -> NDArray[np.float64]:
        cases, experts = choices
        counts = np.bincount(owner[experts] * self.n + cases, minlength=n_devices * self.n)
        return counts.reshape(n_devices, self.n).T.astype(np.float64)


def chosen_spread(draws: Draws, choice: Choice) -> Spread:
    """Where experts have copies: who holds what is chosen in each case."""
    n_holders, n_experts = choice.held.shape
    cases, experts = draws.chosen
    times = np.bincount(cases * n_experts + experts, minlength=draws.n * n_experts).reshape(draws.n, n_experts)
    owner = choice.of_cases(times)
    at, expert = draws.touched if draws.touched is not draws.chosen else draws.chosen
    index = owner[at, expert] * draws.n + at
    size = n_holders * draws.n
    distinct = np.bincount(index, minlength=size).reshape(n_holders, draws.n).T.astype(np.float64)
    if draws.touched is draws.chosen:
        return Spread(np.full(draws.n, 1 / draws.n), distinct, distinct)
    pairs = np.bincount(index, times[at, expert], minlength=size).reshape(n_holders, draws.n).T
    return Spread(np.full(draws.n, 1 / draws.n), distinct, pairs.astype(np.float64))


@lru_cache(maxsize=4096)
def uniform_spread(counts: tuple[int, ...], n_used: int, tokens: int) -> Spread:
    """Every choice of `n_used` among sum(counts) experts equally likely; device d holds counts[d] of them."""
    total = sum(counts)
    if tokens == 1 and comb(n_used + len(counts) - 1, len(counts) - 1) <= _MAX_CASES:
        return _exact(counts, n_used, total)
    held = np.asarray(counts, np.float64)
    if tokens >= _MANY_TOKENS:
        touched = held * (1 - (1 - n_used / total) ** tokens)
        return Spread(np.ones(1), touched[None], (tokens * n_used / total * held)[None])
    draws = max(_LEAST_DRAWS, _DRAWN_TOKENS // tokens // (1 if len(counts) <= _MANY_DEVICES else 4))
    return uniform_draws(draws, total, n_used, tokens).on(np.repeat(np.arange(len(counts)), counts), len(counts))


@lru_cache(maxsize=8)
def uniform_draws(draws: int, n_experts: int, n_used: int, tokens: int) -> Draws:
    keys = np.random.default_rng(0).random((draws, tokens, n_experts), np.float32)
    return _draws(np.argpartition(keys, n_used - 1, axis=-1)[..., :n_used], n_experts)


def traced_draws(chosen: NDArray[np.int32], n_experts: int, tokens: int, run: bool) -> Draws:
    """From a layer's trace [n, A]. `run`: the step's tokens follow each other in one text (prefill); otherwise each
    belongs to another sequence (decode)."""
    rng = np.random.default_rng(0)
    n = len(chosen)
    draws = max(8, _DRAWN_TOKENS // tokens)
    if tokens == 1:
        rows = np.linspace(0, n - 1, min(n, draws)).astype(np.int64)[:, None]
    elif run:
        rows = (rng.integers(0, n, draws)[:, None] + np.arange(tokens)) % n
    else:
        rows = rng.integers(0, n, (draws, tokens))
    return _draws(chosen[rows], n_experts)


def _draws(chosen: NDArray[np.integer], n_experts: int) -> Draws:
    """From expert ids [draws, T, A]."""
    n, tokens, used = chosen.shape
    cases, experts = np.repeat(np.arange(n), tokens * used), chosen.astype(np.int64).ravel()
    choices = cases, experts
    if tokens == 1:
        return Draws(n, choices, choices)
    touched = np.zeros((n, n_experts), bool)
    touched[cases, experts] = True
    first, second = np.nonzero(touched)
    return Draws(n, choices, (first, second))


def _exact(counts: tuple[int, ...], n_used: int, total: int) -> Spread:
    cases = _compositions(n_used, len(counts))
    ways = np.ones(len(cases))
    for device, count in enumerate(counts):
        ways *= _choices(count, n_used)[cases[:, device]]
    possible = ways > 0
    found = cases[possible].astype(np.float64)
    return Spread(ways[possible] / comb(total, n_used), found, found)


@lru_cache(maxsize=4096)
def _choices(count: int, n_used: int) -> NDArray[np.float64]:
    """Ways to choose 0 to `n_used` of `count`."""
    return np.array([float(comb(count, k)) for k in range(n_used + 1)])


@lru_cache(maxsize=256)
def _compositions(n: int, parts: int) -> Ints:
    """All ways to take n in total from so many parts: [ways, parts]."""
    if parts == 1:
        return np.array([[n]])
    rows = [np.insert(_compositions(n - first, parts - 1), 0, first, axis=1) for first in range(n + 1)]
    return np.concatenate(rows)
