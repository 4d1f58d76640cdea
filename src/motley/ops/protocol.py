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
from enum import Enum
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from motley.formats.tensor import QuantTensor
from motley.shape.mixer import CacheType

Array = Any  # the device's own array; float32 [T, ...]
Weight = Any  # an uploaded tensor
Experts = Any  # uploaded experts of one layer, possibly a subset
KVCache = Any  # one layer's keys and values
DeltaState = Any  # one gated delta rule layer's states


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of `dim` elements of each head, from element `start` on. `interleaved`: pairs (2i, 2i+1) as
    GGUF's llama has them; otherwise (i, i + dim/2), NeoX style. `factors` divide the pairs' frequencies
    theta^(-2i/dim), and cosine and sine are multiplied by `magnitude`: all ways of stretching a context come down to
    these two."""

    dim: int
    theta: float
    interleaved: bool = False
    start: int = 0
    factors: tuple[float, ...] = ()  # dim / 2 of them, or none: all 1
    magnitude: float = 1.0

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """[dim / 2], radians per position."""
        plain = self.theta ** (-2.0 * np.arange(self.dim // 2) / max(self.dim, 1))
        return plain / np.array(self.factors) if self.factors else plain


@dataclass(frozen=True)
class Routing:
    """How a router's E logits choose A experts and weigh them.

    Scores are the softmax over all E or each logit's sigmoid. The A best are taken, by score plus prior where there is
    one; of `n_groups` equal groups only the best `n_groups_used`, a group counting as the sum of its best `group_sum`.
    Weights are the scores, divided by their sum if `normalize`, times `scale`."""

    n_used: int
    normalize: bool
    score: Literal["softmax", "sigmoid"] = "softmax"
    scale: float = 1.0
    n_groups: int = 1
    n_groups_used: int = 1
    group_sum: int = 1


class RouterVectors(NamedTuple):
    """What a router may have beside its matrix, each an uploaded vector [E]: added to the logits; added to the scores
    for choosing only; multiplied onto the weights."""

    bias: Weight | None = None
    prior: Weight | None = None
    gain: Weight | None = None


NO_VECTORS = RouterVectors()


class ExpertBiases(NamedTuple):
    """Added to each expert's products: gate, up [E, F], down [E, D]."""

    gate: QuantTensor
    up: QuantTensor
    down: QuantTensor


class Activation(Enum):
    """What a gated feed-forward block does between its matrices, on gate g and up u."""

    SILU = 0  # g sigmoid(g) u
    GELU = 1  # gelu(g) u, gelu by tanh
    CLAMPED = 2  # gpt-oss: g = min(g, 7), u = clip(u, -7, 7); g sigmoid(1.702 g) (u + 1)


CLAMP, CLAMPED_SLOPE = 7.0, 1.702


@dataclass(frozen=True)
class Span:
    """Which earlier positions a token attends to, itself included: the last `window` (0: all), and none before its own
    chunk of `chunk` positions (0: no chunks)."""

    window: int = 0
    chunk: int = 0

    def first(self, position: int) -> int:
        first = max(0, position - self.window + 1) if self.window else 0
        return max(first, position - position % self.chunk) if self.chunk else first


EVERYTHING = Span()


class DeltaWeights(NamedTuple):
    """Of a gated delta rule layer, uploaded: the convolution [channels, taps], and vectors [V]."""

    conv: Weight
    dt: Weight
    rate: Weight


