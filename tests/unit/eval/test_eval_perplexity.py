"""Perplexity against its slow obvious twin, whatever the sizes of windows, steps and blocks."""

import math

import numpy as np
import pytest
from toy_runner import ToyRunner

from motley.errors import CheckFailed
from motley.eval import scoring
from motley.eval.perplexity import Perplexity, window_nll
from motley.eval.windows import Windows

V = 40


def twin(runner: ToyRunner, windows: Windows) -> list[float]:
    """Each scored token's negative log-likelihood, one by one, by the definition of the softmax."""
    found = []
    for window in windows.tokens.tolist():
        for position in range(windows.context // 2, windows.context - 1):
            logits = [float(x) for x in runner.logits_after(window[: position + 1])]
            top = max(logits)
            total = math.fsum(math.exp(x - top) for x in logits)
            found.append(math.log(total) + top - logits[window[position + 1]])
    return found


@pytest.mark.parametrize("context", [4, 7, 33, 512, 1100])
@pytest.mark.parametrize("most", [1, 3 * V, 1 << 24])
def test_every_token_is_its_twins(context: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MOST_LOGITS", most)
    monkeypatch.setattr(scoring, "MOST_DOUBLES", max(1, most // 2))
    runner = ToyRunner(V)
    windows = Windows(np.random.default_rng(1).integers(0, V, (3, context)).astype(np.int32))
    score = Perplexity()
    for i in range(len(windows)):
        score.add(window_nll(runner, windows, i, V))
    expected = twin(runner, windows)
    mean = math.fsum(expected) / len(expected)
    variance = math.fsum((x - mean) ** 2 for x in expected) / (len(expected) - 1)
    assert score.windows == 3
    assert score.tokens == len(expected)
    assert score.mean_nll == pytest.approx(mean, rel=1e-12)
    assert score.value == pytest.approx(math.exp(mean), rel=1e-12)
    assert score.error == pytest.approx(math.exp(mean) * math.sqrt(variance / len(expected)), rel=1e-9)
    assert max(runner.steps) <= 512


@pytest.mark.parametrize("shift", [0.0, 3e4, -3e4])
def test_large_logits_lose_nothing(shift: float) -> None:
    logits = np.array([[700.0, -700.0, 3.25, 0.0]], np.float32) + np.float32(shift)
    expected = logits.astype(np.float64) - float(logits.max())
    assert scoring.log_softmax(logits) == pytest.approx(expected, abs=1e-12)


def test_certainty_and_guessing() -> None:
    windows = Windows(np.tile(np.arange(8, dtype=np.int32), (1, 2)))
    even = ToyRunner(V, spread=0.0)
    score = Perplexity()
    score.add(window_nll(even, windows, 0, V))
    assert score.value == pytest.approx(V)
    assert score.error == pytest.approx(0, abs=1e-12)


def test_a_broken_model_fails_the_check() -> None:
    runner = ToyRunner(V)
    runner._table[3] = np.nan
    with pytest.raises(CheckFailed, match="NaN"):
        window_nll(runner, Windows(np.full((1, 8), 3, np.int32)), 0, V)
