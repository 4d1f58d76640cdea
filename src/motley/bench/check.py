"""The exactness check: the placed model must answer as one device does.

Each side is recorded on its own (`record`), so that the two never share memory, and compared afterwards (`compare`).
The prompt's last logits and every greedy token's logits are kept; the reference follows the placed model's tokens, so
that one flipped tie does not make all later rows incomparable.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motley.bench.result import Check
from motley.engine.runner import Runner
from motley.errors import CheckFailed
from motley.ops.protocol import Batch
from motley.predict.workload import STEP_TOKENS
from motley.progress import Progress, silent

CHECK_CONTEXT = 256  # cache positions that the check's prompts and answers need


@dataclass(frozen=True)
class Answer:
    """One prompt's trace: `followed[i]` was fed after row i; row i's own choice is its argmax."""

    logits: NDArray[np.float32]  # [n_greedy, V]
    followed: NDArray[np.int32]  # [n_greedy]

    @property
    def chosen(self) -> NDArray[np.int32]:
        return np.asarray(np.argmax(self.logits, axis=1), np.int32)


def record(
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    n_greedy: int,
    follow: Sequence[Answer] | None = None,
    progress: Progress = silent,
    chunk: int = STEP_TOKENS,
) -> list[Answer]:
    """Read each prompt, then generate greedily; with `follow`, feed the tokens of those answers instead.
    `chunk`: tokens of a prompt a step."""
    answers = []
    for i, prompt in enumerate(prompts):
        progress(f"check: prompt {i + 1} of {len(prompts)}", i / len(prompts))
        answers.append(_answer(runner, prompt, n_greedy, follow[i].followed if follow else None, chunk))
    progress("check", 1.0)
    return answers


def _answer(
    runner: Runner, prompt: Sequence[int], n_greedy: int, given: NDArray[np.int32] | None, chunk: int
) -> Answer:
    slot = 0
    row = _read_prompt(runner, prompt, slot, chunk)
    rows, followed = [row], []
    for i in range(n_greedy):
        token = int(np.argmax(row)) if given is None else int(given[i])
        followed.append(token)
        if i + 1 == n_greedy:
            break
        row = runner.step(Batch([token], [len(prompt) + i], [slot], [0]))[0].copy()
        rows.append(row)
    return Answer(np.stack(rows), np.array(followed, np.int32))


def _read_prompt(runner: Runner, prompt: Sequence[int], slot: int, chunk: int) -> NDArray[np.float32]:
    """Logits [V] after the prompt's last token."""
    if not prompt:
        raise ValueError("the check needs at least one prompt token")
    for first in range(0, len(prompt), chunk):
        tokens = prompt[first : first + chunk]
        n = len(tokens)
        logits = runner.step(Batch(tokens, range(first, first + n), [slot] * n, [n - 1]))
    last: NDArray[np.float32] = logits[0].copy()
    return last


def compare(
    placed: Sequence[Answer], reference: Sequence[Answer], name: str = "one device", kinds_differ: bool = False
) -> Check:
    """max|a-b|, max|a-b| / max|b| over all rows, and how many greedy choices agree. Not a number anywhere: failed.
    `kinds_differ`: the two were computed by kernels that round differently (`Check.passed`)."""
    if len(placed) != len(reference) or not placed:
        raise ValueError(f"{len(placed)} placed answers, {len(reference)} reference answers")
    a = np.concatenate([answer.logits for answer in placed]).astype(np.float64)
    b = np.concatenate([answer.logits for answer in reference]).astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise CheckFailed("the logits hold infinities or NaN: the model file or a kernel is broken")
    gap = float(np.abs(a - b).max())
    equal = sum(int((p.chosen == r.chosen).sum()) for p, r in zip(placed, reference))
    return Check(
        reference=name,
        max_abs_logit_diff=gap,
        max_rel_logit_diff=gap / (float(np.abs(b).max()) or 1.0),
        greedy_tokens_equal=equal,
        greedy_tokens_compared=len(a),
        logit_rows_compared=len(a),
        kinds_differ=kinds_differ,
    )
