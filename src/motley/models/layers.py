"""The blocks that decoder families are made of, written once against `ops.protocol`.

A family file composes them; none of them knows a family, a file format or where an expert lives. Attributes carry the
checkpoint's tensor names. B sequences, T tokens, D model width, H heads, K key/value heads, N head width, E experts,
A active experts, F expert width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from motley.errors import FormatError, UnsupportedError
from motley.formats.shape_of import role_of
from motley.formats.tensor import Checkpoint, QuantTensor
from motley.models.config import Config
from motley.ops.protocol import Array, Batch, Experts, KVCache, Ops, Upload, Weight
from motley.progress import Progress, silent

EXPERT_PARTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
OUTSIDE_LAYERS = ("token_embd.weight", "output_norm.weight", "output.weight")

State = Any  # what a layer remembers of its sequences; position 0 starts a sequence anew
Lap = Callable[[str], None]  # called as each part of a layer ends: "attention", "router", "experts"


class RunExperts(Protocol):
    """Computes the chosen experts of one layer wherever they live. Given by the engine.

    h [T, D], ids int32 [T, A], weights [T, A] -> float64 partial sums [T, D], one per owner."""

    def __call__(self, layer: int, h: Array, ids: Array, weights: Array) -> Sequence[Array]: ...


@dataclass
class Loader:
    """Uploads a checkpoint's tensors to a device, checking their dimensions, counting and reporting the bytes.
    `repack`: see `ops.protocol.Upload`."""

    checkpoint: Checkpoint
    ops: Ops
    progress: Progress = silent
    total: int = 0  # bytes that are expected, for `progress`
    repack: bool = True
    n_bytes: int = field(default=0, init=False)
    _read: set[str] = field(default_factory=set, init=False)

    def tensor(self, name: str, dims: tuple[int, ...]) -> QuantTensor:
        tensor = self.checkpoint.tensors.get(name)
        if tensor is None:
            raise FormatError(f"tensor {name} {list(dims)} is missing: the file is incomplete or of another family")
        if tensor.dims != dims:
            raise FormatError(f"tensor {name} has dimensions {list(tensor.dims)}, expected {list(dims)}")
        self._read.add(name)
        return tensor

    def weight(self, name: str, *dims: int) -> Weight:
        tensor = self.tensor(name, dims)
        weight = self.ops.weight(tensor, self._upload)
        self._count(tensor.n_bytes)
        return weight

    def rows(self, name: str, rows: range, *dims: int) -> Weight:
        """Some rows of a matrix of `dims`, as a matrix of their own."""
        weight = self.ops.weight(part := self.tensor(name, dims).rows(rows.start, rows.stop), self._upload)
        self._count(part.n_bytes)
        return weight

    def table(self, name: str, *dims: int) -> Weight:
        tensor = self.tensor(name, dims)
        table = self.ops.table(tensor)
        self._count(tensor.n_bytes)
        return table

    def experts(self, config: Config, layer: int, owned: Sequence[int]) -> Experts:
        n, d, f = config.n_experts, config.d_model, config.d_expert
        dims = ((n, f, d), (n, f, d), (n, d, f))
        gate, up, down = (self.tensor(f"blk.{layer}.{part}.weight", size) for part, size in zip(EXPERT_PARTS, dims))
        experts = self.ops.experts_weight(gate, up, down, owned, self._upload)
        self._count((gate.n_bytes + up.n_bytes + down.n_bytes) // n * len(owned))
        return experts

    def require_all_read(self, layers: range) -> None:
        """UnsupportedError for a tensor of these layers, or outside all layers, that no part of the model reads: to
        leave it out would change the answer. Experts may be read elsewhere."""
        for name in self.checkpoint.tensors.keys() - self._read - set(OUTSIDE_LAYERS):
            _, layer = role_of(name)
            if (layer is None or layer in layers) and name not in {f"blk.{layer}.{p}.weight" for p in EXPERT_PARTS}:
                raise UnsupportedError(
                    f"tensor {name} is not part of {self.checkpoint.architecture} as Motley computes it, and without "
                    "it the answers would be wrong: use a file that has no such tensor"
                )

    @property
    def _upload(self) -> Upload:
        return Upload(self.repack, self._report)

    def _count(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        self._report(0)

    def _report(self, of_this: int) -> None:
        done = self.n_bytes + of_this
        self.progress(f"loading: {done / 1e6:.0f} MB", done / max(self.total, done, 1))


class GroupedQueryAttention:
    """Norm, q/k/v, optional q/k norm (over `qk_norm` widths at a time), rope, attention, output, residual."""

    def __init__(self, config: Config, load: Loader, layer: int, qk_norm: tuple[int, int] | None = None) -> None:
        blk, c = f"blk.{layer}.", config
        self.config = config
        self.attn_norm = load.weight(blk + "attn_norm.weight", c.d_model)
        self.attn_q = load.weight(blk + "attn_q.weight", c.n_heads * c.head_dim, c.d_model)
        self.attn_k = load.weight(blk + "attn_k.weight", c.n_kv_heads * c.head_dim, c.d_model)
        self.attn_v = load.weight(blk + "attn_v.weight", c.n_kv_heads * c.head_dim, c.d_model)
        self.attn_output = load.weight(blk + "attn_output.weight", c.d_model, c.n_heads * c.head_dim)
        self.attn_q_norm = load.weight(blk + "attn_q_norm.weight", qk_norm[0]) if qk_norm else None
        self.attn_k_norm = load.weight(blk + "attn_k_norm.weight", qk_norm[1]) if qk_norm else None

    def state(self, ops: Ops, n_slots: int, context: int) -> KVCache:
        return ops.kv_cache(n_slots, context, self.config.n_kv_heads, self.config.head_dim)

    def __call__(self, ops: Ops, x: Array, batch: Batch, state: KVCache) -> Array:
        """x [T, D] -> [T, D]"""
        c = self.config
        h = ops.rms_norm(x, self.attn_norm, c.eps)
        q, k, v = ops.linear(h, self.attn_q, self.attn_k, self.attn_v)  # [T, H*N], [T, K*N], [T, K*N]
        if self.attn_q_norm is not None:
            q = ops.rms_norm(q, self.attn_q_norm, c.eps)
            k = ops.rms_norm(k, self.attn_k_norm, c.eps)
        q = ops.rope(q, c.head_dim, batch.positions, c.rope)
        k = ops.rope(k, c.head_dim, batch.positions, c.rope)
        a = ops.attention(q, k, v, state, batch, c.scale)  # [T, H*N]
        (o,) = ops.linear(a, self.attn_output)
        return ops.add(x, o)


class MixtureOfExperts:
    """Norm, router, the chosen experts wherever they live, residual."""

    def __init__(self, config: Config, load: Loader, layer: int) -> None:
        blk = f"blk.{layer}."
        self.config = config
        self.layer = layer
        self.ffn_norm = load.weight(blk + "ffn_norm.weight", config.d_model)
        self.ffn_gate_inp = load.weight(blk + "ffn_gate_inp.weight", config.n_experts, config.d_model)

    def __call__(self, ops: Ops, x: Array, experts: RunExperts, lap: Lap) -> Array:
        """x [T, D] -> [T, D]"""
        h = ops.rms_norm(x, self.ffn_norm, self.config.eps)
        ids, weights = ops.router(h, self.ffn_gate_inp, self.config.routing)  # [T, A] each
        lap("router")
        x = ops.combine(x, experts(self.layer, h, ids, weights))
        lap("experts")
        return x


class Attention(Protocol):
    """Mixes a sequence's tokens; what it remembers of them is its `state`. `GroupedQueryAttention` is one."""

    def state(self, ops: Ops, n_slots: int, context: int) -> State: ...

    def __call__(self, ops: Ops, x: Array, batch: Batch, state: State) -> Array: ...


