"""Mixer: what one layer keeps of a sequence, and what a token reads back of it.

One formula serves every kind. Of `depth` positions a token attends to (itself included), a layer keeps the last
`window` one by one, and of all of them one entry for every `ratio` positions (1: each; 0: none); where `top_k` is set,
an indexer reads `index_width` elements of each such entry, and only the best `top_k` entries are read whole. A
recurrent state has the same size at any depth; it is read and written back by every token.

Elements are counted apart: the cache's have the width that an engine stores (2 bytes, f16, unless said otherwise), a
recurrent state's are f32 (`STATE_BYTES`), as llama.cpp, vLLM and MLX keep them.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

Kind = Literal["full", "window", "latent", "sparse", "linear", "none"]

STATE_BYTES = 4
BESIDE = 256  # positions that Motley keeps beside a window: some of a prompt are stored before the first attends

# How a cache is stored: q8_0 is GGUF's, int8 in blocks of 32 with an f16 scale.
CacheType = Literal["f16", "f32", "q8_0"]
ELEMENT_BYTES: dict[CacheType, float] = {"f16": 2.0, "f32": 4.0, "q8_0": 34 / 32}


@dataclass(frozen=True)
class Mixer:
    """One layer's. `width`, `index_width`, `state` are elements, `work` multiply-adds of all heads per entry attended
    to."""

    kind: Kind = "none"
    width: int = 0  # elements kept per entry: keys and values of all key/value heads, or the latent and its rope part
    work: int = 0  # of a token that decodes
    prefill_work: int = 0  # where a prompt is computed otherwise (latent attention expands its cache); 0: the same
    ratio: int = 1  # positions per entry; 0: no entries beyond the window
    window: int = 0  # latest positions kept one by one; 0: none
    top_k: int = 0  # entries read whole; 0: all
    index_width: int = 0  # elements of an entry that the indexer reads
    index_work: int = 0  # multiply-adds of the indexer per entry
    state: int = 0  # recurrent state and the inputs that its convolution remembers
    state_work: int = 0  # multiply-adds per token over the state
    kept: bool = True  # False: reads the cache that an earlier layer keeps

    # -- kinds
    @classmethod
    def full(cls, n_heads: int, n_kv_heads: int, key_dim: int, value_dim: int | None = None) -> Self:
        """Grouped-query attention over everything; `value_dim` where it differs from the keys'."""
        value = key_dim if value_dim is None else value_dim
        return cls("full", width=n_kv_heads * (key_dim + value), work=n_heads * (key_dim + value))

    @classmethod
    def latent(cls, n_heads: int, rank: int, rope: int, nope: int, value_dim: int) -> Self:
        """Multi-head latent attention. Decoding absorbs the up-projections into query and output: a head then works
        on rank + rope for the score and on rank for the value; a prompt works on the expanded heads."""
        return cls(
            "latent",
            width=rank + rope,
            work=n_heads * (2 * rank + rope),
            prefill_work=n_heads * (nope + rope + value_dim),
        )

    @classmethod
    def linear(cls, state: int, state_work: int) -> Self:
        """Constant state: Gated DeltaNet, Kimi delta attention, Mamba-2, lightning attention, short convolutions."""
        return cls("linear", ratio=0, state=state, state_work=state_work)

    @classmethod
    def none(cls) -> Self:
        """A layer that is only a feed-forward block."""
        return cls(ratio=0)

    def windowed(self, window: int) -> Self:
        """The same, over the last `window` positions only. An attention chunk (Llama 4) counts as a window."""
        return replace(self, kind="window", ratio=0, window=window)

    def indexed(self, top_k: int, index_heads: int, index_dim: int) -> Self:
        """The same, reading only the entries that an indexer with one key per entry picks."""
        return replace(
            self, kind="sparse", top_k=top_k, index_width=index_dim, index_work=index_heads * (index_dim + 1)
        )

    def beside(self, other: "Mixer") -> Self:
        """Attention and a recurrent state in one layer (Falcon-H1)."""
        return replace(self, state=self.state + other.state, state_work=self.state_work + other.state_work)

    # -- memory
    def elements_kept(self, context: float, beside: int = 0) -> float:
        """Cache elements for a sequence of `context` positions, `beside` more than a window's, without the state."""
        if not self.kept:
            return 0.0
        entries, near = self._entries(context), min(context, self.window + beside) if self.window else 0
        return (entries + near) * self.width + entries * self.index_width

    def elements_read(self, depth: float) -> float:
        """Cache elements that a token reads which attends to `depth` positions, without the state."""
        entries = self._entries(depth)
        return self._attended(depth) * self.width + entries * self.index_width

    def bytes_kept(self, context: float, element_bytes: float = 2, beside: int = 0) -> float:
        return self.elements_kept(context, beside) * element_bytes + self.state * STATE_BYTES

    def bytes_read(self, depth: float, element_bytes: float = 2) -> float:
        """The state counts twice: it is read and written back."""
        return self.elements_read(depth) * element_bytes + 2 * self.state * STATE_BYTES

    # -- work
    def operations(self, depth: float, prefill: bool = False) -> float:
        """Of a token that attends to `depth` positions, two per multiply-add; the projections not included."""
        work = self.prefill_work if prefill and self.prefill_work else self.work
        return 2 * (self._attended(depth) * work + self._entries(depth) * self.index_work + self.state_work)

    # -- inside
    def _entries(self, depth: float) -> float:
        return depth / self.ratio if self.ratio else 0

    def _attended(self, depth: float) -> float:
        entries = self._entries(depth)
        return (min(entries, self.top_k) if self.top_k else entries) + min(depth, self.window)
