"""Stage: a contiguous range of layers on one device, with the embedding if it starts the model and the head if it ends
it. Knows its layers, its KV cache and its clock; not where the routed experts live (`PlacedExperts` does)."""

import threading
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from motley.engine.experts import PlacedExperts
from motley.engine.remembered import (
    MOST_PROMPTS,
    MOST_REMEMBERED,
    MOST_TOKENS,
    Doing,
    Faster,
    Halves,
    RememberedStep,
    can_be_halved,
)
from motley.engine.rows import PlacedRows
from motley.engine.times import Clock
from motley.models.config import Config
from motley.models.feed_forward import Lap, RunExperts
from motley.models.layers import Embedding, Head
from motley.models.loader import Loader
from motley.models.registry import family
from motley.models.rows import RunRows
from motley.ops.protocol import Array, Batch
from motley.shape.mixer import CacheType


class Stage:
    """`layers`: a non-empty range; only their tensors are loaded."""

    def __init__(
        self,
        config: Config,
        load: Loader,
        layers: range,
        experts: PlacedExperts,
        rows: PlacedRows,
        clock: Clock,
        *,
        head_rows: range | None = None,
        n_slots: int,
        context: int,
        cache: CacheType | None,
    ) -> None:
        self._ops, self._clock, self._vocab = load.ops, clock, config.vocab_size
        self._experts, self._rows = experts, rows
        module = family(config.architecture)
        self._embedding = Embedding(config, load) if layers.start == 0 else None
        self._blocks = [module.layer(config, load, index) for index in layers]
        self._head = Head(config, load, head_rows) if layers.stop == config.n_layers else None
        self._states = [block.attention.state(load.ops, n_slots, context, cache) for block in self._blocks]

        self._doing = Doing(load.ops, experts, rows, clock)
        self._asks_others = bool(experts.remotes or rows.remotes)
        self._remembered: dict[tuple[int, bool], RememberedStep | Halves] = {}  # (tokens, in halves), the latest last
        self._prompts: dict[tuple[int, int], RememberedStep | None] = {}  # (tokens, rows); None: came once
        self._faster: dict[int, Faster] = {}  # by number of tokens: whole, or in halves
        self._one_at_a_time = threading.Lock()  # a remembered step has one set of arrays

    def forward(self, batch: Batch, x: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """x [T, D] from the stage before (None for the first) -> x [T, D], or logits [R, V] from the last."""
        clock = self._clock
        with self._one_at_a_time:
            clock.start()
            out = self._from_memory(batch, x)
            if out is None:
                out = self._ops.to_host(self._run(batch, x, self._experts, self._rows, clock.lap))
            clock.lap("other")
            return out

    def _run(self, batch: Batch, x: NDArray[np.float32] | None, experts: RunExperts, rows: RunRows, lap: Lap) -> Array:
        ops = self._ops
        h: Array = self._embedding(ops, batch) if self._embedding else ops.from_host(x)  # type: ignore[arg-type]
        for block, state in zip(self._blocks, self._states):
            h = block(ops, h, batch, state, rows, experts, lap)
        if self._head is None:
            return h
        if not len(batch.rows):  # a chunk in the middle of a prompt wants no logits
            ops.start(h)
            return ops.from_host(np.empty((0, self._vocab), np.float32))
        h = self._head(ops, h, batch, rows)
        lap("head")
        return h

    def _from_memory(self, batch: Batch, x: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """A step that decodes, if the device can remember it: whole, or in halves where others are asked and that is
        faster. A prompt's chunk where the device says that it's worth it."""
        n = len(batch)
        if n != len(batch.rows) or n > MOST_TOKENS:
            return self._from_prompts(batch, x) if self._ops.remembers_prompts else None
        if not (self._asks_others and can_be_halved(batch)):
            return self._remembered_step(batch, x, halves=False)
        faster, started = self._faster.setdefault(n, Faster()), perf_counter()
        halves = faster.second()
        out = self._remembered_step(batch, x, halves)
        faster.note(halves, perf_counter() - started)
        return out

    def _from_prompts(self, batch: Batch, x: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """From the second time on that as many tokens come: most prompts' last chunk has a length of its own."""
        key = len(batch), len(batch.rows)
        came, step = key in self._prompts, self._prompts.pop(key, None)
        while len(self._prompts) >= MOST_PROMPTS:
            del self._prompts[next(iter(self._prompts))]
        if step is not None:
            self._prompts[key] = step
            return step.run(batch, x)
        step = self._prompts[key] = RememberedStep(self._doing, self._run, batch, x) if came else None
        return step.out if step else None

    def _remembered_step(self, batch: Batch, x: NDArray[np.float32] | None, halves: bool) -> NDArray[np.float32] | None:
        key = len(batch), halves
        step = self._remembered.pop(key, None)
        if step is not None:
            self._remembered[key] = step
            return step.run(batch, x) if step.works else None
        while sum(s.n_tokens for s in self._remembered.values()) + len(batch) > MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        step = self._remembered[key] = (Halves if halves else RememberedStep)(self._doing, self._run, batch, x)
        return step.out if step.works else None
