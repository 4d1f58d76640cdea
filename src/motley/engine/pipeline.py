"""Long prompts through layers that are split over devices: in chunks, so that all stages work at the same time.

While a stage works on a chunk, the one before it works on the next. Every stage gets its chunks in their order, so keys
and values are written as if the prompt had come whole, and a token's bits don't depend on the chunks.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from motley.ops.protocol import Batch

LEAST = 64  # tokens of a chunk: smaller ones multiply less well
CHUNKS_A_STAGE = 2  # with S stages and 2 S chunks, (3 S - 1) / 2 S of the slowest stage's time, not S of it

Floats = NDArray[np.float32]


class Stage(Protocol):
    """`start` hands over; `finish` waits, or works now where `here` says that the stage is in this process."""

    here: bool

    def start(self, batch: Batch, x: Floats | None) -> None: ...

    def finish(self) -> Floats: ...


def chunks_of(batch: Batch, n_stages: int) -> list[Batch]:
    """One, where the batch is too short to be cut."""
    size = max(LEAST, -(-len(batch) // (CHUNKS_A_STAGE * n_stages)))
    if n_stages < 2 or len(batch) < 2 * LEAST:
        return [batch]
    return [_part(batch, first, min(first + size, len(batch))) for first in range(0, len(batch), size)]


def run(stages: Sequence[Stage], batch: Batch, chunks: Sequence[Batch]) -> Floats:
    """-> logits of the batch's rows, in their order"""
    done: dict[int, list[Floats]] = {stage: [] for stage in range(len(stages))}
    for tick in range(len(chunks) + len(stages) - 1):
        active = [s for s in range(len(stages)) if 0 <= tick - s < len(chunks)]
        for s in active:
            x = done[s - 1][tick - s] if s else None
            stages[s].start(chunks[tick - s], x)
        for s in sorted(active, key=lambda s: not stages[s].here):  # what is here works while the others do
            done[s].append(stages[s].finish())
    return _in_order(batch, chunks, done[len(stages) - 1])


def _part(batch: Batch, first: int, end: int) -> Batch:
    rows = batch.rows[(batch.rows >= first) & (batch.rows < end)] - first
    cut = slice(first, end)
    return Batch(batch.tokens[cut], batch.positions[cut], batch.slots[cut], rows)


def _in_order(batch: Batch, chunks: Sequence[Batch], logits: Sequence[Floats]) -> Floats:
    """Each chunk gives its rows as the batch has them; the batch may name them in any order."""
    ends = np.cumsum([len(chunk) for chunk in chunks])
    chunk_of = np.searchsorted(ends, batch.rows, side="right")
    come = np.argsort(chunk_of, kind="stable")  # the order in which they came
    found = np.concatenate([some for some, chunk in zip(logits, chunks) if len(chunk.rows)] or [logits[-1]])
    out = np.empty_like(found)
    out[come] = found
    return out
