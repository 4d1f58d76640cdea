"""What a route trace tells: how popular experts are, how many a batch touches, which are chosen together, and whether
that is the same in every text.

Popularity p of an expert: how often a token chooses it; the sum over a layer is A. Everything is counted in layers with
experts only. Formulas: docs/eval.md.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motley.predict.routes import Routes

BATCHES = (1, 2, 4, 8, 16, 32, 64)
PAIRS = 3  # of each layer
_BLOCK = 8192  # tokens at a time

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Popularity:
    """Of one layer, over an even share: 1 is what each expert would have if all were alike."""

    layer: int
    least: float
    most: float
    never: int  # experts that were not chosen at all
    top_quarter: float  # of all choices, those of the quarter of the experts that are chosen most
    gini: float  # 0: all alike; towards 1: few do everything


@dataclass(frozen=True)
class Pair:
    layer: int
    experts: tuple[int, int]
    together: float  # share of tokens that choose both
    over_chance: float  # over what popularity alone would give


@dataclass(frozen=True)
class Stability:
    """One text beside all others together."""

    text: str
    tokens: int
    correlation: float  # of the experts' popularity, mean over layers
    top_overlap: float  # share of its most chosen quarter that is among the others' most chosen quarter


@dataclass(frozen=True)
class Report:
    tokens: int
    n_layers: int  # with experts
    n_experts: int
    n_used: int
    popularity: tuple[Popularity, ...]
    batches: tuple[int, ...]
    distinct_uniform: tuple[float, ...]  # experts of a layer that a batch touches, were all choices equally likely
    distinct: tuple[float, ...]  # by this trace, tokens of different sequences; mean over layers
    distinct_in_a_row: tuple[float, ...]  # likewise, consecutive tokens of one sequence
    pairs: tuple[Pair, ...]
    pair_distance: float  # 0..1: total variation between pairs as they are and as popularity alone would give them
    texts: tuple[str, ...]
    distances: tuple[tuple[float, ...], ...]  # [texts][texts] total variation; the diagonal is a text's two halves
    stability: tuple[Stability, ...]


def report(routes: Routes) -> Report:
    layers, used = routes.layers, routes.chosen.shape[2]
    popularity = {i: routes.popularity(i) for i in layers}
    every = np.stack(list(popularity.values()))  # [layers, E]
    pairs, apart = zip(*(_pairs(routes, i) for i in layers))
    texts = routes.texts
    return Report(
        tokens=len(routes.chosen),
        n_layers=len(layers),
        n_experts=routes.n_experts,
        n_used=used,
        popularity=tuple(_popularity(i, p) for i, p in popularity.items()),
        batches=BATCHES,
        distinct_uniform=tuple(distinct(np.full(routes.n_experts, used / routes.n_experts), b) for b in BATCHES),
        distinct=tuple(float(np.mean([distinct(p, b) for p in every])) for b in BATCHES),
        distinct_in_a_row=tuple(float(np.mean([in_a_row(routes, i, b) for i in layers])) for b in BATCHES),
        pairs=tuple(pair for found in pairs for pair in found),
        pair_distance=float(np.mean(apart)),
        texts=tuple(name for name, _ in texts),
        distances=_distances([part for _, part in texts]),
        stability=_stability(texts) if len(texts) > 1 else (),
    )


def _popularity(layer: int, p: Doubles) -> Popularity:
    times = np.sort(p * len(p) / p.sum())
    quarter = max(1, len(p) // 4)
    return Popularity(
        layer=layer,
        least=float(times[0]),
        most=float(times[-1]),
        never=int((times == 0).sum()),
        top_quarter=float(times[-quarter:].sum() / times.sum()),
        gini=gini(p),
    )


def gini(p: Doubles) -> float:
    """Mean absolute difference of two experts, over twice the mean."""
    n, ascending = len(p), np.sort(p)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ascending / (n * ascending.sum()))


def distinct(p: Doubles, batch: int) -> float:
    """Expected experts that `batch` independent tokens touch: sum of 1 - (1 - p)^batch, exact."""
    return float((1 - (1 - np.minimum(p, 1)) ** batch).sum())


def in_a_row(routes: Routes, layer: int, n: int) -> float:
    """Experts that `n` consecutive tokens of a text touch, on average; of a shorter text, all its tokens."""
    total, runs = 0, 0
    for _, part in routes.texts:
        chosen = part.chosen[:, layer]
        size = min(n, len(chosen))
        whole = chosen[: len(chosen) // size * size].reshape(-1, size * chosen.shape[1])
        ordered = np.sort(whole, axis=1)
        total += len(ordered) + int((np.diff(ordered, axis=1) != 0).sum())
        runs += len(ordered)
    return total / runs


def together(routes: Routes, layer: int) -> Doubles:
    """[E, E]: share of tokens that choose both; the diagonal is popularity."""
    chosen, found = routes.chosen[:, layer].astype(np.int64), np.zeros((routes.n_experts,) * 2)
    for first in range(0, len(chosen), _BLOCK):
        part = chosen[first : first + _BLOCK]
        member = np.zeros((len(part), routes.n_experts), np.float32)
        np.put_along_axis(member, part, 1, axis=1)
        found += member.T @ member
    return found / len(chosen)


def by_chance(p: Doubles, used: int) -> Doubles:
    """[E, E]: how often both would be chosen if popularity were all that matters: p p', scaled so that all pairs add up
    to what a token has."""
    both = np.outer(p, p)
    upper = np.triu(both, 1).sum()
    return both * (used * (used - 1) / 2 / upper) if upper else both


def _pairs(routes: Routes, layer: int) -> tuple[list[Pair], float]:
    """The most frequent pairs of a layer, and how far all are from chance."""
    used = routes.chosen.shape[2]
    if used < 2:
        return [], 0.0
    upper = np.triu_indices(routes.n_experts, 1)
    found = together(routes, layer)[upper]
    chance = by_chance(routes.popularity(layer), used)[upper]
    best = np.argsort(-found, kind="stable")[:PAIRS]
    ids = np.stack(upper, axis=1)
    pairs = [
        Pair(layer, (int(ids[i, 0]), int(ids[i, 1])), float(found[i]), float(found[i] / chance[i]))
        for i in best
        if found[i]
    ]
    return pairs, variation(found, chance)


def variation(a: Doubles, b: Doubles) -> float:
    """Total variation distance of two distributions, each scaled to 1."""
    return float(np.abs(a / a.sum() - b / b.sum()).sum() / 2)


def _halves(routes: Routes) -> list[Routes]:
    middle = max(1, len(routes.chosen) // 2)
    return [Routes(part, routes.n_experts, routes.routed) for part in (routes.chosen[:middle], routes.chosen[-middle:])]


def _distances(texts: list[Routes]) -> tuple[tuple[float, ...], ...]:
    """Always of halves, so that two texts and two halves of one are measured with as many tokens."""
    halves = [[_popular(half) for half in _halves(text)] for text in texts]

    def apart(a: int, b: int) -> float:
        if a == b:
            return _apart(*halves[a])
        return float(np.mean([_apart(x, y) for x in halves[a] for y in halves[b]]))

    return tuple(tuple(apart(a, b) for b in range(len(texts))) for a in range(len(texts)))


def _popular(routes: Routes) -> Doubles:
    """[layers, E]"""
    return np.stack([routes.popularity(i) for i in routes.layers])


def _apart(a: Doubles, b: Doubles) -> float:
    return float(np.mean([variation(x, y) for x, y in zip(a, b)]))


def _stability(texts: list[tuple[str, Routes]]) -> tuple[Stability, ...]:
    found = []
    for i, (name, own) in enumerate(texts):
        others = np.concatenate([part.chosen for j, (_, part) in enumerate(texts) if j != i])
        a, b = _popular(own), _popular(Routes(others, own.n_experts, own.routed))
        found.append(
            Stability(
                text=name,
                tokens=len(own.chosen),
                correlation=float(np.mean([correlation(x, y) for x, y in zip(a, b)])),
                top_overlap=float(np.mean([_overlap(x, y) for x, y in zip(a, b)])),
            )
        )
    return tuple(found)


def correlation(a: Doubles, b: Doubles) -> float:
    """Pearson's; 0 where one of them is the same everywhere."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0


def _overlap(a: Doubles, b: Doubles) -> float:
    n = max(1, len(a) // 4)
    top = [set(np.argsort(-x, kind="stable")[:n].tolist()) for x in (a, b)]
    return len(top[0] & top[1]) / n
