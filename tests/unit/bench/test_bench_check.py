"""The exactness check must pass on equals, and fail on any difference that matters."""

import numpy as np
import pytest
from bench_fakes import FakeRunner

from motley.bench.check import Answer, compare, record
from motley.errors import CheckFailed

PROMPTS = [[1, 2, 3], list(range(40))]


def test_equal_runners_pass() -> None:
    placed = record(FakeRunner(), PROMPTS, 10)
    check = compare(placed, record(FakeRunner(), PROMPTS, 10, follow=placed))
    assert (check.max_abs_logit_diff, check.max_rel_logit_diff) == (0.0, 0.0)
    assert (check.greedy_tokens_equal, check.greedy_tokens_compared) == (20, 20)
    assert check.passed


def test_differences_are_measured() -> None:
    placed = record(FakeRunner(error=0.5), PROMPTS, 10)
    check = compare(placed, record(FakeRunner(), PROMPTS, 10, follow=placed))
    assert check.max_abs_logit_diff == pytest.approx(0.5, rel=1e-5)
    assert check.max_rel_logit_diff == pytest.approx(0.5 / max_abs(PROMPTS, placed), rel=1e-5)
    assert not check.passed


def max_abs(prompts: list[list[int]], placed: list[Answer]) -> float:
    return max(float(np.abs(a.logits).max()) for a in record(FakeRunner(), prompts, 10, follow=placed))


def test_one_flipped_token_does_not_spoil_the_rest() -> None:
    """The reference follows the placed model's tokens, so every row has the same history."""
    placed = record(FakeRunner(error=30.0), PROMPTS, 10)  # token 0 always wins
    assert set(placed[0].followed.tolist()) == {0}
    check = compare(placed, record(FakeRunner(), PROMPTS, 10, follow=placed))
    assert check.max_abs_logit_diff == pytest.approx(30.0, rel=1e-5)  # and not the gap of strangers' rows
    assert check.greedy_tokens_equal < check.greedy_tokens_compared
    assert not check.passed


def test_greedy_feeds_its_own_choice() -> None:
    runner = FakeRunner()
    (answer,) = record(runner, [[7, 8]], 5)
    fed = [int(b.tokens[0]) for b in runner.batches[1:]]
    assert fed == answer.followed.tolist()[:-1] == answer.chosen.tolist()[:-1]
    assert [int(b.positions[0]) for b in runner.batches[1:]] == [2, 3, 4, 5]


def test_a_tiny_gap_on_large_logits_is_relative() -> None:
    big = [Answer(np.array([[1e4, 2.0]], np.float32), np.array([0], np.int32))]
    off = [Answer(np.array([[1e4, 2.5]], np.float32), np.array([0], np.int32))]
    check = compare(off, big)
    assert check.max_rel_logit_diff == pytest.approx(5e-5)
    assert check.passed


def test_not_a_number_is_a_failure_not_a_pass() -> None:
    bad = [Answer(np.array([[np.nan, 1.0]], np.float32), np.array([0], np.int32))]
    with pytest.raises(CheckFailed, match="NaN"):
        compare(bad, bad)
