"""A route report as a person reads it."""

from collections.abc import Iterator, Sequence

from motley.eval.routing import PAIRS, Report
from motley.predict.show import table

MOST_TEXTS = 12  # in the table of distances: more don't fit a line
_WIDTH = 14  # of a text's name in it


def report_lines(r: Report) -> Iterator[str]:
    of = f" in {len(r.texts)} texts" if len(r.texts) > 1 else ""
    yield f"{r.tokens:,} tokens{of}; {r.n_layers} layers with experts, each token takes {r.n_used} of {r.n_experts}"
    yield from _popularity(r)
    yield from _distinct(r)
    yield from _together(r)
    yield from _stability(r)


def _popularity(r: Report) -> Iterator[str]:
    yield "\nHow often an expert is chosen, over an even share"
    head = ["layer", "least", "most", "never chosen", "top quarter has", "Gini"]
    yield from table(
        head,
        [
            [str(p.layer), f"{p.least:.2f}", f"{p.most:.2f}", str(p.never), f"{p.top_quarter:.0%}", f"{p.gini:.2f}"]
            for p in r.popularity
        ],
    )


def _distinct(r: Report) -> Iterator[str]:
    yield "\nDifferent experts that a batch touches in a layer (mean over layers)"
    rows = [
        ("all equally likely", r.distinct_uniform),
        ("by this trace, a token each of B sequences", r.distinct),
        ("by this trace, B tokens in a row", r.distinct_in_a_row),
    ]
    yield from table(["", *(f"B={b}" for b in r.batches)], [[name, *(f"{x:.1f}" for x in row)] for name, row in rows])


def _together(r: Report) -> Iterator[str]:
    if not r.pairs:
        return
    yield f"\nPairs most chosen together, {PAIRS} a layer: of all tokens, and times what popularity alone would give"
    by_layer: dict[int, list[str]] = {}
    for p in r.pairs:
        a, b = p.experts
        by_layer.setdefault(p.layer, []).append(f"{a}+{b}: {p.together:.1%}, {p.over_chance:.1f}x")
    width = max(len(text) for texts in by_layer.values() for text in texts)
    for layer, texts in by_layer.items():
        yield f"layer {layer:3}  " + "   ".join(text.ljust(width) for text in texts).rstrip()
    yield f"{r.pair_distance:.0%} of all pairs would have to change to be as chance has them (total variation)"


def _stability(r: Report) -> Iterator[str]:
    if not r.stability:
        yield "\nOne text: give several (--text A --text B) to see how stable this is between them"
        yield f"Its two halves are {r.distances[0][0]:.3f} apart (total variation, 0 to 1)"
        return
    names = [_short(name) for name in r.texts]
    if len(names) <= MOST_TEXTS:
        yield "\nHow far apart popularity is between texts (total variation, 0 to 1; with itself: a text's two halves)"
        yield from _square(names, r.distances)
    own = sum(row[i] for i, row in enumerate(r.distances)) / len(names)
    others = sum(sum(row) - row[i] for i, row in enumerate(r.distances)) / (len(names) * (len(names) - 1))
    yield f"mean of two texts {others:.3f}, of two halves of one {own:.3f}"
    yield "\nEach text beside all others together: popularity's correlation, and the top quarter they share"
    rows = [[_short(s.text), f"{s.tokens:,}", f"{s.correlation:.2f}", f"{s.top_overlap:.0%}"] for s in r.stability]
    yield from table(["", "tokens", "correlation", "top quarter shared"], rows)


def _square(names: Sequence[str], distances: Sequence[Sequence[float]]) -> Iterator[str]:
    yield from table(["", *names], [[name, *(f"{x:.3f}" for x in row)] for name, row in zip(names, distances)])


def _short(name: str) -> str:
    return name if len(name) <= _WIDTH else "…" + name[1 - _WIDTH :]
