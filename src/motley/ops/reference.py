"""ReferenceOps: every operation in plain numpy float32, slow and obvious. The truth the other devices are tested
against; also runs models where no compiler was at hand. Weights are decoded to float32 when they are uploaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.formats.tensor import QuantTensor
from motley.ops.protocol import (
    CLAMP,
    CLAMPED_SLOPE,
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
from motley.shape.mixer import CacheType

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceExperts:
    """owned experts only, by global id: gate, up [F, D], down [D, F]; what is added to their products."""

    matrices: dict[int, tuple[F32, F32, F32]]
    biases: tuple[F32, F32, F32] | None  # [E, F], [E, F], [E, D]
    activation: Activation


@dataclass(frozen=True)
class ReferenceCache:
    keys: F32  # [slots, context, K, N]
    values: F32  # [slots, context, K, M]
    span: Span
    stored: CacheType


@dataclass(frozen=True)
class ReferenceDelta:
    net: DeltaNet
    states: F32  # [slots, V, N, M]
    inputs: F32  # [slots, taps - 1, channels], the latest last


class ReferenceOps:
    name = "reference"
    rewind = 1 << 30  # nothing is left behind
    remembers_prompts = False
    multiplies: Multiplies = "float32"
    memory_bytes = 0

    def __init__(self) -> None:
        self._started = perf_counter()

    # -- placing weights

    def weight(self, tensor: QuantTensor, upload: Upload = REPACKED) -> F32:
        return tensor.decode()

    def table(self, tensor: QuantTensor) -> F32:
        return tensor.decode()

    def experts_weight(
        self,
        gate: QuantTensor,
        up: QuantTensor,
        down: QuantTensor,
        owned: Sequence[int],
        upload: Upload = REPACKED,
        activation: Activation = Activation.SILU,
        biases: ExpertBiases | None = None,
    ) -> ReferenceExperts:
        matrices = {e: (gate.part(e).decode(), up.part(e).decode(), down.part(e).decode()) for e in owned}
        added = (biases.gate.decode(), biases.up.decode(), biases.down.decode()) if biases else None
        return ReferenceExperts(matrices, added, activation)

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
    ) -> ReferenceCache:
        """In float32, rounded as they would be stored; by itself not at all."""
        widths = head_dim, head_dim if value_dim is None else value_dim
        keys, values = (np.zeros((n_slots, context, n_kv_heads, n), np.float32) for n in widths)
        return ReferenceCache(keys, values, span, stored or "f32")

    def delta_state(self, n_slots: int, net: DeltaNet) -> ReferenceDelta:
        states = np.zeros((n_slots, net.v_heads, net.k_dim, net.v_dim), np.float32)
        return ReferenceDelta(net, states, np.zeros((n_slots, net.taps - 1, net.channels), np.float32))

    # -- arithmetic

    def embed(self, table: F32, tokens: NDArray[np.int32]) -> F32:
        return table[tokens]

    def rms_norm(self, x: F32, weight: F32, eps: float) -> F32:
        groups = x.reshape(len(x), -1, len(weight))  # [T, M, W]
        scale = 1 / np.sqrt(np.mean(groups * groups, axis=-1, keepdims=True) + np.float32(eps))
        return np.asarray(groups * scale * weight, np.float32).reshape(x.shape)

    def linear(self, x: F32, *weights: F32) -> tuple[F32, ...]:
        return tuple(x @ w.T for w in weights)

    def rope(self, x: F32, head_dim: int, positions: NDArray[np.int32], rope: Rope) -> F32:
        heads = x.reshape(len(x), -1, head_dim).copy()  # [T, heads, N]
        half = rope.dim // 2
        angle = positions[:, None, None] * rope.frequencies  # [T, 1, half]
        cos, sin = (np.asarray(f(angle) * rope.magnitude, np.float32) for f in (np.cos, np.sin))
        part = heads[..., rope.start : rope.start + rope.dim]
        if rope.interleaved:
            first, second = slice(0, rope.dim, 2), slice(1, rope.dim, 2)
        else:
            first, second = slice(0, half), slice(half, rope.dim)
        a, b = part[..., first].copy(), part[..., second].copy()
        part[..., first] = a * cos - b * sin
        part[..., second] = a * sin + b * cos
        return heads.reshape(x.shape)

    def attention(
        self, q: F32, k: F32, v: F32, cache: ReferenceCache, batch: Batch, scale: float, sinks: F32 | None = None
    ) -> F32:
        n_kv, width = cache.keys.shape[2:]
        queries = q.reshape(len(batch), n_kv, -1, width)  # [T, K, H/K, N]
        out = np.empty((*queries.shape[:3], cache.values.shape[3]), np.float32)
        at = batch.slots, batch.positions
        cache.keys[at] = as_stored(k.reshape(-1, n_kv, width), cache.stored)
        cache.values[at] = as_stored(v.reshape(len(batch), n_kv, -1), cache.stored)
        for t, (slot, position) in enumerate(zip(batch.slots, batch.positions)):
            seen = slice(cache.span.first(int(position)), position + 1)
            keys = cache.keys[slot, seen]  # [S, K, N]
            scores = np.einsum("kgn,skn->kgs", queries[t], keys) * np.float32(scale)
            if sinks is not None:  # as one more position, whose value is zero
                scores = np.concatenate([scores, sinks.reshape(n_kv, -1, 1)], axis=-1)
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            out[t] = np.einsum("kgs,skm->kgm", scores[..., : len(keys)], cache.values[slot, seen])
        return out.reshape(len(batch), -1)

    def delta_net(
        self, qkv: F32, write: F32, keep: F32, weights: DeltaWeights, state: ReferenceDelta, batch: Batch
    ) -> F32:
        net = state.net
        out = np.empty((len(batch), net.v_heads, net.v_dim), np.float32)
        widths = np.cumsum([net.k_heads * net.k_dim] * 2)
        heads = np.arange(net.v_heads)
        key_head = heads % net.k_heads if net.tiled else heads // (net.v_heads // net.k_heads)
        for t, (slot, position) in enumerate(zip(batch.slots, batch.positions)):
            s, inputs = state.states[slot], state.inputs[slot]
            if position == 0:
                s[:], inputs[:] = 0, 0
            window = np.concatenate([inputs, qkv[t : t + 1]])  # [taps, channels]
            inputs[:] = window[1:]
            mixed = _silu(np.einsum("tc,ct->c", window, weights.conv))
            q, k, v = np.split(mixed, widths)
            q, k = (_unit(a.reshape(net.k_heads, net.k_dim), net.eps)[key_head] for a in (q, k))  # [V, N]
            s *= np.exp(weights.rate * _softplus(keep[t] + weights.dt))[:, None, None]
            beta = _sigmoid(write[t])[:, None]
            delta = (v.reshape(net.v_heads, net.v_dim) - np.einsum("hn,hnm->hm", k, s)) * beta
            s += k[:, :, None] * delta[:, None, :]
            out[t] = np.einsum("hn,hnm->hm", q / np.float32(np.sqrt(net.k_dim)), s)
        return out.reshape(len(batch), -1)

    def router(
        self, x: F32, weight: F32, routing: Routing, vectors: RouterVectors = NO_VECTORS
    ) -> tuple[NDArray[np.int32], F32]:
        logits = x @ weight.T  # [T, E]
        if vectors.bias is not None:
            logits = logits + vectors.bias
        logits = np.where(np.isnan(logits), -np.inf, logits)
        with np.errstate(invalid="ignore", over="ignore"):
            odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
            scores = odds / odds.sum(axis=-1, keepdims=True) if routing.score == "softmax" else _sigmoid(logits)
        wanted = scores if vectors.prior is None else scores + vectors.prior
        if vectors.prior is None and routing.score == "softmax":
            wanted = logits  # the same order, without the ties of rounding
        if routing.n_groups > 1:
            groups = wanted.reshape(len(x), routing.n_groups, -1)
            votes = np.sort(groups, axis=-1)[..., -routing.group_sum :].sum(axis=-1)
            chosen = np.argsort(-votes, axis=-1, kind="stable")[:, : routing.n_groups_used]
            within = np.zeros(votes.shape, np.bool_)
            np.put_along_axis(within, chosen, True, axis=-1)
            wanted = np.where(within[..., None], groups, -np.inf).reshape(wanted.shape)
        ids = np.argsort(-wanted, axis=-1, kind="stable")[:, : routing.n_used].astype(np.int32)
        weights = np.take_along_axis(scores, ids, axis=-1)
        if routing.normalize:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        weights = weights * np.float32(routing.scale)
        if vectors.gain is not None:
            weights = weights * vectors.gain[ids]
        return ids, weights.astype(np.float32)

    def experts(self, x: F32, ids: NDArray[np.int32], weights: F32, experts: ReferenceExperts) -> NDArray[np.float64]:
        out = np.zeros(x.shape, np.float64)
        for t, slot in np.ndindex(*ids.shape):
            e = int(ids[t, slot])
            if (owned := experts.matrices.get(e)) is not None:
                gate, up, down = (np.float32(0), np.float32(0), np.float32(0))
                if experts.biases:
                    gate, up, down = (b[e] for b in experts.biases)
                hidden = self.activate(owned[0] @ x[t] + gate, owned[1] @ x[t] + up, experts.activation)
                out[t] += np.float64(weights[t, slot]) * (owned[2] @ hidden + down)
        return out

    def heads_linear(self, x: F32, weight: F32) -> F32:
        heads = x.reshape(len(x), len(weight), -1)  # [T, H, cols]
        return np.ascontiguousarray(np.einsum("thc,hrc->thr", heads, weight).reshape(len(x), -1))

    def activate(self, gate: F32, up: F32, activation: Activation) -> F32:
        if activation is Activation.SILU:
            return _silu(gate) * up
        if activation is Activation.GELU:
            inner = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate**3)
            return np.asarray(np.float32(0.5) * gate * (1 + np.tanh(inner)) * up, np.float32)
        gate, up = np.minimum(gate, np.float32(CLAMP)), np.clip(up, -np.float32(CLAMP), np.float32(CLAMP))
        return np.asarray(gate * _sigmoid(np.float32(CLAMPED_SLOPE) * gate) * (up + 1), np.float32)

    def gate(self, x: F32, by: F32, function: str = "sigmoid") -> F32:
        factor = {"none": lambda b: b, "sigmoid": _sigmoid, "silu": _silu}[function](by)
        return np.asarray(x * np.repeat(factor, x.shape[1] // by.shape[1], axis=1), np.float32)

    def temper(self, x: F32, positions: NDArray[np.int32], factor: float, length: int) -> F32:
        by = 1 + factor * np.log1p((positions.astype(np.int64) + 1) // length)
        return x * by.astype(np.float32)[:, None]

    def scale(self, x: F32, factor: float) -> F32:
        return x * np.float32(factor)

    def softcap(self, x: F32, cap: float) -> F32:
        return np.asarray(np.float32(cap) * np.tanh(x / np.float32(cap)), np.float32)

    def add_bias(self, x: F32, vector: F32) -> F32:
        return x + vector

    def columns(self, x: F32, width: int, first: int, end: int) -> F32:
        return np.ascontiguousarray(x.reshape(len(x), -1, width)[..., first:end].reshape(len(x), -1))

    def join(self, x: F32, width: int, y: F32, width_y: int) -> F32:
        groups = x.reshape(len(x), -1, width), y.reshape(len(y), -1, width_y)
        return np.concatenate(groups, axis=-1).reshape(len(x), -1)

    def combine(self, x: F32, parts: Sequence[NDArray[np.float64]]) -> F32:
        return x + sum(parts[1:], start=parts[0]).astype(np.float32)

    def add(self, x: F32, y: F32) -> F32:
        return x + y

    def take(self, x: F32, rows: NDArray[np.int32]) -> F32:
        return x[rows]

    def record(self, work: object) -> None:
        """Slow and obvious: nothing is remembered."""
        return

    # -- host

    def start(self, *arrays: object) -> None:
        """Nothing is left to do."""

    def wait(self, *arrays: object) -> None:
        """Likewise."""

    def from_host(self, a: NDArray[Any]) -> NDArray[Any]:
        return a

    def to_host(self, a: NDArray[Any]) -> NDArray[Any]:
        return a

    def busy_seconds(self) -> float:
        """Everything counts as busy: numpy's Python side cannot be told from its arithmetic."""
        return perf_counter() - self._started

    def close(self) -> None:
        pass


