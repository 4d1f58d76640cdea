"""MlxOps: the operations on Apple's GPUs, by MLX's own kernels; on MLX's CPU build for tests, on Linux too.

Owns one device and a stream on it. Arrays are MLX's and lazy: an operation only notes what is to be done; `start` sets
it going, `to_host` waits for it. Weights are quantised as stored (`layouts`), formats without a layout float32. Sums of
experts are float32 here: Apple's GPUs have no float64.

Exactness: nothing is rounded that the reference does not round, but sums run in MLX's order, which depends on the
number of tokens: answers agree to about 1e-6, not to the bit. Rope's angles come from the host in double precision:
MLX's own rope, in float32, is 9e-4 off at position 10,000 and 9e-3 at 100,000.

Test: pytest tests/parity/test_ops_mlx.py tests/parity/test_golden_models.py
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from time import perf_counter
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # read once: float32 products shall be float32 on newer GPUs too

import mlx.core as mx

from motley.errors import CapacityError, UnsupportedError, UsageError
from motley.formats.decode import decode
from motley.formats.tensor import QuantTensor
from motley.ops.mlx.cache import MlxCache
from motley.ops.mlx.elementwise import Elementwise, silu
from motley.ops.mlx.experts import MlxExperts
from motley.ops.mlx.matrix import Matrix
from motley.ops.protocol import (
    EVERYTHING,
    NO_VECTORS,
    REPACKED,
    Activation,
    Batch,
    DeltaNet,
    DeltaWeights,
    ExpertBiases,
    Multiplies,
    Rope,
    RouterVectors,
    Routing,
    Span,
    Upload,
)
from motley.ops.shapes import check_experts, check_tensor
from motley.shape.mixer import CacheType

Array = Any  # mx.array
P = ParamSpec("P")
R = TypeVar("R")


class MlxWeight(NamedTuple):
    """One of the two."""

    vector: Array = None
    matrix: Matrix | None = None


class Sums(NamedTuple):
    """What experts add up to: float32 here, float64 on the host."""

    values: Array


class DeltaState(NamedTuple):
    """By slot: states [1, V, M, N], and the convolution's last inputs [taps - 1, channels]."""

    net: DeltaNet
    states: list[Array]
    inputs: list[Array]


class Run(NamedTuple):
    """Tokens of one sequence that follow each other: rows [first, end) of a step, from `position` on."""

    first: int
    end: int
    slot: int
    position: int


