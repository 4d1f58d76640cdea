"""TinygradOps: the operations on any device that tinygrad drives.

Owns the meaning of each operation: arrays are pending expressions until the host reads one, or a remembered program
ends; then everything that somebody still holds is computed at once. Weights stay quantised (`planes`).

Exactness: dot products are summed in float32, in an order that depends on the kernel, and the kernel on the number of
rows: a token's logits are within 1e-4 of the reference's (relative to the largest), but their last bits may depend on
its batch. Experts' sums are float64 where the device has it (METAL has not), so that who holds an expert changes no
more than that.

Test: pytest tests/unit/tinygrad_device tests/parity/test_tinygrad_models.py; speed: python benchmarks/gpu/run.py
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any, Literal, NamedTuple
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, dtypes

from motley.errors import CapacityError, UnsupportedError, UsageError
from motley.formats.tensor import QuantTensor
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
    Recording,
    Rope,
    RouterVectors,
    Routing,
    Span,
    Upload,
)
from motley.ops.shapes import check_experts, check_tensor
from motley.ops.tinygrad import adapter, expressions
from motley.ops.tinygrad.arrays import HostRows, Rows, padded_rows, remembered_rows
from motley.ops.tinygrad.program import TinygradProgram
from motley.ops.tinygrad.weights import (
    TinygradCache,
    TinygradDelta,
    TinygradExperts,
    TinygradWeight,
    overwrite,
    uploaded,
    uploaded_experts,
)
from motley.shape.mixer import CacheType

_KV = {"f16": dtypes.float16, "f32": dtypes.float32}
_MOST_INPUTS = 64  # of the host's arrays that are on the device, outside programs


class AttentionInputs(NamedTuple):
    """int32 [P] each: the cache's row of the token, its sequence's first row, and the positions that it sees, first
    and last."""

    places: Tensor
    bases: Tensor
    firsts: Tensor
    positions: Tensor


class _Here(threading.local):
    """One thread's: a node serves others' questions while its own stage works."""

    def __init__(self) -> None:
        self.alive: WeakSet[Rows] = WeakSet()
        self.changed: dict[tuple[int, str], tuple[Any, str]] = {}  # caches and states that a pending operation writes
        self.program: TinygradProgram | None = None
        self.inputs: dict[Any, tuple[tuple[NDArray[Any], ...], list[NDArray[Any]], Tensor]] = {}


class TinygradOps:
    """See `ops.protocol.Ops` for every operation's shapes.

    device: tinygrad's name: CPU, CUDA, CUDA:1, NV, AMD, METAL, PYTHON. kv: "f16" or "f32", how keys and values are
    stored where a cache does not say. UnsupportedError where the device can't be opened, with what is missing."""

    rewind = 1 << 30  # every position stays, windows or not
    remembers_prompts = True  # building a layer's graph takes Python a tenth of a second
    multiplies: Multiplies = "float32"

    def __init__(self, device: str = "CPU", kv: CacheType = "f16") -> None:
        if kv not in _KV:
            raise UsageError(f"kv {kv!r}: keys and values are stored as f16 or f32")
        self.device = adapter.open_device(device)
        self.name = f"tinygrad-{self.device.lower()}"
        self._kv = kv
        self._total = dtypes.float64 if adapter.has_double(self.device) else dtypes.float32
        self._here = _Here()
        self._one_at_a_time = threading.RLock()  # tinygrad's own tables are one for all threads
        self._busy_s = 0.0

    @property
    def memory_bytes(self) -> int:
        return adapter.free_memory(self.device)

    # -- placing weights

    def weight(self, tensor: QuantTensor, upload: Upload = REPACKED) -> TinygradWeight:
        check_tensor(tensor, 1, 2, 3)
        with self._memory_for(tensor.name):
            weight = uploaded(tensor, self.device)
        if upload.report:
            upload.report(tensor.n_bytes)
        return weight

    def table(self, tensor: QuantTensor) -> QuantTensor:
        """The tensor itself: it stays in its file's mapping on the host, and the rows of the tokens at hand are decoded
        there and sent."""
        check_tensor(tensor, 2)
        return tensor.read()

    def experts_weight(
        self,
        gate: QuantTensor,
        up: QuantTensor,
        down: QuantTensor,
        owned: Sequence[int],
        upload: Upload = REPACKED,
        activation: Activation = Activation.SILU,
        biases: ExpertBiases | None = None,
    ) -> TinygradExperts:
        check_experts(gate, up, down)
        if upload.into is not None:
            kept: TinygradExperts = upload.into
            with self._one_at_a_time:
                overwrite(kept, (gate, up, down), owned, biases, self.device)
            return kept
        with self._memory_for(gate.name):
            experts = uploaded_experts(gate, up, down, owned, activation, biases, self.device)
        if upload.report:
            upload.report((gate.n_bytes + up.n_bytes + down.n_bytes) // gate.dims[0] * len(owned))
        return experts

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
    ) -> TinygradCache:
        kind = stored or self._kv
        if kind not in _KV:
            raise UnsupportedError(f"the cache on {self.name} is f16 or f32: give --cache-type one of these")
        rows = n_slots * context + 1
        with self._memory_for(f"the keys and values of {n_slots} sequences of {context} tokens"):
            keys = adapter.zeros((rows, n_kv_heads * head_dim), self.device, _KV[kind])
            width = head_dim if value_dim is None else value_dim
            values = None if one else adapter.zeros((rows, n_kv_heads * width), self.device, _KV[kind])
        return TinygradCache(keys, values, n_slots, context, n_kv_heads, width, span)

    def delta_state(self, n_slots: int, net: DeltaNet) -> TinygradDelta:
        with self._memory_for(f"the states of {n_slots} sequences"):
            states = adapter.zeros((n_slots + 1, net.v_heads * net.k_dim * net.v_dim), self.device)
            inputs = adapter.zeros(((n_slots + 1) * (net.taps - 1), net.channels), self.device)
        return TinygradDelta(net, states, inputs, n_slots)

    # -- arithmetic

    def embed(self, table: QuantTensor, tokens: NDArray[np.int32]) -> Rows:
        def decoded() -> NDArray[np.float32]:
            return padded_rows(np.concatenate([table.rows(t, t + 1).decode() for t in tokens.tolist()]))

        return self._rows(self._input((tokens,), ("embed", id(table)), decoded), len(tokens))

    def rms_norm(self, x: Rows, weight: TinygradWeight, eps: float) -> Rows:
        return self._rows(expressions.rms_norm(x.tensor, weight.values(), eps), x.n)

    def linear(self, x: Rows, *weights: TinygradWeight) -> tuple[Rows, ...]:
        return tuple(self._rows(expressions.linear(x.tensor, w), x.n) for w in weights)

    def rope(self, x: Rows, head_dim: int, positions: NDArray[np.int32], rope: Rope) -> Rows:
        return self._rows(expressions.rope(x.tensor, head_dim, rope, self._angles(positions, rope)), x.n)

    def attention(
        self,
        q: Rows,
        k: Rows,
        v: Rows,
        cache: TinygradCache,
        batch: Batch,
        scale: float,
        sinks: TinygradWeight | None = None,
    ) -> Rows:
        P, context, width = q.tensor.shape[0], cache.context, cache.value_dim
        given = self._attention_inputs(cache, batch)
        self._put(cache, given.places, k, v)
        self._change(cache, *cache.changing)
        seen = self._length(f"seen{context}", context, lambda: int(batch.positions.max(initial=0)) + 1)
        queries = q.tensor.reshape(P, -1, cache.head_dim)  # [P, H, N]
        scores = adapter.scores(queries, cache.keys, given.bases, seen) * scale
        sunk = None if sinks is None else sinks.values()
        weights = expressions.attention_weights(scores, given.positions, given.firsts, sunk)
        found = adapter.weighted(weights, cache.read_values, given.bases, seen, cache.n_kv_heads, width)
        return self._rows(found.reshape(P, -1), q.n)

    def delta_net(
        self, qkv: Rows, write: Rows, keep: Rows, weights: DeltaWeights, state: TinygradDelta, batch: Batch
    ) -> Rows:
        net, n = state.net, state.n_slots
        taps = net.taps - 1
        tokens = batch.slots, batch.positions
        slots, fresh = self._sequences(state, batch)
        remembered = (n + 1) * taps
        windows, into, left = (
            self._input(tokens, (name, taps, n), lambda which=which: remembered_rows(batch, taps, n)[which])  # type: ignore[misc]
            for which, name in enumerate(("windows", "into", "left"))
        )
        P, C = qkv.tensor.shape
        nothing = Tensor.zeros(1, C, device=self.device, dtype=dtypes.float32)
        source = state.inputs.cat(qkv.tensor, nothing).contiguous()  # rows: remembered, this batch's, zeros
        assert source.shape[0] == remembered + P + 1
        taken = adapter.rows(source, windows).reshape(P, net.taps, C)
        mixed = (taken * weights.conv.values().transpose(0, 1)).sum(1).silu()
        state.inputs = adapter.put(state.inputs, into, adapter.rows(source, left))
        q, k, v = expressions.delta_inputs(mixed, net)
        decay = (weights.rate.values() * (keep.tensor + weights.dt.values()).softplus()).exp()
        heads = adapter.tiled(net.k_heads) if net.tiled else adapter.grouped(net.v_heads // net.k_heads)
        state.states, out = adapter.delta_rule(
            state.states, q, k, v, write.tensor.sigmoid(), decay, slots, fresh, heads
        )
        self._change(state, "states", "inputs")
        return self._rows(out, qkv.n)

    def router(
        self, x: Rows, weight: TinygradWeight, routing: Routing, vectors: RouterVectors = NO_VECTORS
    ) -> tuple[Rows, Rows]:
        logits = expressions.linear(x.tensor, weight)
        given = [None if v is None else v.values() for v in vectors]
        ids, weights = expressions.router(logits, routing, *given)
        return self._rows(ids, x.n), self._rows(weights, x.n)

    def experts(self, x: Rows, ids: Rows, weights: Rows, experts: TinygradExperts) -> Rows:
        y = expressions.experts(x.tensor, ids.tensor, weights.tensor, experts, self._total)
        return self._rows(y, x.n, double=True)

    def heads_linear(self, x: Rows, weight: TinygradWeight) -> Rows:
        return self._rows(expressions.heads_linear(x.tensor, weight), x.n)

    def activate(self, gate: Rows, up: Rows, activation: Activation) -> Rows:
        return self._rows(expressions.activate(gate.tensor, up.tensor, activation), gate.n)

    def gate(self, x: Rows, by: Rows, function: Literal["none", "sigmoid", "silu"] = "sigmoid") -> Rows:
        values, factor = x.tensor, by.tensor
        factor = {"none": lambda b: b, "sigmoid": Tensor.sigmoid, "silu": Tensor.silu}[function](factor)
        y = values.reshape(*factor.shape, -1) * factor.unsqueeze(-1)
        return self._rows(y.reshape(*values.shape), x.n)

    def temper(self, x: Rows, positions: NDArray[np.int32], factor: float, length: int) -> Rows:
        return self._rows(x.tensor * self._tempers(positions, factor, length), x.n)

    def scale(self, x: Rows, factor: float) -> Rows:
        return self._rows(x.tensor * factor, x.n)

    def softcap(self, x: Rows, cap: float) -> Rows:
        return self._rows((x.tensor / cap).tanh() * cap, x.n)

    def add_bias(self, x: Rows, vector: TinygradWeight) -> Rows:
        return self._rows(x.tensor + vector.values(), x.n)

    def columns(self, x: Rows, width: int, first: int, end: int) -> Rows:
        return self._rows(expressions.columns(x.tensor, width, first, end), x.n)

    def join(self, x: Rows, width: int, y: Rows, width_y: int) -> Rows:
        return self._rows(expressions.join(x.tensor, width, y.tensor, width_y), x.n)

    def combine(self, x: Rows, parts: Sequence[Rows]) -> Rows:
        total = parts[0].tensor
        for part in parts[1:]:
            total = total + part.tensor
        return self._rows(x.tensor + total.cast(dtypes.float32), x.n)

    def add(self, x: Rows, y: Rows) -> Rows:
        return self._rows(x.tensor + y.tensor, x.n)

    def take(self, x: Rows, rows: NDArray[np.int32]) -> Rows:
        if x.tensor.shape[0] == 1 and len(rows) == 1:
            return x
        return self._rows(adapter.rows(x.tensor, self._input((rows,), "rows", lambda: padded_rows(rows))), len(rows))

    def start(self, *arrays: Rows) -> None:
        if self._here.program is not None:
            return  # it is launched as a whole
        with self._one_at_a_time, self.busy():
            adapter.realize([*(a.tensor for a in arrays), *self.pending()])

    def wait(self, *arrays: Rows) -> None:
        self.start(*arrays)
        with self.busy():
            adapter.wait(self.device)

    def record(self, work: Callable[[Recording], Rows]) -> TinygradProgram:
        with self._one_at_a_time:
            return TinygradProgram(self, work)

    # -- host

    def from_host(self, a: NDArray[Any]) -> Rows:
        return HostRows(a, self._fetched)

    def to_host(self, a: Rows | NDArray[Any]) -> NDArray[Any]:
        """In a program: an array that every run fills before the host's next part. What is the host's already stays."""
        if isinstance(a, np.ndarray):
            return a
        if isinstance(a, HostRows):
            return a.host
        if self._here.program is not None:
            return self._here.program.host_output(a)
        with self._one_at_a_time, self.busy():
            _ = a.tensor  # wanted with the others, if it was put off
            adapter.realize(self.pending())
            return self.read(a)

    def busy_seconds(self) -> float:
        return self._busy_s

    def close(self) -> None:
        """The device is the process's; memory goes with what holds it."""
        self._here = _Here()

    # -- for programs

    def pending(self) -> list[Tensor]:
        """Whatever somebody holds or a cache will be, to be computed now: no later than its inputs change."""
        here = self._here
        tensors = [t for rows in list(here.alive) if (t := rows.pending) is not None]
        tensors += [getattr(state, name) for state, name in here.changed.values()]
        here.changed = {}
        here.alive = WeakSet()
        return tensors

    def read(self, rows: Rows) -> NDArray[Any]:
        values = adapter.read(rows.tensor)[: rows.n]
        return values.astype(np.float64) if rows.double and values.dtype != np.float64 else values

    def host_type(self, rows: Rows) -> Any:
        return np.float64 if rows.double else np.int32 if rows.tensor.dtype == dtypes.int32 else np.float32

    @contextmanager
    def recording(self, program: TinygradProgram) -> Iterator[None]:
        with self._one_at_a_time:
            adapter.realize(self.pending())  # what is pending is not the program's
        self._here.program = program
        try:
            yield
        finally:
            self._here.program = None

    @contextmanager
    def busy(self) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self._busy_s += perf_counter() - start

    # -- inside

    def _rows(self, tensor: Tensor, n: int, double: bool = False) -> Rows:
        rows = Rows(tensor, n, double)
        self._here.alive.add(rows)
        if self._here.program is not None:
            self._here.program.current.n_operations += 1
        return rows

    def _put(self, cache: TinygradCache, places: Tensor, k: Rows, v: Rows) -> None:
        cache.keys = adapter.put(cache.keys, places, k.tensor)
        if cache.values is not None:
            cache.values = adapter.put(cache.values, places, v.tensor)

    def _change(self, state: Any, *names: str) -> None:
        for name in names:
            self._here.changed[id(state), name] = state, name

    def _angles(self, positions: NDArray[np.int32], rope: Rope) -> Tensor:
        """[P, 2, dim / 2]: cosines and sines."""

        def values() -> NDArray[np.float32]:
            angle = positions[:, None] * rope.frequencies  # on the host, as float32 has no digits for far positions
            return padded_rows((np.stack([np.cos(angle), np.sin(angle)], 1) * rope.magnitude).astype(np.float32))

        return self._input((positions,), replace(rope, start=0), values)  # the same wherever it begins

    def _tempers(self, positions: NDArray[np.int32], factor: float, length: int) -> Tensor:
        """[P, 1]"""

        def values() -> NDArray[np.float32]:
            by = 1 + factor * np.log1p((positions.astype(np.int64) + 1) // length)
            return padded_rows(by.astype(np.float32)[:, None])

        return self._input((positions,), ("temper", factor, length), values)

    def _sequences(self, state: TinygradDelta, batch: Batch) -> tuple[Tensor, Tensor]:
        """int32 [P] each: the token's slot, and whether its sequence begins with it."""

        def given(name: str, values: Callable[[], Any], fill: int = 0) -> Tensor:
            key = name, state.net.taps - 1, state.n_slots
            return self._input(
                (batch.slots, batch.positions), key, lambda: padded_rows(np.asarray(values(), np.int32), fill)
            )

        return given("slot", lambda: batch.slots, state.n_slots), given("fresh", lambda: batch.positions == 0)

    def _attention_inputs(self, cache: TinygradCache, batch: Batch) -> AttentionInputs:
        context, tokens = cache.context, (batch.slots, batch.positions)

        def given(name: str, values: Callable[[], Any], fill: int = 0) -> Tensor:
            return self._input(
                tokens, (name, context, cache.span), lambda: padded_rows(np.asarray(values(), np.int32), fill)
            )

        def rows() -> NDArray[np.int32]:
            if int(batch.positions.max(initial=0)) >= context:  # at every run: nothing else stops the kernel
                raise ValueError(f"position {int(batch.positions.max())} in a cache of {context} positions")
            return np.asarray(batch.slots * context + batch.positions, np.int32)

        return AttentionInputs(
            given("place", rows, cache.n_slots * context),
            given("base", lambda: batch.slots * context),
            given("first", lambda: [cache.span.first(p) for p in batch.positions.tolist()]),
            given("position", lambda: batch.positions),
        )

    def _fetched(self, host: NDArray[Any]) -> Tensor:
        def values() -> NDArray[Any]:
            kind = host if host.dtype != np.float64 or self._total == dtypes.float64 else host.astype(np.float32)
            return padded_rows(kind, -1 if host.dtype == np.int32 else 0)

        return self._input((host,), "host", values)

    def _input(self, arrays: tuple[NDArray[Any], ...], what: Any, derive: Callable[[], NDArray[Any]]) -> Tensor:
        """What `derive` makes of the host's arrays, on the device."""
        key = (*map(id, arrays), what)
        if (program := self._here.program) is not None:
            known = program.current.inputs
            if key not in known:
                known[key] = arrays, derive, adapter.upload(derive(), self.device)
            return known[key][2]
        inputs = self._here.inputs
        if key in inputs:
            _, seen, tensor = inputs[key]
            if all(np.array_equal(a, b) for a, b in zip(arrays, seen)):
                return tensor
        if len(inputs) >= _MOST_INPUTS:
            inputs.clear()
        tensor = adapter.upload(derive(), self.device)
        inputs[key] = arrays, [a.copy() for a in arrays], tensor
        return tensor

    def _length(self, name: str, most: int, value: Callable[[], int]) -> Any:
        if self._here.program is not None:
            self._here.program.current.lengths[name] = value
        return adapter.variable(name, 1, most, value())

    @contextmanager
    def _memory_for(self, what: str) -> Iterator[None]:
        try:
            with self._one_at_a_time:
                yield
        except (MemoryError, RuntimeError) as error:
            text = " ".join(str(error).split())
            if isinstance(error, MemoryError) or "memory" in text.lower() or "alloc" in text.lower():
                raise CapacityError(
                    f"no memory on {self.device} for {what} ({text[:120]}): place less there, or take a shorter context"
                ) from None
            raise
