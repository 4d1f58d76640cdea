"""A decoder's layers, embedding and head, written once against `ops.protocol`. A family file composes them of the
blocks in `attention`, `deltanet` and `feed_forward`; none of these knows a family, a file format or where an expert
lives.

T tokens, D model width, R rows that want logits, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from motley.models.config import Config
from motley.models.feed_forward import Lap, RunExperts
from motley.models.loader import Loader
from motley.models.rows import Rows, RunRows
from motley.ops.protocol import Array, Batch, Ops
from motley.shape.mixer import CacheType

State = Any  # what a layer remembers of its sequences; position 0 starts a sequence anew


class Attention(Protocol):
    """Mixes a sequence's tokens; what it remembers of them is its `state`."""

    def state(self, ops: Ops, n_slots: int, context: int, cache: CacheType | None) -> State: ...

    def __call__(self, ops: Ops, x: Array, batch: Batch, state: State, rows: RunRows) -> Array: ...


class FeedForward(Protocol):
    """Works on each token alone."""

    def __call__(self, ops: Ops, x: Array, experts: RunExperts, lap: Lap) -> Array: ...


@dataclass(frozen=True)
class Layer:
    attention: Attention
    ffn: FeedForward

    def __call__(
        self, ops: Ops, x: Array, batch: Batch, state: State, rows: RunRows, experts: RunExperts, lap: Lap
    ) -> Array:
        """x [T, D] -> [T, D]"""
        x = self.attention(ops, x, batch, state, rows)
        lap("attention")
        return self.ffn(ops, x, experts, lap)


class Embedding:
    def __init__(self, config: Config, load: Loader) -> None:
        self.scale = config.embedding_scale
        self.token_embd = load.table("token_embd.weight", config.vocab_size, config.d_model)

    def __call__(self, ops: Ops, batch: Batch) -> Array:
        """-> [T, D]"""
        x = ops.embed(self.token_embd, batch.tokens)
        return x if self.scale == 1.0 else ops.scale(x, self.scale)


def output_rows(config: Config, load: Loader, rows: range | None = None) -> Rows:
    """Of the output matrix, all or a run; without a matrix of its own a model's is tied to the embedding's."""
    name = "output.weight" if load.has("output.weight") else "token_embd.weight"
    return Rows(load, [(name, config.vocab_size)], config.d_model, rows)


class Head:
    """Final norm of the tokens that want logits, and the output matrix, or the rows of it that are here."""

    def __init__(self, config: Config, load: Loader, rows: range | None = None) -> None:
        self.config = config
        self.output_norm = load.weight("output_norm.weight", config.d_model)
        self.output = output_rows(config, load, rows)

    def __call__(self, ops: Ops, x: Array, batch: Batch, run: RunRows) -> Array:
        """x [T, D] -> logits [R, V]"""
        c = self.config
        (logits,) = run(self.output, ops.rms_norm(ops.take(x, batch.rows), self.output_norm, c.eps))
        if c.logit_scale != 1.0:
            logits = ops.scale(logits, c.logit_scale)
        return ops.softcap(logits, c.logit_cap) if c.logit_cap else logits
