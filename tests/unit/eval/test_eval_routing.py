"""The route report against slow obvious twins, and traces as files: several texts, layers without experts."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from motley.bundled import routes_path
from motley.errors import FormatError
from motley.eval.routing import by_chance, correlation, distinct, gini, in_a_row, report, together, variation
from motley.eval.routing_show import report_lines
from motley.predict.routes import Routes

E, A, LAYERS = 12, 3, 2
RNG = np.random.default_rng(5)


def some_routes(n: int, weights: np.ndarray) -> np.ndarray:
    """[n, LAYERS, A]: distinct experts of each token, drawn by weight."""
    p = weights / weights.sum()
    return np.array([[RNG.choice(E, A, replace=False, p=p) for _ in range(LAYERS)] for _ in range(n)], np.int32)


ONE, OTHER = np.arange(1, E + 1) ** 2.0, np.arange(E, 0, -1) ** 2.0
ROUTES = Routes(
    np.concatenate([some_routes(300, ONE), some_routes(200, OTHER)]),
    E,
    domain=np.repeat([0, 1], [300, 200]).astype(np.int32),
    names=("one", "other"),
)


def test_expected_distinct_experts_are_those_of_random_batches() -> None:
    tokens = ROUTES.chosen[:, 0]
    for batch in (1, 2, 5):
        drawn = [len(set(tokens[RNG.integers(0, len(tokens), batch)].ravel())) for _ in range(20_000)]
        assert distinct(ROUTES.popularity(0), batch) == pytest.approx(np.mean(drawn), rel=0.01)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 250])
def test_tokens_in_a_row_are_counted_within_their_text(n: int) -> None:
    runs = []
    for first, last in ((0, 300), (300, 500)):
        size = min(n, last - first)
        starts = range(first, last - size + 1, size)
        runs += [len(set(ROUTES.chosen[s : s + size, 1].ravel().tolist())) for s in starts]
    assert in_a_row(ROUTES, 1, n) == pytest.approx(np.mean(runs))


def test_pairs_are_those_of_each_token() -> None:
    counted = Counter(pair for token in ROUTES.chosen[:, 1].tolist() for pair in combinations(sorted(token), 2))
    found = together(ROUTES, 1)
    for a, b in combinations(range(E), 2):
        assert found[a, b] == found[b, a] == pytest.approx(counted[a, b] / 500)
    told = [p for p in report(ROUTES).pairs if p.layer == 1]
    assert [round(p.together * 500) for p in told] == [n for _, n in counted.most_common(3)]


def test_chance_has_as_many_pairs_as_tokens_have() -> None:
    chance = by_chance(ROUTES.popularity(0), A)
    assert np.triu(chance, 1).sum() == pytest.approx(A * (A - 1) / 2)
    assert np.triu(together(ROUTES, 0), 1).sum() == pytest.approx(A * (A - 1) / 2)
    even = by_chance(np.full(E, A / E), A)
    assert even[0, 1] == pytest.approx(A * (A - 1) / (E * (E - 1)))


def test_pairs_that_always_go_together_are_found() -> None:
    """Experts 0 and 1 come together or not at all, each as popular as the others are."""
    others = [[2 + (i + step) % 10 for step in (0, 3, 6)] for i in range(400)]
    tokens = [[0, 1, other[0]] if i % 4 == 0 else other for i, other in enumerate(others)]
    found = report(Routes(np.array(tokens, np.int32)[:, None], E))
    assert found.pairs[0].experts == (0, 1)
    assert found.pairs[0].over_chance > 3
    assert found.pair_distance > 0.2


def test_gini_is_the_mean_difference() -> None:
    p = RNG.random(9)
    twin = np.mean([[abs(x - y) for x in p] for y in p]) / (2 * p.mean())
    assert gini(p) == pytest.approx(twin)
    assert gini(np.ones(8)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 1.0])) == pytest.approx(0.75)


def test_variation_and_correlation() -> None:
    a, b = RNG.random(E), RNG.random(E)
    assert variation(a, b) == pytest.approx(sum(max(0, x - y) for x, y in zip(a / a.sum(), b / b.sum())))
    assert variation(a, 2 * a) == pytest.approx(0)
    assert variation(np.array([1.0, 0]), np.array([0, 3.0])) == 1
    assert correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert correlation(a, np.ones(E)) == 0


def test_texts_that_differ_are_farther_apart_than_their_own_halves() -> None:
    found = report(ROUTES)
    assert found.texts == ("one", "other")
    distances = np.array(found.distances)
    assert distances == pytest.approx(distances.T)
    assert distances[0, 1] > 3 * max(distances[0, 0], distances[1, 1])
    assert all(s.correlation < -0.5 for s in found.stability)
    assert [s.tokens for s in found.stability] == [300, 200]
    alike = report(Routes(some_routes(500, ONE), E, domain=ROUTES.domain, names=("a", "b")))
    assert alike.distances[0][1] < 1.5 * np.mean([alike.distances[0][0], alike.distances[1][1]])
    assert all(s.correlation > 0.95 for s in alike.stability)


def test_popularity_over_an_even_share() -> None:
    always = Routes(np.tile(np.array([[[0, 1, 2], [3, 4, 5]]], np.int32), (8, 1, 1)), E)
    first, second = report(always).popularity
    assert (first.least, first.most, first.never, first.top_quarter) == (0, 4, 9, 1)
    assert second == first.__class__(1, 0, 4, 9, 1, first.gini)


def test_layers_without_experts_are_left_out(tmp_path: Path) -> None:
    chosen = np.concatenate([np.zeros((500, 1, A), np.int32), ROUTES.chosen], axis=1)
    Routes(chosen, E, np.array([False, True, True]), ROUTES.domain, ROUTES.names).save(tmp_path / "trace")
    again = Routes.load(tmp_path / "trace")
    assert again.layers == [1, 2]
    found, whole = report(again), report(ROUTES)
    assert [p.layer for p in found.popularity] == [1, 2]
    assert found.distinct == whole.distinct
    assert found.distances == whole.distances
    assert [name for name, _ in again.texts] == ["one", "other"]
    assert (again.texts[1][1].chosen[:, 1:] == ROUTES.chosen[300:]).all()


def test_the_bundled_trace_tells_its_six_texts() -> None:
    lines = list(report_lines(report(Routes.load(routes_path()))))
    assert lines[0] == "28,107 tokens in 6 texts; 4 layers with experts, each token takes 4 of 32"
    assert any(line.startswith("scripture") for line in lines)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_shortest_traces(n: int) -> None:
    """One token, one expert of one: nothing divides by zero."""
    found = report(Routes(np.zeros((n, 1, 1), np.int32), 1))
    assert found.distinct[-1] == found.distinct_uniform[-1] == 1
    assert found.pairs == ()
    assert list(report_lines(found))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"routed": np.array([True])}, "`routed` must be bool"),
        ({"routed": np.array([1, 1])}, "`routed` must be bool"),
        ({"domain": np.zeros(499, np.int32), "domain_names": np.array(["a"])}, "`domain` must be"),
        ({"domain": np.full(500, 2, np.int32), "domain_names": np.array(["a", "b"])}, "`domain` must be"),
        ({"domain": np.zeros(500, np.int32), "domain_names": np.array(["a", "b"])}, "`domain` must be"),
        ({"domain": np.zeros(500), "domain_names": np.array(["a"])}, "`domain` must be"),
    ],
)
def test_damaged_traces_are_refused(changes: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    experts = ROUTES.chosen.transpose(1, 0, 2).astype(np.uint8)
    np.savez(tmp_path / "t.npz", experts=experts, n_experts=np.array(E), **changes)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=words):
        Routes.load(tmp_path / "t.npz")


def test_a_bare_array_is_no_trace(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.zeros(3))
    with pytest.raises(FormatError, match="is not a route trace"):
        Routes.load(tmp_path / "t.npy")