class FeedForward(Protocol):
    """Works on each token alone. `MixtureOfExperts` is one."""

    def __call__(self, ops: Ops, x: Array, experts: RunExperts, lap: Lap) -> Array: ...


@dataclass(frozen=True)
class Layer:
    attention: Attention
    ffn: FeedForward

    def __call__(self, ops: Ops, x: Array, batch: Batch, state: State, experts: RunExperts, lap: Lap) -> Array:
        """x [T, D] -> [T, D]"""
        x = self.attention(ops, x, batch, state)
        lap("attention")
        return self.ffn(ops, x, experts, lap)


class Embedding:
    def __init__(self, config: Config, load: Loader) -> None:
        self.token_embd = load.table("token_embd.weight", config.vocab_size, config.d_model)

    def __call__(self, ops: Ops, batch: Batch) -> Array:
        """-> [T, D]"""
        return ops.embed(self.token_embd, batch.tokens)


class OutputRows:
    """Rows of the output matrix, all or a run of them; without a matrix of its own a model's is tied to the
    embedding's."""

    def __init__(self, config: Config, load: Loader, rows: range | None = None) -> None:
        self.rows = range(config.vocab_size) if rows is None else rows
        name = "output.weight" if "output.weight" in load.checkpoint.tensors else "token_embd.weight"
        self.output = load.rows(name, self.rows, config.vocab_size, config.d_model)

    def __call__(self, ops: Ops, h: Array) -> Array:
        """h [R, D] -> logits [R, rows]"""
        (logits,) = ops.linear(h, self.output)
        return logits


class RunHead(Protocol):
    """Multiplies by all rows of the output matrix wherever they live. Given by the engine.

    h [R, D] -> logits [R, V]"""

    def __call__(self, own: OutputRows, h: Array, /) -> Array: ...


class Head:
    """Final norm of the tokens that want logits, and the output matrix, or the rows of it that are here."""

    def __init__(self, config: Config, load: Loader, rows: range | None = None) -> None:
        self.eps = config.eps
        self.output_norm = load.weight("output_norm.weight", config.d_model)
        self.output = OutputRows(config, load, rows)

    def __call__(self, ops: Ops, x: Array, batch: Batch, run: RunHead) -> Array:
        """x [T, D] -> logits [R, V]"""
        return run(self.output, ops.rms_norm(ops.take(x, batch.rows), self.output_norm, self.eps))
