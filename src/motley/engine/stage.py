"""Stage: a contiguous range of layers on one device, with the embedding if it starts the model and the head if it ends
it. Knows its layers, its KV cache and its clock; not where the routed experts live (`RunExperts` does)."""

import numpy as np
from numpy.typing import NDArray

from motley.engine.times import Clock
from motley.models.config import Config
from motley.models.layers import Embedding, Head, Loader, RunExperts
from motley.models.registry import family
from motley.ops.protocol import Array, Batch


class Stage:
    """`layers`: a non-empty range; only their tensors are loaded."""

    def __init__(
        self,
        config: Config,
        load: Loader,
        layers: range,
        experts: RunExperts,
        clock: Clock,
        *,
        n_slots: int,
        context: int,
    ) -> None:
        self._ops, self._experts, self._clock, self._vocab = load.ops, experts, clock, config.vocab_size
        module = family(config.architecture)
        self._embedding = Embedding(config, load) if layers.start == 0 else None
        self._blocks = [module.layer(config, load, index) for index in layers]
        self._head = Head(config, load) if layers.stop == config.n_layers else None
        self._states = [block.attention.state(load.ops, n_slots, context) for block in self._blocks]

    def forward(self, batch: Batch, x: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """x [T, D] from the stage before (None for the first) -> x [T, D], or logits [R, V] from the last."""
        ops, clock = self._ops, self._clock
        clock.start()
        h: Array = self._embedding(ops, batch) if self._embedding else ops.from_host(x)  # type: ignore[arg-type]
        for block, state in zip(self._blocks, self._states):
            h = block(ops, h, batch, state, self._experts, clock.lap)
        if self._head and not len(batch.rows):  # a chunk in the middle of a prompt wants no logits
            return np.empty((0, self._vocab), np.float32)
        if self._head:
            h = self._head(ops, h, batch)
        out: NDArray[np.float32] = ops.to_host(h)
        clock.lap("head" if self._head else "other")
        return out
