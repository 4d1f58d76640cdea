"""NativeOps: the operations on this machine's CPU, by the C++ kernels in `native/`.

Owns what the kernels cannot know: QuantTensors, output arrays, which source pages may be dropped. Arrays are numpy's
own, so `from_host` and `to_host` cost nothing. Weights are repacked for the kernels (16 rows interleaved), once and for
all or a few rows at a time whenever they are used (`Upload.repack`): the bits are the same. The activations of
quantised weights are rounded to int8 per 32 elements with a float32 scale: results differ from the reference's by that
rounding, about 0.5 % of a typical activation. Float weights (F32, F16, BF16) see float32 activations.

Exactness: a token's bits depend neither on its batch, nor on the number of threads, nor on the instruction set.
NaN and infinity: with float weights they propagate as in the reference; with quantised weights a block of 32
activations that holds one makes all outputs of that token NaN.

Test: pytest tests/parity/test_ops_native.py tests/parity/test_ops_parity.py; speed: python benchmarks/ops.py
"""

import mmap
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from motley.errors import CapacityError, MotleyError, UnsupportedError, UsageError
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
    HostPart,
    Multiplies,
    Recording,
    Rope,
    RouterVectors,
    Routing,
    Span,
    Upload,
)
from motley.ops.shapes import check_experts, check_tensor
from motley.shape.mixer import BESIDE, CacheType
from motley.shape.quant import Quant

try:
    from motley.ops.native import _native
except ImportError as error:  # a checkout that was not built
    _build_error: ImportError | None = error
else:
    _build_error = None

Floats = NDArray[np.float32]

SUPPORTED = frozenset(Quant)
_CACHE_TYPES: dict[CacheType, int] = {"f32": 0, "f16": 1, "q8_0": 2}
_GATES = {"none": 0, "sigmoid": 1, "silu": 2}


def isas() -> list[str]:
    """The instruction sets that this build has kernels for and this CPU can run, best first."""
    _check_built()
    return _native.isas()


class NativeWeight:
    """An uploaded vector, matrix or one matrix a head. `vector`: float32 [cols], for norms. `packed`: the matrix for
    products, repacked or as it is stored; those of all heads are one, below each other. `router`: the same repacked
    and in float, `taps`: float32 [cols, rows]; both made when first asked for."""

    __slots__ = ("_device", "_repacked", "_router", "_taps", "_tensor", "n_heads", "n_rows", "packed", "vector")

    def __init__(self, device: "_native.Device", tensor: QuantTensor, upload: Upload) -> None:
        self._device, self._tensor, self._repacked = device, tensor, upload.repack
        self._router: _native.Matrix | None = None
        self._taps: Floats | None = None
        self.n_heads = 1
        if len(tensor.dims) == 1:
            self.n_rows, self.vector = 1, np.ascontiguousarray(tensor.decode())
        elif len(tensor.dims) == 3:
            self.n_heads, rows, cols = tensor.dims
            self.n_rows = self.n_heads * rows
            whole = QuantTensor(tensor.name, (self.n_rows, cols), tensor.quant, tensor.data)
            if rows % 16:
                raise UnsupportedError(f"tensor {tensor.name} {list(tensor.dims)}: heads of whole 16 rows are needed")
            self.packed = _matrix(device, whole, Upload(report=upload.report))
        else:
            self.n_rows, self.packed = tensor.dims[0], _matrix(device, tensor, upload)

    @property
    def router(self) -> "_native.Matrix":
        if self._router is None:
            tensor = self._tensor
            is_float = tensor.quant in (Quant.F32, Quant.F16, Quant.BF16)
            if is_float and self._repacked:
                self._router = self.packed
            else:
                values = np.ascontiguousarray(tensor.decode()).reshape(-1).view(np.uint8)
                tensor = tensor if is_float else QuantTensor(tensor.name, tensor.dims, Quant.F32, values)
                self._router = _matrix(self._device, tensor, REPACKED)
        return self._router

    @property
    def taps(self) -> Floats:
        if self._taps is None:
            self._taps = np.ascontiguousarray(self._tensor.decode().T)
        return self._taps


