"""ReferenceOps: every operation in plain numpy float32, slow and obvious. The truth the other devices are tested
against; also runs models where no compiler was at hand. Weights are decoded to float32 when they are uploaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.formats.tensor import QuantTensor
from motley.ops.protocol import REPACKED, Batch, Rope, Routing, Upload

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceExperts:
    """owned experts only: gate, up [F, D], down [D, F] by global id."""

    matrices: dict[int, tuple[F32, F32, F32]]


@dataclass(frozen=True)
class ReferenceCache:
    keys: F32  # [slots, context, K, N]
    values: F32


class ReferenceOps:
    name = "reference"

    def __init__(self) -> None:
        self._started = perf_counter()

    # -- placing weights

    def weight(self, tensor: QuantTensor, upload: Upload = REPACKED) -> F32:
        return tensor.decode()

    def table(self, tensor: QuantTensor) -> F32:
        return tensor.decode()

    def experts_weight(
        self, gate: QuantTensor, up: QuantTensor, down: QuantTensor, owned: Sequence[int], upload: Upload = REPACKED
    ) -> ReferenceExperts:
        return ReferenceExperts({e: (gate.part(e).decode(), up.part(e).decode(), down.part(e).decode()) for e in owned})

    def kv_cache(self, n_slots: int, context: int, n_kv_heads: int, head_dim: int) -> ReferenceCache:
        dims = (n_slots, context, n_kv_heads, head_dim)
        return ReferenceCache(np.zeros(dims, np.float32), np.zeros(dims, np.float32))

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
        frequency = rope.theta ** (-2.0 * np.arange(half) / rope.dim)
        angle = positions[:, None, None] * frequency  # [T, 1, half]
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        if rope.interleaved:
            first, second = slice(0, rope.dim, 2), slice(1, rope.dim, 2)
        else:
            first, second = slice(0, half), slice(half, rope.dim)
        a, b = heads[..., first].copy(), heads[..., second].copy()
        heads[..., first] = a * cos - b * sin
        heads[..., second] = a * sin + b * cos
        return heads.reshape(x.shape)

    def attention(self, q: F32, k: F32, v: F32, cache: ReferenceCache, batch: Batch, scale: float) -> F32:
        n_kv, width = cache.keys.shape[2:]
        queries = q.reshape(len(batch), n_kv, -1, width)  # [T, K, H/K, N]
        out = np.empty_like(queries)
        cache.keys[batch.slots, batch.positions] = k.reshape(-1, n_kv, width)
        cache.values[batch.slots, batch.positions] = v.reshape(-1, n_kv, width)
        for t, (slot, position) in enumerate(zip(batch.slots, batch.positions)):
            keys = cache.keys[slot, : position + 1]  # [S, K, N]
            scores = np.einsum("kgn,skn->kgs", queries[t], keys) * np.float32(scale)
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            out[t] = np.einsum("kgs,skn->kgn", scores, cache.values[slot, : position + 1])
        return out.reshape(q.shape)

    def router(self, x: F32, weight: F32, routing: Routing) -> tuple[NDArray[np.int32], F32]:
        logits = x @ weight.T  # [T, E]
        logits = np.where(np.isnan(logits), -np.inf, logits)
        ids = np.argsort(-logits, axis=-1, kind="stable")[:, : routing.n_used].astype(np.int32)
        with np.errstate(invalid="ignore"):
            odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights = np.take_along_axis(odds / odds.sum(axis=-1, keepdims=True), ids, axis=-1)
        if routing.normalize:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        return ids, weights.astype(np.float32)

    def experts(self, x: F32, ids: NDArray[np.int32], weights: F32, experts: ReferenceExperts) -> NDArray[np.float64]:
        out = np.zeros(x.shape, np.float64)
        for t, slot in np.ndindex(*ids.shape):
            if (owned := experts.matrices.get(int(ids[t, slot]))) is not None:
                gate, up, down = owned
                hidden = _silu(gate @ x[t]) * (up @ x[t])
                out[t] += np.float64(weights[t, slot]) * (down @ hidden)
        return out

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

    def from_host(self, a: NDArray[Any]) -> NDArray[Any]:
        return a

    def to_host(self, a: NDArray[Any]) -> NDArray[Any]:
        return a

    def busy_seconds(self) -> float:
        """Everything counts as busy: numpy's Python side cannot be told from its arithmetic."""
        return perf_counter() - self._started

    def close(self) -> None:
        pass


def _silu(x: F32) -> F32:
    with np.errstate(over="ignore"):  # exp(-x) may overflow to inf, and x / inf is the right 0
        return np.asarray(x / (1 + np.exp(-x)), np.float32)
