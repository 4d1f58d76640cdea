"""The operations a device must have. A model family is written once against these.

Owns the interface and the small parameter records. Implementations: `reference` (numpy, the truth), `native`
(C++ CPU kernels); later `tinygrad` and `mlx`. Arrays are the device's own (opaque to models): float32 unless
said otherwise, row-major, T tokens first. B sequences, D model width, H heads, K key/value heads, N head width,
E experts, A active experts, F expert width, V vocabulary.

The exactness principle: a token's arithmetic depends on nothing but the weights and its own sequence. Not on the
batch around it, the chunking of a prefill, the thread count, or who holds an expert. So no implementation splits
a dot product between threads, and the accumulation order is the same for one token and for many.

Bad dimensions are programming errors (ValueError with the numbers); an
unsupported quantisation raises UnsupportedError when the weight is uploaded, not later.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from motley.formats.tensor import QuantTensor

Array = Any  # the device's own array; float32 [T, ...]
Weight = Any  # an uploaded tensor
Experts = Any  # uploaded experts of one layer, possibly a subset
KVCache = Any  # one layer's keys and values


@dataclass(frozen=True)
class Rope:
    """Rotary embedding over the first `dim` of each head. `interleaved`: pairs (2i, 2i+1) as GGUF's llama has them;
    otherwise (i, i + dim/2), NeoX style."""

    dim: int
    theta: float
    interleaved: bool = False


@dataclass(frozen=True)
class Routing:
    """Softmax over all E logits, take the top A; `normalize`: divide the A weights by their sum."""

    n_used: int
    normalize: bool


class Batch:
    """The tokens of one step, any mixture of prefill and decode. Built on the host by the engine.

    tokens, positions, slots: int32 [T]. Token t belongs to the sequence in cache slot `slots[t]`, at
    `positions[t]`; tokens of one slot are contiguous and ascending. rows: int32 [R], which tokens want logits.
    """

    __slots__ = ("positions", "rows", "slots", "tokens")

    def __init__(
        self,
        tokens: Sequence[int] | NDArray[np.int32],
        positions: Sequence[int] | NDArray[np.int32],
        slots: Sequence[int] | NDArray[np.int32],
        rows: Sequence[int] | NDArray[np.int32],
    ) -> None:
        self.tokens = np.ascontiguousarray(tokens, np.int32)
        self.positions = np.ascontiguousarray(positions, np.int32)
        self.slots = np.ascontiguousarray(slots, np.int32)
        self.rows = np.ascontiguousarray(rows, np.int32)

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Upload:
    """How a weight is put on a device.

    repack: into the device's own order, in memory of its own, where that makes it faster. False: it stays where it is,
    in the file's mapping, and is put in order again at every use: there at once, slower, the same bits; the file must
    outlive it. A device that has one order only takes no notice.
    report: called now and then with the stored bytes that are done; what it raises ends the upload."""

    repack: bool = True
    report: Callable[[int], None] | None = None


REPACKED = Upload()


class Recording(Protocol):
    """What the work that is being remembered may say besides its operations."""

    def mark(self) -> None:
        """Times are wanted here."""
        ...

    def call(self, work: Callable[[], None], waits: bool = False) -> None:
        """Do the host's own part now, and again in its place at every run: it reads and fills arrays of the host that
        were there when the operations were remembered. `waits`: it may have to wait for others."""
        ...


class HostPart(NamedTuple):
    work: Callable[[], None]
    waits: bool


class Program(Protocol):
    """Operations remembered with their arrays, to be done again as one call: on what their inputs, the host's arrays
    among them (tokens, positions, slots, rows), hold then. The same arithmetic, so the same bits."""

    out: Array  # what the work returned; every run writes it anew

    def begin(self) -> None:
        """A new run, from the start."""
        ...

    def next(self) -> HostPart | None:
        """The operations up to the host's next part, which the caller then does; None at the end."""
        ...

    def marks(self) -> Sequence[tuple[float, float]]:
        """For each mark of this run: seconds since its start, and the device's busy seconds."""
        ...