class NativeProgram:
    """See `ops.protocol.Program`; while it is made it is its own `Recording`."""

    def __init__(self, program: "_native.Program", work: Callable[[Recording], Floats]) -> None:
        self._program = program
        self._waits: list[bool] = []  # of each of the host's parts
        self._at = 0
        program.start()
        try:
            self.out = work(self)
        finally:
            program.stop()

    def mark(self) -> None:
        self._program.mark()

    def call(self, work: Callable[[], None], waits: bool = False) -> None:
        self._program.call(work)
        self._waits.append(waits)

    def begin(self) -> None:
        self._at = 0
        self._program.begin()

    def next(self) -> HostPart | None:
        work = self._program.next()
        if work is None:
            return None
        self._at += 1
        return HostPart(work, self._waits[self._at - 1])

    def marks(self) -> list[tuple[float, float]]:
        marks = self._program.marks()
        return list(zip(marks[::2], marks[1::2]))


class NativeOps:
    """See `ops.protocol.Ops` for every operation's shapes.

    threads: the caller's included. isa: "" takes the best that this CPU has; a name of `isas()` forces one.
    kv: how keys and values are stored where a cache does not say.
    """

    rewind = BESIDE  # Cache::kTogether of native/device.h
    remembers_prompts = False
    multiplies: Multiplies = "int8"
    memory_bytes = 0  # it is the machine's

    def __init__(self, threads: int = 1, isa: str = "", kv: CacheType = "f16") -> None:
        _check_built()
        if kv not in _CACHE_TYPES:
            raise UsageError(f"kv {kv!r}: keys and values are stored as {', '.join(_CACHE_TYPES)}")
        self._kv = kv
        try:
            self._device = _native.Device(threads, isa)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.name = f"native-{self._device.isa}"
        self.threads = threads
        self.isa = self._device.isa

    # -- placing weights

    def weight(self, tensor: QuantTensor, upload: Upload = REPACKED) -> NativeWeight:
        _check_quant(tensor)
        check_tensor(tensor, 1, 2, 3)
        return NativeWeight(self._device, tensor, upload)

    def table(self, tensor: QuantTensor) -> QuantTensor:
        """The tensor itself: it stays in its file's mapping, and only the rows of the tokens at hand are read."""
        _check_quant(tensor)
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
    ) -> "_native.ExpertSet":
        for tensor in (gate, up, down):
            _check_quant(tensor)
        check_experts(gate, up, down)
        n_experts, d_expert, d_model = gate.dims
        ids = [int(e) for e in owned]
        gate, up, down = (t.read(ids) for t in (gate, up, down))
        g, u, d = ((t.data, t.quant.ggml_type) for t in (gate, up, down))
        if upload.repack:
            release = all(_is_file_mapping(t.data) for t in (gate, up, down))
            experts = self._device.pack_experts(*g, *u, *d, n_experts, d_model, d_expert, ids, release, upload.report)
        else:
            experts = self._device.stored_experts(*g, *u, *d, n_experts, d_model, d_expert, ids)
        added = [np.ascontiguousarray(b.decode()) for b in biases] if biases else [None] * 3
        experts.set_activation(activation.value, *added)
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
    ) -> "_native.Cache":
        """A window's memory is that of the window and `rewind` positions."""
        width = head_dim if value_dim is None else value_dim
        try:
            how = (span.window, span.chunk, _CACHE_TYPES[stored or self._kv], one)
            return self._device.cache(n_slots, context, n_kv_heads, head_dim, width, *how)
        except (MemoryError, TypeError):  # TypeError: a number beyond 64 bits
            raise CapacityError(
                f"no memory for the keys and values of {n_slots} sequences of {context} tokens: "
                "take a shorter context or fewer sequences"
            ) from None

    def delta_state(self, n_slots: int, net: DeltaNet) -> "_native.DeltaState":
        try:
            return self._device.delta_state(
                n_slots, net.k_heads, net.v_heads, net.k_dim, net.v_dim, net.taps, net.eps, net.tiled
            )
        except (MemoryError, TypeError):
            raise CapacityError(f"no memory for the states of {n_slots} sequences: take fewer") from None

    # -- arithmetic

    def embed(self, table: QuantTensor, tokens: NDArray[np.int32]) -> Floats:
        out = np.empty((len(tokens), table.dims[1]), np.float32)
        self._device.embed(table.data, table.quant.ggml_type, table.dims[1], tokens, out)
        return out

    def rms_norm(self, x: Floats, weight: NativeWeight, eps: float) -> Floats:
        out = np.empty_like(x)
        self._device.rms_norm(x, weight.vector, eps, out)
        return out

    def linear(self, x: Floats, *weights: NativeWeight) -> tuple[Floats, ...]:
        outs = tuple([np.empty((len(x), w.n_rows), np.float32) for w in weights])
        self._device.linear(x, tuple([w.packed for w in weights]), outs)
        return outs

    def rope(self, x: Floats, head_dim: int, positions: NDArray[np.int32], rope: Rope) -> Floats:
        """In place."""
        self._device.rope(x, head_dim, positions, rope.frequencies, rope.start, rope.magnitude, rope.interleaved)
        return x

    def attention(
        self,
        q: Floats,
        k: Floats,
        v: Floats,
        cache: "_native.Cache",
        batch: Batch,
        scale: float,
        sinks: NativeWeight | None = None,
    ) -> Floats:
        heads, width = q.shape[1] // cache.head_dim, cache.value_dim
        out = np.empty((len(q), heads * width), np.float32)
        sunk = None if sinks is None else sinks.vector
        self._device.attention(q, k, v, cache, batch.positions, batch.slots, scale, sunk, out)
        return out

    def delta_net(
        self,
        qkv: Floats,
        write: Floats,
        keep: Floats,
        weights: DeltaWeights,
        state: "_native.DeltaState",
        batch: Batch,
    ) -> Floats:
        out = np.empty((len(qkv), state.width), np.float32)
        conv, dt, rate = weights.conv.taps, weights.dt.vector, weights.rate.vector
        self._device.delta_net(qkv, write, keep, conv, dt, rate, state, batch.positions, batch.slots, out)
        return out

    def router(
        self, x: Floats, weight: NativeWeight, routing: Routing, vectors: RouterVectors = NO_VECTORS
    ) -> tuple[NDArray[np.int32], Floats]:
        r = routing
        ids = np.empty((len(x), r.n_used), np.int32)
        weights = np.empty((len(x), r.n_used), np.float32)
        bias, prior, gain = (None if v is None else v.vector for v in vectors)
        groups = (r.n_groups, r.n_groups_used, r.group_sum)
        how = (r.n_used, r.normalize, r.score == "sigmoid", r.scale, *groups)
        self._device.router(x, weight.router, *how, bias, prior, gain, ids, weights)
        return ids, weights

    def heads_linear(self, x: Floats, weight: NativeWeight) -> Floats:
        out = np.empty((len(x), weight.n_rows), np.float32)
        self._device.heads_linear(x, weight.packed, weight.n_heads, out)
        return out

    def activate(self, gate: Floats, up: Floats, activation: Activation) -> Floats:
        out = np.empty_like(gate)
        self._device.activate(activation.value, gate, up, out)
        return out

    def gate(self, x: Floats, by: Floats, function: Literal["none", "sigmoid", "silu"] = "sigmoid") -> Floats:
        """In place on x."""
        self._device.gate(x, by, _GATES[function])
        return x

    def temper(self, x: Floats, positions: NDArray[np.int32], factor: float, length: int) -> Floats:
        """In place."""
        self._device.temper(x, positions, factor, length)
        return x

    def scale(self, x: Floats, factor: float) -> Floats:
        """In place."""
        self._device.scale(x, factor)
        return x

    def softcap(self, x: Floats, cap: float) -> Floats:
        """In place."""
        self._device.softcap(x, cap)
        return x

    def add_bias(self, x: Floats, vector: NativeWeight) -> Floats:
        """In place on x."""
        self._device.add_bias(x, vector.vector)
        return x

    def columns(self, x: Floats, width: int, first: int, end: int) -> Floats:
        out = np.empty((len(x), x.shape[1] // width * (end - first)), np.float32)
        self._device.columns(x, width, first, end, out)
        return out

    def join(self, x: Floats, width: int, y: Floats, width_y: int) -> Floats:
        out = np.empty((len(x), x.shape[1] + y.shape[1]), np.float32)
        self._device.join(x, width, y, width_y, out)
        return out

    def experts(
        self, x: Floats, ids: NDArray[np.int32], weights: Floats, experts: "_native.ExpertSet"
    ) -> NDArray[np.float64]:
        out = np.empty(x.shape, np.float64)
        self._device.experts(x, ids, weights, experts, out)
        return out

    def combine(self, x: Floats, parts: Sequence[NDArray[np.float64]]) -> Floats:
        """In place on x."""
        self._device.combine(x, list(parts))
        return x

    def add(self, x: Floats, y: Floats) -> Floats:
        """In place on x."""
        self._device.add(x, y)
        return x

    def take(self, x: Floats, rows: NDArray[np.int32]) -> Floats:
        out = np.empty((len(rows), x.shape[1]), np.float32)
        self._device.take(x, rows, out)
        return out

    def record(self, work: Callable[[Recording], Floats]) -> "NativeProgram":
        return NativeProgram(self._device.program(), work)

    # -- host

    def start(self, *arrays: object) -> None:
        """Nothing is left to do: operations end before they return."""

    def wait(self, *arrays: object) -> None:
        """Likewise."""

    def from_host(self, a: NDArray[Any]) -> NDArray[Any]:
        """The array itself when the kernels can work on it in place, else a copy."""
        flags = a.flags
        return a if flags.c_contiguous and flags.writeable else np.require(a, requirements=["C", "W"])

    def to_host(self, a: NDArray[Any]) -> NDArray[Any]:
        return a

    def busy_seconds(self) -> float:
        return self._device.busy_seconds()

    def close(self) -> None:
        self._device.close()

    # -- probes

    def read_gb_s(self, n_bytes: int = 1 << 28, reps: int = 7) -> float:
        """Reading bandwidth of all threads together, GB/s: the median of `reps` passes over `n_bytes` of huge pages.
        Take a buffer well beyond the last-level cache where that is known to be large."""
        return self._device.read_gb_s(n_bytes, reps)

    def int8_gops(self) -> float:
        """Integer dot products of all threads from registers, 10^9 operations/s; a multiply-add counts as two."""
        return self._device.int8_gops()

    def f32_gflops(self) -> float:
        """Float32 multiply-adds of all threads from registers, 10^9 operations/s; a multiply-add counts as two."""
        return self._device.f32_gflops()

    def op_overhead_us(self, reps: int = 2000) -> float:
        """What calling an operation costs by itself, microseconds: the median of a tiny product through Python."""
        data = np.zeros(16 * 32 * 4, np.uint8)
        weight = self.weight(QuantTensor("overhead", (16, 32), Quant.F32, data))
        x = np.zeros((1, 32), np.float32)
        times = []
        for _ in range(reps):
            start = perf_counter()
            self.linear(x, weight)
            times.append(perf_counter() - start)
        return median(times) * 1e6


def _check_built() -> None:
    if _build_error is not None:
        raise MotleyError(
            f"the native kernels are not built ({_build_error}): run `make bench`, or tools/build_native.sh"
        )


def _check_quant(tensor: QuantTensor) -> None:
    if tensor.quant not in SUPPORTED:
        known = ", ".join(sorted(q.name for q in SUPPORTED))
        raise UnsupportedError(f"tensor {tensor.name} is {tensor.quant.name}: the native device has {known}")


def _matrix(device: "_native.Device", tensor: QuantTensor, upload: Upload) -> "_native.Matrix":
    rows, cols = tensor.dims
    tensor = tensor.read()
    if not upload.repack:
        return device.stored(tensor.data, tensor.quant.ggml_type, rows, cols)
    release = _is_file_mapping(tensor.data)
    return device.pack(tensor.data, tensor.quant.ggml_type, rows, cols, release, upload.report)


def _is_file_mapping(data: NDArray[Any]) -> bool:
    """Whether `data` is a read-only view of a memory map, whose pages may be dropped: the file has them."""
    if data.flags.writeable:
        return False
    base: Any = data
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return base is not None
