"""Spread: how a step's chosen experts fall on the devices that hold them.

A layer waits for its slowest device, and the expected slowest is later than the slowest expectation: with top-8 of 64
split evenly, 4 + 4 is the mean, but 5 + 3 and worse are the rule. So the cost model averages over a spread of cases:

- one token, no trace: every case with its exact probability (multivariate hypergeometric), if there are few enough;
- few tokens, or a trace: drawn cases, always the same ones for the same question;
- many tokens without a trace: the expectation alone, as the counts hardly vary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

_MAX_CASES = 600  # exact cases worth enumerating
_DRAWN_TOKENS = 4096  # a drawn case of few tokens says little: the fewer, the more cases
_LEAST_DRAWS = 96
_MANY_TOKENS = 64  # from here the expectation stands for all cases


@dataclass(frozen=True, eq=False)
class Spread:
    """S cases over D devices. `weight` [S] sums to 1; `distinct` [S, D]: different experts touched on a device;
    `pairs` [S, D]: (token, expert) pairs computed there."""

    weight: NDArray[np.float64]
    distinct: NDArray[np.float64]
    pairs: NDArray[np.float64]


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
    owner = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng(0)
    keys = rng.random((max(_LEAST_DRAWS, _DRAWN_TOKENS // tokens), tokens, total))
    chosen = np.argpartition(keys, n_used - 1, axis=-1)[..., :n_used]
    return _counted(chosen, owner, len(counts))


def traced_spread(
    chosen: NDArray[np.int32], owner: NDArray[np.int64], n_devices: int, tokens: int, run: bool
) -> Spread:
    """From a layer's trace [n, A]. `run`: the step's tokens follow each other in one text (prefill); otherwise each
    belongs to another sequence (decode). `owner` [E]: index of each expert's device."""
    rng = np.random.default_rng(0)
    n = len(chosen)
    draws = max(8, _DRAWN_TOKENS // tokens)
    if tokens == 1:
        rows = np.linspace(0, n - 1, min(n, draws)).astype(np.int64)[:, None]
    elif run:
        rows = (rng.integers(0, n, draws)[:, None] + np.arange(tokens)) % n
    else:
        rows = rng.integers(0, n, (draws, tokens))
    return _counted(chosen[rows], owner, n_devices)


def _exact(counts: tuple[int, ...], n_used: int, total: int) -> Spread:
    cases = np.array(list(_compositions(n_used, counts)), np.float64)
    ways = [np.prod([float(comb(c, int(k))) for c, k in zip(counts, case)]) for case in cases]
    return Spread(np.array(ways) / comb(total, n_used), cases, cases)


def _compositions(n: int, limits: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All ways to take n in total with at most limits[d] of each."""
    if len(limits) == 1:
        if n <= limits[0]:
            yield (n,)
        return
    for first in range(min(n, limits[0]) + 1):
        for rest in _compositions(n - first, limits[1:]):
            yield (first, *rest)


def _counted(chosen: NDArray[np.integer], owner: NDArray[np.integer], n_devices: int) -> Spread:
    """chosen [draws, T, A] expert ids -> their spread, equal cases counted together."""
    draws, n_experts = len(chosen), len(owner)
    flat = chosen.reshape(draws, -1)
    touched = np.zeros((draws, n_experts), bool)
    np.put_along_axis(touched, flat.astype(np.int64), True, axis=1)
    held = owner[None, :] == np.arange(n_devices)[:, None]  # [D, E]
    on = owner[flat]  # [S, T*A]
    pairs = np.stack([(on == d).sum(1) for d in range(n_devices)], 1)
    cases = np.concatenate([touched @ held.T.astype(np.float64), pairs], axis=1)
    found, times = np.unique(cases, axis=0, return_counts=True)
    return Spread(times / draws, found[:, :n_devices], found[:, n_devices:])