def _on_device(method: Callable[Concatenate["MlxOps", P], R]) -> Callable[Concatenate["MlxOps", P], R]:
    """Whoever calls, from whatever thread: on the device's own stream."""

    @wraps(method)
    def there(ops: "MlxOps", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with mx.stream(ops._stream):
            return method(ops, *args, **kwargs)

    return there


_KV = {"f16": mx.float16, "f32": mx.float32}


class MlxOps:
    """See `ops.protocol.Ops` for every operation's shapes.

    device: "" takes the GPU where there is one; "gpu", "cpu". kv: how keys and values are stored, "f16" or "f32".
    compiled: whether elementwise arithmetic is (see `elementwise`); None: on a GPU.
    """

    rewind = 0  # `MlxCache` keeps no position that the span left behind
    remembers_prompts = False
    multiplies: Multiplies = "float32"
    memory_bytes = 0  # it is the machine's

    def __init__(self, device: str = "", kv: str = "f16", compiled: bool | None = None) -> None:
        _require_version(mx.__version__)
        has_gpu = mx.is_available(mx.gpu)
        if device not in ("", "cpu", "gpu") or (device == "gpu" and not has_gpu):
            there = "cpu and gpu" if has_gpu else "the cpu, as Apple's GPUs are on macOS"
            raise UsageError(f"MLX has no device {device!r} here: it has {there}")
        if kv not in ("f16", "f32"):
            raise UsageError(f"kv {kv!r}: keys and values are stored as f16 or f32")
        on_gpu = has_gpu and device != "cpu"
        self.name = "mlx-gpu" if on_gpu else "mlx-cpu"
        self._stream = mx.new_thread_unsafe_stream(mx.gpu if on_gpu else mx.cpu)
        self._kv = _KV[kv]
        self._elementwise = Elementwise(on_gpu if compiled is None else compiled)
        self._one_at_a_time = threading.Lock()
        self._busy = 0.0
        if on_gpu and mx.metal.is_available():  # what is used stays in memory that the GPU reaches
            mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))

    # -- placing weights

    @_on_device
    def weight(self, tensor: QuantTensor, upload: Upload = REPACKED) -> MlxWeight:
        if len(tensor.dims) == 1:
            return MlxWeight(vector=mx.array(tensor.decode()))
        check_tensor(tensor, 2, 3)
        return MlxWeight(matrix=_placed(tensor, lambda: Matrix(tensor, upload=upload)))

    def table(self, tensor: QuantTensor) -> QuantTensor:
        """The tensor itself: the host decodes the rows of the tokens at hand."""
        check_tensor(tensor, 2)
        return tensor.read()

    @_on_device
    def experts_weight(
        self,
        gate: QuantTensor,
        up: QuantTensor,
        down: QuantTensor,
        owned: Sequence[int],
        upload: Upload = REPACKED,
        activation: Activation = Activation.SILU,
        biases: ExpertBiases | None = None,
    ) -> MlxExperts:
        check_experts(gate, up, down)
        activate = self._elementwise.activations[activation]
        return _placed(gate, lambda: MlxExperts(gate, up, down, owned, upload, activate, biases))

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
    ) -> MlxCache:
        if stored == "q8_0":
            raise UnsupportedError("MLX's cache is f16 or f32: give --cache-type one of these")
        width = head_dim if value_dim is None else value_dim
        kv = self._kv if stored is None else _KV[stored]
        return MlxCache(n_slots, context, n_kv_heads, head_dim, width, span, kv, one)

    @_on_device
    def delta_state(self, n_slots: int, net: DeltaNet) -> DeltaState:
        return DeltaState(net, [_no_state(net) for _ in range(n_slots)], [_no_inputs(net) for _ in range(n_slots)])

    # -- arithmetic

    @_on_device
    def embed(self, table: QuantTensor, tokens: NDArray[np.int32]) -> Array:
        rows = table.data.reshape(table.dims[0], -1)[tokens]
        return mx.array(decode(rows, table.quant).reshape(len(tokens), -1))

    @_on_device
    def rms_norm(self, x: Array, weight: MlxWeight, eps: float) -> Array:
        groups = x.reshape(len(x), -1, len(weight.vector))
        return mx.fast.rms_norm(groups, weight.vector, eps).reshape(x.shape)

    @_on_device
    def linear(self, x: Array, *weights: MlxWeight) -> tuple[Array, ...]:
        return tuple([_matrix(w).times(x) for w in weights])

    @_on_device
    def rope(self, x: Array, head_dim: int, positions: NDArray[np.int32], rope: Rope) -> Array:
        if rope.dim == 0:
            return x
        heads = x.reshape(len(x), -1, head_dim)  # [T, heads, N]
        cos, sin = self._angles(positions, rope)
        before, part = heads[..., : rope.start], heads[..., rope.start : rope.start + rope.dim]
        after = heads[..., rope.start + rope.dim :]
        if rope.interleaved:
            pairs = part.reshape(*part.shape[:-1], -1, 2)
            turned = self._elementwise.turned(pairs[..., 0], pairs[..., 1], cos, sin)
            part = mx.stack(turned, axis=-1).reshape(part.shape)
        else:
            half = rope.dim // 2
            part = mx.concatenate(self._elementwise.turned(part[..., :half], part[..., half:], cos, sin), axis=-1)
        return mx.concatenate([before, part, after], axis=-1).reshape(x.shape)

    def _angles(self, positions: NDArray[np.int32], rope: Rope) -> tuple[Array, Array]:
        """Cosine and sine [T, 1, dim / 2]."""
        angle = positions[:, None, None] * rope.frequencies
        cos, sin = (np.asarray(f(angle) * rope.magnitude, np.float32) for f in (np.cos, np.sin))
        return mx.array(cos), mx.array(sin)

    @_on_device
    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        cache: MlxCache,
        batch: Batch,
        scale: float,
        sinks: MlxWeight | None = None,
    ) -> Array:
        sunk = None if sinks is None else sinks.vector
        outs = []
        for run in _runs(batch):
            rows = slice(run.first, run.end)
            cache.store(run.slot, run.position, k[rows], v[rows])
            end = run.position + run.end - run.first
            first = cache.span.first(run.position)
            keys, values = cache.seen(run.slot, first, end)
            queries = q[rows].reshape(end - run.position, -1, cache.head_dim).swapaxes(0, 1)[None]  # [1, H, n, N]
            mask = _mask(cache.span, run.position, first, end)
            a = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask, sinks=sunk)
            outs.append(a[0].swapaxes(0, 1).reshape(end - run.position, -1))
        return outs[0] if len(outs) == 1 else mx.concatenate(outs)

    @_on_device
    def delta_net(
        self, qkv: Array, write: Array, keep: Array, weights: DeltaWeights, state: DeltaState, batch: Batch
    ) -> Array:
        net = state.net
        beta, decay = mx.sigmoid(write), self._elementwise.decay(keep, weights.dt.vector, weights.rate.vector)
        conv = weights.conv.matrix.values()  # [channels, taps]
        outs = []
        for run in _runs(batch):
            rows = slice(run.first, run.end)
            if run.position == 0:
                state.states[run.slot], state.inputs[run.slot] = _no_state(net), _no_inputs(net)
            window = mx.concatenate([state.inputs[run.slot], qkv[rows]])
            state.inputs[run.slot] = window[len(window) - net.taps + 1 :]
            n = run.end - run.first
            mixed = silu(sum((window[i : i + n] * conv[:, i] for i in range(1, net.taps)), window[:n] * conv[:, 0]))
            q, k, v = _heads_of(mixed, net)
            y, state.states[run.slot] = mx.fast.gated_delta_update(
                q[None] * net.k_dim**-0.5, k[None], v[None], decay[rows][None], beta[rows][None], state.states[run.slot]
            )
            outs.append(y.reshape(n, -1))
        return outs[0] if len(outs) == 1 else mx.concatenate(outs)

    @_on_device
    def router(
        self, x: Array, weight: MlxWeight, routing: Routing, vectors: RouterVectors = NO_VECTORS
    ) -> tuple[Array, Array]:
        logits = _matrix(weight).times(x)  # [T, E]
        if vectors.bias is not None:
            logits = logits + vectors.bias.vector
        logits = mx.where(mx.isnan(logits), -mx.inf, logits)
        scores = mx.softmax(logits, axis=-1) if routing.score == "softmax" else mx.sigmoid(logits)
        wanted = scores if vectors.prior is None else scores + vectors.prior.vector
        if vectors.prior is None and routing.score == "softmax":
            wanted = logits  # the same order, without the ties of rounding
        if routing.n_groups > 1:
            wanted = _of_best_groups(wanted, routing)
        ids = mx.argsort(-wanted, axis=-1)[:, : routing.n_used].astype(mx.int32)
        weights = mx.take_along_axis(scores, ids, axis=-1)
        if routing.normalize:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        if routing.scale != 1.0:
            weights = weights * routing.scale
        return ids, weights if vectors.gain is None else weights * vectors.gain.vector[ids]

    @_on_device
    def experts(self, x: Array, ids: Array, weights: Array, experts: MlxExperts) -> Sums:
        return Sums(experts.sums(x, ids, weights))

    @_on_device
    def heads_linear(self, x: Array, weight: MlxWeight) -> Array:
        matrix = _matrix(weight)
        heads = x.reshape(len(x), matrix.dims[0], -1).swapaxes(0, 1)  # [H, T, cols]
        return matrix.times(heads).swapaxes(0, 1).reshape(len(x), -1)

    @_on_device
    def activate(self, gate: Array, up: Array, activation: Activation) -> Array:
        return self._elementwise.activations[activation](gate, up)

    @_on_device
    def gate(self, x: Array, by: Array, function: Literal["none", "sigmoid", "silu"] = "sigmoid") -> Array:
        factor = self._elementwise.gates[function](by)
        return (x.reshape(*by.shape, -1) * factor[..., None]).reshape(x.shape)

    @_on_device
    def temper(self, x: Array, positions: NDArray[np.int32], factor: float, length: int) -> Array:
        by = 1 + factor * np.log1p((positions.astype(np.int64) + 1) // length)
        return x * mx.array(by.astype(np.float32))[:, None]

    @_on_device
    def scale(self, x: Array, factor: float) -> Array:
        return x * factor

    @_on_device
    def softcap(self, x: Array, cap: float) -> Array:
        return cap * mx.tanh(x / cap)

    @_on_device
    def add_bias(self, x: Array, vector: MlxWeight) -> Array:
        return x + vector.vector

    @_on_device
    def columns(self, x: Array, width: int, first: int, end: int) -> Array:
        return x.reshape(len(x), -1, width)[..., first:end].reshape(len(x), -1)

    @_on_device
    def join(self, x: Array, width: int, y: Array, width_y: int) -> Array:
        groups = x.reshape(len(x), -1, width), y.reshape(len(y), -1, width_y)
        return mx.concatenate(groups, axis=-1).reshape(len(x), -1)

    @_on_device
    def combine(self, x: Array, parts: Sequence[Sums]) -> Array:
        return x + sum((part.values for part in parts[1:]), parts[0].values)

    @_on_device
    def add(self, x: Array, y: Array) -> Array:
        return x + y

    @_on_device
    def take(self, x: Array, rows: NDArray[np.int32]) -> Array:
        return x[mx.array(rows)]

    def record(self, work: object) -> None:
        """Nothing is remembered: MLX's graph of a step is made anew in less time than its GPU needs for it."""
        return

    # -- host

    @_on_device
    def start(self, *arrays: Array) -> None:
        with self._one_at_a_time:
            mx.async_eval([a.values if isinstance(a, Sums) else a for a in arrays])

    @_on_device
    def wait(self, *arrays: Array) -> None:
        with self._one_at_a_time:
            started = perf_counter()
            mx.eval([a.values if isinstance(a, Sums) else a for a in arrays])
            self._busy += perf_counter() - started

    @_on_device
    def from_host(self, a: NDArray[Any]) -> Array:
        """float64 are sums of experts; integers stay on the host, which reads them."""
        if a.dtype == np.float64:
            return Sums(mx.array(a.astype(np.float32)))
        return a if a.dtype == np.int32 else mx.array(a)

    @_on_device
    def to_host(self, a: Array) -> NDArray[Any]:
        if isinstance(a, np.ndarray):
            return a
        if isinstance(a, Sums):
            return self.to_host(a.values).astype(np.float64)
        with self._one_at_a_time:
            started = perf_counter()
            values = np.array(a)
            self._busy += perf_counter() - started
        return values

    def busy_seconds(self) -> float:
        """Time that somebody waited for the device."""
        return self._busy

    def close(self) -> None:
        mx.clear_cache()


def _require_version(found: str) -> None:
    """Others were not tested: layouts, streams and kernels change between them."""
    if not found.startswith("0.32."):
        raise UnsupportedError(
            f"MLX {found} is installed, and Motley was tested with 0.32: run `pip install 'motley-moe[mlx]'`"
        )


def _matrix(weight: MlxWeight) -> Matrix:
    if weight.matrix is None:
        raise ValueError("a vector is given where a matrix is needed")
    return weight.matrix


def _placed(tensor: QuantTensor, work: Callable[[], R]) -> R:
    try:
        return work()
    except MemoryError as error:
        raise CapacityError(f"tensor {tensor.name}: the MLX device has no room for it: place less on it") from error


def _runs(batch: Batch) -> Iterator[Run]:
    slots, positions, n = batch.slots, batch.positions, len(batch)
    ends = np.flatnonzero((slots[1:] != slots[:-1]) | (positions[1:] != positions[:-1] + 1)) + 1
    first = 0
    for end in [*ends.tolist(), n]:
        yield Run(first, end, int(slots[first]), int(positions[first]))
        first = end


def _mask(span: Span, position: int, first: int, end: int) -> Any:
    """Which of the keys [first, end) the tokens from `position` on see; None: all of them."""
    if end == position + 1:
        return None
    if span == EVERYTHING:
        return "causal"
    tokens, keys = np.arange(position, end)[:, None], np.arange(first, end)
    firsts = np.array([span.first(p) for p in range(position, end)])[:, None]
    return mx.array((keys <= tokens) & (keys >= firsts))


def _of_best_groups(wanted: Array, routing: Routing) -> Array:
    """[T, E]: what is not in a token's best groups is wanted least."""
    groups = wanted.reshape(len(wanted), routing.n_groups, -1)
    votes = mx.sort(groups, axis=-1)[..., -routing.group_sum :].sum(axis=-1)  # [T, G]
    chosen = mx.argsort(-votes, axis=-1)[:, : routing.n_groups_used]
    within = (chosen[:, None, :] == mx.arange(routing.n_groups)[None, :, None]).any(axis=-1)
    return mx.where(within[..., None], groups, -mx.inf).reshape(wanted.shape)


def _no_state(net: DeltaNet) -> Array:
    return mx.zeros((1, net.v_heads, net.v_dim, net.k_dim))


def _no_inputs(net: DeltaNet) -> Array:
    return mx.zeros((net.taps - 1, net.channels))


def _heads_of(mixed: Array, net: DeltaNet) -> tuple[Array, Array, Array]:
    """[T, channels] -> q, k [T, K or V, N] of unit length, v [T, V, M]"""
    width = net.k_heads * net.k_dim
    q, k, v = mixed[:, :width], mixed[:, width : 2 * width], mixed[:, 2 * width :]
    q, k = (_unit(a.reshape(len(a), net.k_heads, net.k_dim), net.eps) for a in (q, k))
    if net.tiled:  # value head i has key head i % K, where MLX takes i // (V / K)
        heads = mx.array(np.arange(net.v_heads) % net.k_heads)
        q, k = q[:, heads], k[:, heads]
    return q, k, v.reshape(len(v), net.v_heads, net.v_dim)


def _unit(x: Array, eps: float) -> Array:
    return x * mx.rsqrt((x * x).sum(axis=-1, keepdims=True) + eps)
