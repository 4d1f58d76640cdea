"""Runner: one step of a whole placed model. What the engine, the benches and the checks drive."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from motley.engine.times import StepTimes
from motley.ops.protocol import Batch


class Runner(Protocol):
    """A loaded model with a KV cache of `n_slots` sequences of `context` tokens."""

    n_slots: int
    context: int

    def step(self, batch: Batch) -> NDArray[np.float32]:
        """-> logits [R, V] of the rows asked for"""
        ...

    def times(self) -> StepTimes:
        """Cumulative, all stages together."""
        ...

    def chosen(self) -> NDArray[np.int64]:
        """How often each expert was chosen so far: [layers, E]."""
        ...


class StageRunner(Protocol):
    """A stage here (`engine.stage.Stage`) or on another node (`cluster.remote.RemoteStage`)."""

    def forward(self, batch: Batch, x: NDArray[np.float32] | None) -> NDArray[np.float32]: ...


def run_stages(stages: Sequence[StageRunner], batch: Batch) -> NDArray[np.float32]:
    """Hand x from stage to stage; the last gives logits."""
    x: NDArray[np.float32] | None = None
    for stage in stages:
        x = stage.forward(batch, x)
    if x is None:
        raise ValueError("a model has at least one stage")
    return x
