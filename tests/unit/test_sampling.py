"""Sampling: each knob against what it means, and the same seed giving the same tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.engine import sampling
from motley.engine.sampling import Sampling, sample
from motley.errors import MotleyError, UsageError

LOGITS = np.array([0.0, 3.0, 1.0, 3.0, -np.inf, 2.0], np.float32)


def drawn(settings: dict[str, float], n: int = 2000, history: list[int] | None = None) -> set[int]:
    return {sample(LOGITS, history or [], Sampling(temperature=1.0, **settings), step) for step in range(n)}  # type: ignore[arg-type]


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    assert sample(LOGITS, [], Sampling(), 0) == 1


def test_everything_possible_is_drawn_and_nothing_else() -> None:
    assert drawn({}) == {0, 1, 2, 3, 5}


def test_top_k() -> None:
    assert drawn({"top_k": 3}) == {1, 3, 5}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    odds = np.exp(LOGITS.astype(np.float64))
    two = (odds[1] + odds[3]) / odds.sum()
    assert drawn({"top_p": two - 0.01}) == {1, 3}
    assert drawn({"top_p": two + 0.01}) == {1, 3, 5}


def test_min_p() -> None:
    assert drawn({"min_p": 0.3}) == {1, 3, 5}  # exp(-1) = 0.37 of the best stays, exp(-2) goes


def test_frequencies_follow_the_probabilities() -> None:
    tokens = [sample(LOGITS, [], Sampling(temperature=2.0, seed=5), step) for step in range(20000)]
    odds = np.exp(LOGITS / 2.0)
    expected = odds / odds.sum()
    found = np.bincount(tokens, minlength=6) / len(tokens)
    assert np.abs(found - expected).max() < 0.015


def test_repetition_penalty_pushes_seen_tokens_down_whatever_their_sign() -> None:
    logits = np.array([-1.0, 2.0, 1.5], np.float32)
    assert sample(logits, [1], Sampling(repetition_penalty=2.0), 0) == 2
    assert sample(np.array([-1.0, -1.5], np.float32), [0], Sampling(repetition_penalty=2.0), 0) == 1


@given(st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_the_same_seed_and_step_give_the_same_token(seed: int, step: int) -> None:
    settings = Sampling(temperature=0.8, seed=seed)
    assert sample(LOGITS, [], settings, step) == sample(LOGITS, [3, 1], settings, step)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"top_k": -1},
        {"seed": -1},
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_logits_are_an_error_not_a_token(bad: float, temperature: float) -> None:
    logits = LOGITS.copy()
    logits[2] = bad
    with pytest.raises(MotleyError, match="weights are damaged"):
        sample(logits, [1], Sampling(temperature=temperature), 0)
    with pytest.raises(MotleyError, match="weights are damaged"):
        sample(np.full(3, -np.inf, np.float32), [1], Sampling(temperature=temperature), 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30])
def test_the_smallest_temperature_is_greedy(temperature: float) -> None:
    assert {sample(LOGITS, [], Sampling(temperature=temperature), step) for step in range(50)} == {1, 3}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("penalty", [1e-3, 1e3])
def test_the_ends_of_the_penalty_are_usable(penalty: float) -> None:
    assert 0 <= sample(LOGITS * 1e4, [0, 1, 2, 4], Sampling(temperature=1.0, repetition_penalty=penalty), 0) < 6


def obvious(logits: np.ndarray, settings: Sampling, uniform: float) -> int:
    """Everything is sorted, then cut off, then drawn from."""
    order = np.argsort(-logits, kind="stable")[: settings.top_k or None]
    odds = np.exp((logits[order].astype(np.float64) - logits[order[0]]) / settings.temperature)
    keep = len(odds)
    if settings.top_p < 1:
        keep = min(keep, int(np.searchsorted(np.cumsum(odds), settings.top_p * odds.sum())) + 1)
    if settings.min_p > 0:
        keep = min(keep, int(np.count_nonzero(odds >= settings.min_p * odds[0])))
    sums = np.cumsum(odds[: max(1, keep)])
    return int(order[min(np.searchsorted(sums, uniform * sums[-1], "right"), len(sums) - 1)])


@given(
    st.integers(0, 2**32),
    st.integers(1, 400),
    st.sampled_from([0.0, 0.05, 1.0, 6.0]),
    st.sampled_from([0, 1, 5, 1000]),
    st.sampled_from([1.0, 0.9, 0.5, 0.999999]),
    st.sampled_from([0.0, 1e-9, 0.1, 1.0]),
    st.floats(0, 1, exclude_max=True),
)
def test_sorting_only_the_first_few_changes_nothing(
    seed: int, size: int, spread: float, top_k: int, top_p: float, min_p: float, uniform: float
) -> None:
    """Flat and steep logits, with equals and minus infinities, drawn to the far end."""
    rng = np.random.default_rng(seed)
    logits = (np.round(rng.standard_normal(size), 1) * spread).astype(np.float32)
    logits[rng.random(size) < 0.2] = -np.inf
    logits[0] = 0.5
    settings = Sampling(temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p)
    before, sampling.FIRST_SORTED = sampling.FIRST_SORTED, 4
    try:
        near = [max(0.0, uniform - 1e-6), uniform, max(uniform, min(uniform + 1e-6, 1 - 1e-9))]
        near = [obvious(logits, settings, u) for u in near]
        assert sampling._drawn(logits, settings, uniform) in near
    finally:
        sampling.FIRST_SORTED = before


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("n_allowed", [1, 3, 200])
def test_what_a_grammar_forbids_is_not_sorted(n_allowed: int, top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(n_allowed)
    allowed = rng.choice(50_000, n_allowed, replace=False)
    logits = np.full(50_000, -np.inf, np.float32)
    logits[allowed] = rng.standard_normal(n_allowed)
    likeliest, sorted_of = sampling._likeliest, []
    monkeypatch.setattr(sampling, "_likeliest", lambda rows, n: sorted_of.append(len(rows)) or likeliest(rows, n))
    settings = Sampling(temperature=0.8, top_p=top_p)
    for uniform in (0.0, 0.3, 0.7, 0.999):
        assert sampling._drawn(logits, settings, uniform) == obvious(logits, settings, uniform)
    assert set(sorted_of) == {n_allowed}


def test_presence_and_frequency_count_what_was_sampled() -> None:
    logits = np.array([2.0, 1.5, 1.2], np.float32)
    assert sample(logits, [0, 0, 0], Sampling(presence_penalty=1.0), 0) == 0  # those are the prompt's
    assert sample(logits, [2, 0], Sampling(presence_penalty=1.0), 1) == 1
    assert sample(logits, [0], Sampling(frequency_penalty=0.4), 1) == 0
    assert sample(logits, [0, 0], Sampling(frequency_penalty=0.4), 2) == 1
    assert sample(logits, [1, 1], Sampling(presence_penalty=-0.6), 1) == 1


def test_the_random_numbers_are_even() -> None:
    """Along steps and along seeds, neighbouring ones above all."""
    for numbers in ([sampling._uniform(1, i) for i in range(20000)], [sampling._uniform(i, 0) for i in range(20000)]):
        counts = np.bincount((np.array(numbers) * 100).astype(int), minlength=100)
        assert ((counts - 200) ** 2 / 200).sum() < 160  # chi-squared of 99 degrees: below in all but 1 of 10,000
        pairs = np.corrcoef(numbers[:-1], numbers[1:])[0, 1]
        assert abs(pairs) < 0.03