@dataclass(frozen=True)
class DeltaNet:
    """A gated delta rule layer (Qwen3-Next): K key heads of N elements, V value heads of M, a convolution of `taps`
    positions over the channels q [K*N], k [K*N], v [V*M]. Value head i uses key head i // (V/K), or i % K if
    `tiled`."""

    k_heads: int
    v_heads: int
    k_dim: int
    v_dim: int
    taps: int
    eps: float
    tiled: bool = False

    @property
    def channels(self) -> int:
        return 2 * self.k_heads * self.k_dim + self.v_heads * self.v_dim


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
    report: called now and then with the stored bytes that are done; what it raises ends the upload.
    into: experts of the same kind, not fewer than these, which nobody needs any more: a device that can writes into
    their memory, once what was started with them is done, and gives them back; others take new memory."""

    repack: bool = True
    report: Callable[[int], None] | None = None
    into: Experts | None = None


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


# What a device rounds activations to before it multiplies them by weights. int8: by quantised weights only, in blocks
# of 32; bfloat16: in steps of more than a few tokens, and the weights too.
Multiplies = Literal["float32", "int8", "bfloat16"]


class Ops(Protocol):
    """One device. Constructed with its own settings (threads, device name); holds no model."""

    name: str  # "reference", "native-avx512", ...
    # Of a cache with a span, how many positions are kept beside the span's own: as many of a sequence's last positions
    # may be computed anew. (Without a span, all may.)
    rewind: int
    remembers_prompts: bool  # `record` pays for a prompt's chunk too
    multiplies: Multiplies

    @property
    def memory_bytes(self) -> int:
        """Free in the device's own memory now; 0: it uses the machine's, or can't say."""
        ...

    # -- placing weights: raises UnsupportedError for a quantisation the device has no kernel for
    def weight(self, tensor: QuantTensor, upload: Upload = REPACKED) -> Weight:
        """A matrix [rows, cols] for `linear` or `router`; a vector [cols] for `rms_norm` and `add_bias`; one matrix a
        head, [H, rows, cols], for `heads_linear`."""
        ...

    def table(self, tensor: QuantTensor) -> Weight:
        """A matrix [rows, cols] for `embed`: only the rows that are asked for need ever be read."""
        ...

    def experts_weight(
        self,
        gate: QuantTensor,
        up: QuantTensor,
        down: QuantTensor,
        owned: Sequence[int],
        upload: Upload = REPACKED,
        activation: Activation = Activation.SILU,
        biases: ExpertBiases | None = None,
    ) -> Experts:
        """The experts `owned` (global ids) of one layer. gate, up: [E, F, D]; down: [E, D, F]. Only the owned
        parts are read."""
        ...

    def kv_cache(
        self,
        n_slots: int,
        context: int,
        n_kv_heads: int,
        head_dim: int,
        value_dim: int | None = None,
        span: Span = EVERYTHING,
        *,
        stored: CacheType | None = None,
        one: bool = False,
    ) -> KVCache:
        """One layer's keys and values for `n_slots` sequences of `context` positions, zeroed lazily. `value_dim` where
        it is not `head_dim`; `span`: what `attention` reads of it; `stored` None: the device's own choice; `one`: the
        values are the keys' first elements, and may be kept with them (`attention` then need not look at v). Raises
        UnsupportedError for a type that the device can't store."""
        ...

    def delta_state(self, n_slots: int, net: DeltaNet) -> DeltaState:
        """One layer's recurrent states and the inputs that its convolution remembers, of `n_slots` sequences."""
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

    def attention(
        self, q: Array, k: Array, v: Array, cache: KVCache, batch: Batch, scale: float, sinks: Weight | None = None
    ) -> Array:
        """Store k [T, K*N], v [T, K*M] into the cache at (slot, position), then causal attention of q [T, H*N] over
        each token's own slot from its span's first position to its own. `sinks` [H]: a logit more in each head's
        softmax, without a value. -> [T, H*M]"""
        ...

    def delta_net(
        self, qkv: Array, write: Array, keep: Array, weights: DeltaWeights, state: DeltaState, batch: Batch
    ) -> Array:
        """The gated delta rule over each token's sequence. qkv [T, channels] goes through the convolution and silu; q
        and k to unit length (eps inside), q over sqrt(N). Of each value head's state S [N, M]: S *= exp(rate
        softplus(keep + dt)), then S += sigmoid(write) k (v - S k), then the output S q. write, keep [T, V]. -> [T,
        V*M]. Position 0 starts from zeros."""
        ...

    def router(
        self, x: Array, weight: Weight, routing: Routing, vectors: RouterVectors = NO_VECTORS
    ) -> tuple[Array, Array]:
        """x [T, D] -> expert ids int32 [T, A], most wanted first (ties: lower id first), and weights [T, A].
        Computed in float32; NaN logits never select an id outside 0..E-1."""
        ...

    def experts(self, x: Array, ids: Array, weights: Array, experts: Experts) -> Array:
        """Sum over the A chosen experts that are owned here: weight * down(activation(gate x, up x)). x [T, D]
        -> float64 (where the device has none, its widest float) [T, D]; experts not owned contribute nothing, nor does
        an id of -1."""
        ...

    def heads_linear(self, x: Array, weight: Weight) -> Array:
        """Each head times its own matrix: x [T, H*cols], weight [H, rows, cols] -> [T, H*rows]."""
        ...

    def activate(self, gate: Array, up: Array, activation: Activation) -> Array:
        """-> [T, F]"""
        ...

    def gate(self, x: Array, by: Array, function: Literal["none", "sigmoid", "silu"] = "sigmoid") -> Array:
        """x [T, N] times a function of by [T, G], each value for N/G neighbouring elements. May work in place."""
        ...

    def temper(self, x: Array, positions: NDArray[np.int32], factor: float, length: int) -> Array:
        """x [T, N] times 1 + factor log(1 + floor((position + 1) / length)). May work in place."""
        ...

    def scale(self, x: Array, factor: float) -> Array:
        """May work in place."""
        ...

    def softcap(self, x: Array, cap: float) -> Array:
        """cap * tanh(x / cap). May work in place."""
        ...

    def add_bias(self, x: Array, vector: Weight) -> Array:
        """x [T, N] + vector [N]. May work in place."""
        ...

    def columns(self, x: Array, width: int, first: int, end: int) -> Array:
        """Of each group of `width` neighbouring elements of x [T, G*width], those from first to end."""
        ...

    def join(self, x: Array, width: int, y: Array, width_y: int) -> Array:
        """Groups side by side: x [T, G*width], y [T, G*width_y] -> [T, G*(width + width_y)]."""
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
    def start(self, *arrays: Array) -> None:
        """These will be wanted: a lazy device is set going on them, and not waited for. What the host does next runs
        beside it."""
        ...

    def wait(self, *arrays: Array) -> None:
        """Until these are computed: what only they needed is free then."""
        ...

    def from_host(self, a: NDArray[Any]) -> Array: ...

    def to_host(self, a: Array) -> NDArray[Any]: ...

    def busy_seconds(self) -> float:
        """Time spent inside ops since construction: what is left of a step is Python's and the links'."""
        ...

    def close(self) -> None:
        """Stop threads, free memory. Idempotent."""
        ...