def as_stored(x: F32, stored: CacheType) -> F32:
    """x [..., N] as a cache gives it back. Q8_0: of 32 elements the largest is 127 times a scale, which is rounded to
    float16 before the elements are divided by it; a NaN or infinity makes all 32 NaN."""
    if stored == "f32":
        return x
    if stored == "f16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float32)
    n = x.shape[-1]
    blocks = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -n % 32)]).reshape(*x.shape[:-1], -1, 32)
    most = np.abs(blocks).max(axis=-1, keepdims=True)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        scale = np.where(np.isfinite(most), most / np.float32(127), np.nan).astype(np.float16).astype(np.float32)
        whole = np.rint(np.clip(blocks * (np.float32(1) / scale), -127, 127))
        whole = np.where((scale > 0) & np.isfinite(scale), whole, np.float32(0))
        return np.asarray((whole * scale).reshape(*x.shape[:-1], -1)[..., :n], np.float32)


def _sigmoid(x: F32) -> F32:
    with np.errstate(over="ignore"):  # exp(-x) may overflow to inf, and 1 / inf is the right 0
        return np.asarray(1 / (1 + np.exp(-x)), np.float32)


def _silu(x: F32) -> F32:
    return x * _sigmoid(x)


def _softplus(x: F32) -> F32:
    return np.asarray(np.logaddexp(np.float32(0), x), np.float32)


def _unit(x: F32, eps: float) -> F32:
    return np.asarray(x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + np.float32(eps)), np.float32)