class Ops(Protocol):
    """One device. Constructed with its own settings (threads, device name); holds no model."""

    name: str  # "reference", "native-avx512", ...

    # -- placing weights: raises UnsupportedError for a quantisation the device has no kernel for
    def weight(self, tensor: QuantTensor, upload: Upload = REPACKED) -> Weight:
        """A matrix [rows, cols] for `linear` or `router`; a vector [cols] for `rms_norm`."""
        ...

    def table(self, tensor: QuantTensor) -> Weight:
        """A matrix [rows, cols] for `embed`: only the rows that are asked for need ever be read."""
        ...

    def experts_weight(
        self, gate: QuantTensor, up: QuantTensor, down: QuantTensor, owned: Sequence[int], upload: Upload = REPACKED
    ) -> Experts:
        """The experts `owned` (global ids) of one layer. gate, up: [E, F, D]; down: [E, D, F]. Only the owned
        parts are read."""
        ...

    def kv_cache(self, n_slots: int, context: int, n_kv_heads: int, head_dim: int) -> KVCache:
        """One layer's keys and values for `n_slots` sequences of `context` positions, zeroed lazily."""
        ...

    # -- arithmetic
    def embed(self, table: Weight, tokens: NDArray[np.int32]) -> Array:
        """[T] -> [T, D]"""
        ...

    def rms_norm(self, x: Array, weight: Weight, eps: float) -> Array:
        """Over the weight's length W: x [T, M*W] is normalised in each of its M groups (M heads, or one)."""
        ...

    def linear(self, x: Array, *weights: Weight) -> tuple[Array, ...]:
        """x [T, cols] times each weight [rows, cols] transposed: [T, rows] each; one pass over x."""
        ...

    def rope(self, x: Array, head_dim: int, positions: NDArray[np.int32], rope: Rope) -> Array:
        """x [T, heads*N], rotated by position, may work in place."""
        ...

    def attention(self, q: Array, k: Array, v: Array, cache: KVCache, batch: Batch, scale: float) -> Array:
        """Store k, v [T, K*N] into the cache at (slot, position), then causal attention of q [T, H*N] over
        each token's own slot from position 0 to its own. -> [T, H*N]"""
        ...

    def router(self, x: Array, weight: Weight, routing: Routing) -> tuple[Array, Array]:
        """x [T, D] -> expert ids int32 [T, A], most wanted first (ties: lower id first), and weights [T, A].
        Computed in float32; NaN logits never select an id outside 0..E-1."""
        ...

    def experts(self, x: Array, ids: Array, weights: Array, experts: Experts) -> Array:
        """Sum over the A chosen experts that are owned here: weight * down(silu(gate x) * up x). x [T, D]
        -> float64 [T, D]; experts not owned contribute nothing, nor does an id of -1."""
        ...

    def combine(self, x: Array, parts: Sequence[Array]) -> Array:
        """x [T, D] + sum(parts, float64 [T, D]) rounded to float32 once, the residual added after. May work in
        place."""
        ...

    def add(self, x: Array, y: Array) -> Array:
        """May work in place on x."""
        ...

    def take(self, x: Array, rows: NDArray[np.int32]) -> Array:
        """Rows of x: [T, D] -> [R, D]"""
        ...

    def record(self, work: Callable[[Recording], Array]) -> Program | None:
        """Do the work, and remember its operations. None, and nothing done, where the device cannot. For small steps:
        Python between two operations is much of their time."""
        ...

    # -- host
    def from_host(self, a: NDArray[Any]) -> Array: ...

    def to_host(self, a: Array) -> NDArray[Any]: ...

    def busy_seconds(self) -> float:
        """Time spent inside ops since construction: what is left of a step is Python's and the links'."""
        ...

    def close(self) -> None:
        """Stop threads, free memory. Idempotent."""
        ...
