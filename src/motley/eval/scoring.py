"""One window through a model: the logits of its scored predictions, and probabilities from logits.

Logits come in blocks of rows, so that a large vocabulary takes little memory; how a window is cut into steps does not
change a bit of them (the exactness principle). Everything after the logits is float64.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from motley.engine.runner import Runner
from motley.errors import CheckFailed
from motley.eval.windows import Windows
from motley.ops.protocol import Batch
from motley.predict.workload import STEP_TOKENS

MOST_LOGITS = 1 << 24  # of one step: 64 MiB
MOST_DOUBLES = 1 << 22  # of a block that is worked on in float64: 32 MiB

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def scored_logits(runner: Runner, windows: Windows, i: int, n_vocab: int) -> Iterator[tuple[slice, Floats]]:
    """Feed window i; yield its scored logits in order: which of the window's `scored` they are, and float32 [R, V].

    A block is the runner's own array: the next step may write over it. Raises CheckFailed for NaN or infinity."""
    first, end = windows.first, windows.context - 1  # nothing is asked about what follows the last token
    most = max(1, min(STEP_TOKENS, MOST_LOGITS // n_vocab))
    start = 0
    while start < end:
        stop = min(start + STEP_TOKENS, max(start, first) + most, end)
        rows = range(max(first, start) - start, stop - start)
        tokens = windows.tokens[i, start:stop]
        logits = runner.step(Batch(tokens, range(start, stop), [0] * len(tokens), rows))
        if rows:
            if not np.isfinite(logits).all():
                raise CheckFailed("the logits hold infinities or NaN: the model file or a kernel is broken")
            yield slice(start + rows.start - first, stop - first), logits
        start = stop


def log_softmax(logits: Floats) -> Doubles:
    """[R, V] -> float64 [R, V]: log-probabilities."""
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def blocks(n_rows: int, n_vocab: int) -> Iterator[slice]:
    """Rows [0, n_rows) in pieces that may be worked on in float64."""
    step = max(1, MOST_DOUBLES // n_vocab)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))
