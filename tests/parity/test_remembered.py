"""Steps run from memory against the same steps through Python, to the bit."""

from pathlib import Path

import numpy as np
import pytest

from motley.engine import stage
from motley.engine.local import LocalRunner
from motley.engine.runner import Runner
from motley.formats.checkpoint import open_checkpoint
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch
from tiny_models import FAMILIES, write_tiny

PROMPTS = {0: [5, 6, 7, 8, 9], 1: [300], 2: [17, 4]}
# the slots that decode in each step: numbers of tokens come again with other slots, in another order
STEPS = [[0], [1], [0, 1], [2, 0], [0, 1, 2], [2], [1, 2, 0], [1, 0]]


def decode(runner: Runner) -> list[np.ndarray]:
    length = dict.fromkeys(PROMPTS, 0)
    for slot, prompt in PROMPTS.items():
        runner.step(Batch(prompt, range(len(prompt)), [slot] * len(prompt), []))
        length[slot] = len(prompt)
    logits = []
    for i, slots in enumerate(STEPS):
        tokens = [(31 * i + 7 * slot) % 320 for slot in slots]
        logits.append(runner.step(Batch(tokens, [length[s] for s in slots], slots, range(len(slots)))))
        for slot in slots:
            length[slot] += 1
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_remembered_steps_give_the_same_logits_and_counts(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, family, "q4_k"))

    def run() -> tuple[list[np.ndarray], np.ndarray, dict[str, float]]:
        runner = LocalRunner(checkpoint, NativeOps(threads=2), n_slots=3, context=32)
        logits = decode(runner)
        routes, times = runner.routes(), runner.times().parts()
        runner.close()
        return logits, routes, times

    remembered, routes, times = run()
    monkeypatch.setattr(stage, "MOST_TOKENS", 0)
    through_python, expected_routes, _ = run()
    for got, want in zip(remembered, through_python, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(routes, expected_routes)
    assert all(times[part] > 0 for part in ("attention", "router", "experts", "head", "python"))
    assert all(seconds >= 0 for seconds in times.values())


def test_a_remembered_step_that_fails_does_no_harm(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "olmoe", "q8_0"))
    runner = LocalRunner(checkpoint, NativeOps(threads=1), n_slots=1, context=4)
    steps = [runner.step(Batch([9], [i], [0], [0])) for i in range(4)]
    with pytest.raises(ValueError, match="context of 4"):
        runner.step(Batch([9], [4], [0], [0]))
    with pytest.raises(ValueError, match="token 999 is outside"):
        runner.step(Batch([999], [0], [0], [0]))
    for i, want in enumerate(steps):
        np.testing.assert_array_equal(runner.step(Batch([9], [i], [0], [0])), want)
    runner.close()


def test_logits_of_one_step_are_not_overwritten_by_the_next(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "olmoe", "q8_0"))
    runner = LocalRunner(checkpoint, NativeOps(threads=1), n_slots=1, context=8)
    first = [runner.step(Batch([9], [i], [0], [0])) for i in range(3)]
    kept = [logits.copy() for logits in first]
    runner.step(Batch([10], [3], [0], [0]))
    for logits, copy in zip(first, kept):
        np.testing.assert_array_equal(logits, copy)
    runner.close()
