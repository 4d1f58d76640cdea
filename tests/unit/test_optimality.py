"""Small questions against the true optimum (benchmarks/placement runs a thousand of them)."""

import sys
from math import inf
from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="the true optimum is found by scipy's HiGHS: pip install scipy")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "placement"))

from cases import case
from optimality import LIMIT, gap, planned
from optimum import optimum


@pytest.mark.parametrize("seed", range(2000, 2040))
def test_small_questions_are_answered_nearly_as_well_as_possible(seed: int) -> None:
    question = case(seed)
    found, best = planned(question, seconds=300), optimum(question)
    assert -1e-3 < gap(found, best) < LIMIT


def test_the_usual_time_is_used_well() -> None:
    """Which may be cut short where the machine is busy."""
    question = case(2000)
    assert -1e-3 < gap(planned(question), optimum(question)) < 10 * LIMIT


@pytest.mark.parametrize("seed", [2042, 2045, 2050, 2062, 2065])
def test_larger_ones_too(seed: int) -> None:
    question = case(seed, larger=True)
    found, best = planned(question, seconds=300), optimum(question)
    assert -1e-3 < gap(found, best) < LIMIT


def test_the_program_finds_what_pricing_every_state_finds() -> None:
    compared = 0
    for seed in range(3000, 3200):
        question = case(seed)
        size = question.shape.n_experts * question.shape.n_layers * len(question.lab.devices)
        if size > 16:
            continue
        program, by_hand = optimum(question), optimum(question, by_hand=True)
        assert program == pytest.approx(by_hand, rel=2e-4) if by_hand < inf else program == inf
        compared += by_hand < inf
    assert compared >= 5
