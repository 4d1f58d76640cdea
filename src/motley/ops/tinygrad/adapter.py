"""The one file that touches what tinygrad does not promise to keep: its UOps, buffers, schedules and devices.

Held to one version, `VERSION`; `tests/unit/tinygrad_device/test_adapter.py` checks every assumption with a sentence
that says which one fell. The rest of this package uses `Tensor`'s public methods and the functions here.

Some kernels are written as UOps, because tinygrad's expressions can't say them without copying what they index (rows by
number, products with a cache's rows) or without a loop (the delta rule).
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.errors import UnsupportedError
from motley.ops.tinygrad.source import Kernel

VERSION = "0.14.0"


def _installed() -> str:
    try:
        return version("tinygrad")
    except PackageNotFoundError:
        raise UnsupportedError(
            f"tinygrad is not installed: run `pip install 'motley-moe[tinygrad]'`, or `pip install tinygrad=={VERSION}`"
        ) from None


if _installed() != VERSION:
    raise UnsupportedError(
        f"tinygrad {_installed()} is installed, and Motley works with {VERSION} only, as tinygrad changes its inside "
        f"often: run `pip install tinygrad=={VERSION}`"
    )

from tinygrad import Device, Tensor, dtypes  # noqa: E402
from tinygrad.device import Buffer  # noqa: E402
from tinygrad.dtype import AddrSpace  # noqa: E402
from tinygrad.engine.jit import jit_lower  # noqa: E402
from tinygrad.engine.realize import get_call_arg_uops, get_runtime, link_linear, run_linear  # noqa: E402
from tinygrad.tensor import all_tensors  # noqa: E402
from tinygrad.uop.ops import AxisType, KernelInfo, Ops, ProgramInfo, UOp, buffers  # noqa: E402

Shape = tuple[int, ...]
_DTYPES = {
    np.dtype(np.float32): dtypes.float32,
    np.dtype(np.float64): dtypes.float64,
    np.dtype(np.float16): dtypes.float16,
    np.dtype(np.int32): dtypes.int32,
    np.dtype(np.int8): dtypes.int8,
    np.dtype(np.uint8): dtypes.uint8,
    np.dtype(np.uint16): dtypes.uint16,
    np.dtype(np.uint32): dtypes.uint32,
}

_REMEDIES = {
    "CPU": "install clang (Debian: `apt-get install clang`), or name one by the variable CC",
    "CUDA": "install NVIDIA's driver and the CUDA toolkit (nvrtc), or try NV",
    "NV": "install NVIDIA's driver, or try CUDA",
    "AMD": "load the kernel module amdgpu and install ROCm's compiler library (comgr)",
    "METAL": "an Apple computer is needed",
}


def open_device(name: str) -> str:
    """tinygrad's own name of the device, opened and tried. UnsupportedError, with what to do, where that fails."""
    kind = name.split(":")[0]
    try:
        device: str = Device.canonicalize(name)
        (Tensor(np.ones(2, np.float32), device=device) + 1).numpy()
    except Exception as error:  # of any kind: libraries, drivers and compilers that are missing
        remedy = _REMEDIES.get(kind, f"devices are {', '.join(_REMEDIES)} and PYTHON")
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnsupportedError(f"tinygrad's device {name} can't be used here ({reason}): {remedy}") from error
    return device


def has_double(device: str) -> bool:
    return device.split(":")[0] not in ("METAL", "WEBGPU", "QCOM", "CL")


# -- memory


def upload(values: NDArray[Any], device: str) -> Tensor:
    """A copy on the device, in memory of its own."""
    tensor = empty(values.shape, device, _DTYPES[values.dtype])
    write(tensor, values)
    return tensor


def empty(shape: Shape, device: str, dtype: Any = dtypes.float32) -> Tensor:
    return Tensor.empty(*shape, device=device, dtype=dtype)


def zeros(shape: Shape, device: str, dtype: Any = dtypes.float32) -> Tensor:
    return Tensor.zeros(*shape, device=device, dtype=dtype).contiguous().realize()


def write(tensor: Tensor, values: NDArray[Any]) -> None:
    """Into the tensor's own memory, whatever was there."""
    if values.nbytes != (size := _buffer(tensor).nbytes):
        raise ValueError(f"{values.nbytes} bytes for a buffer of {size}")
    write_first(tensor, values)


def write_first(tensor: Tensor, values: NDArray[Any], at: int = 0) -> None:
    """Likewise, into its bytes from `at` on; the others stay."""
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    buffer = _buffer(tensor)
    if at + flat.nbytes > buffer.nbytes:
        raise ValueError(f"{flat.nbytes} bytes from byte {at} of a buffer of {buffer.nbytes}")
    if flat.nbytes:
        whole = flat.nbytes == buffer.nbytes
        part = buffer if whole else buffer.view(flat.nbytes, dtypes.uint8, at).ensure_allocated()
        # tinygrad takes no memory that is read-only, as a mapped file's is, although it only reads it
        source = memoryview((ctypes.c_uint8 * flat.nbytes).from_address(flat.ctypes.data)).cast("B")
        part.allocator._copyin(part._buf, source)


def read(tensor: Tensor) -> NDArray[Any]:
    """A copy of a realised tensor on the host; waits for the device."""
    if not tensor.uop.has_buffer_identity():
        return np.array(tensor.numpy())
    values: NDArray[Any] = tensor.uop.buffer.numpy().reshape(tensor.shape)  # numpy() itself builds a graph each time
    return values


def _buffer(tensor: Tensor) -> Buffer:
    return tensor.uop.base.buffer.ensure_allocated()


def wait(device: str) -> None:
    Device[device].synchronize()


def free_memory(device: str) -> int:
    """Bytes that are free in the card's memory; 0 for a device that is no card or whose driver is not asked."""
    if device.split(":")[0] != "CUDA":
        return 0
    from tinygrad.runtime.autogen import cuda

    card: Any = Device[device]
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    for status in (
        cuda.cuCtxSetCurrent(card.context),
        cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)),
    ):
        if status:
            raise UnsupportedError(f"{device} does not say how much memory it has (CUDA error {status}): give =SIZE")
    return free.value


# -- doing and remembering


def realize(tensors: Sequence[Tensor]) -> None:
    if tensors:
        Tensor.realize(*tensors)


def variable(name: str, least: int, most: int, value: int) -> UOp:
    """A length that is given when a graph runs, here bound to its first value."""
    return UOp.variable(name, least, most).bind(value)


class Graph:
    """The kernels that make these tensors what they are: compiled once, run as often as wanted into the same memory.
    What they read that is realised already is read anew at each run."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        pending = [t for t in tensors if not t.uop.is_virtual and not t.uop.has_buffer_identity()]
        self.n_kernels, self._calls = 0, list[Callable[[Mapping[str, int]], Any]]()
        if not pending:
            return
        linear, self._values = Tensor.linear_with_vars(*pending)
        held = set(buffers) | {
            u for ref in list(all_tensors) if (t := ref()) is not None for u in t.uop.toposort() if u.op is Ops.BUFFER
        }
        self.n_kernels = len(linear.src)
        lowered = link_linear(jit_lower(linear, held, []))
        self._calls = [_prepared(call) for call in lowered.src]

    def run(self, values: Mapping[str, int]) -> None:
        """`values`: of the variables, by name."""
        if self._calls:
            given = {**self._values, **values}
            for call in self._calls:
                call(given)


def _prepared(call: UOp) -> Callable[[Mapping[str, int]], Any]:
    """One call of a graph with its kernel and memory looked up: tinygrad does that anew each time, which takes ten
    times as long as calling it. What is no single kernel (copies, CUDA's graphs of many) goes its way."""
    program = call.src[0]
    if program.op is not Ops.PROGRAM:
        return lambda values: run_linear(UOp(Ops.LINEAR, src=(call,)), dict(values), jit=True)
    info, arguments = program.arg, get_call_arg_uops(call)
    held = [arguments[i].buffer.ensure_allocated() for i in info.globals]
    device = held[0].device
    runtime, memory = get_runtime(device, program), [b.get_buf(device) for b in held]
    fixed = None if info.vars else info.launch_dims({})

    def run(values: Mapping[str, int], held: Any = held) -> None:  # held: the memory is its buffers'
        blocks, threads = fixed or info.launch_dims(values)
        runtime(*memory, global_size=blocks, local_size=threads, vals=info.vals(values))

    return run


# -- kernels in the device's own language


def launch(kernel: Kernel, source: str, device: str, *arguments: Tensor) -> list[Tensor]:
    """The kernel's results: its first `outs` arguments, after it ran. `source`: C for the CPU, CUDA for CUDA and NV."""
    info = ProgramInfo(
        name=kernel.name,
        global_size=kernel.grid,
        local_size=(kernel.threads, 1, 1),
        globals=tuple(range(len(arguments))),
        outs=tuple(range(kernel.written)),
        ins=tuple(range(len(arguments))),
        target=Device[device].renderer.target,
    )

    def program(*parameters: UOp) -> UOp:
        sink = UOp.sink(*parameters, arg=KernelInfo(name=kernel.name))
        return UOp(Ops.PROGRAM, src=(sink, UOp(Ops.LINEAR, src=parameters), UOp(Ops.SOURCE, arg=source)), arg=info)

    return list(arguments[0].custom_kernel(*arguments[1:], fxn=program)[: kernel.outs])


# -- kernels in UOps


def rows(source: Tensor, index: Tensor) -> Tensor:
    """source [R, W], index int32 [T] -> [T, W]"""
    return empty((index.shape[0], source.shape[1]), source.device, source.dtype).custom_kernel(
        source, index, fxn=_rows
    )[0]


def put(target: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """target [R, W] with the rows `index` [T] replaced by values [T, W], in its own memory; read what is returned."""
    return target.custom_kernel(values, index, fxn=_put)[0]


def unpacked(target: Tensor, records: Tensor, first: int) -> Tensor:
    """target [..., R, N] filled, in its own memory, with a field of records, uint8 [..., R, bytes]: their bytes from
    `first` on, one or two for each element, the lower first."""
    return target.custom_kernel(records, fxn=_unpacked(first))[0]


def scores(q: Tensor, keys: Tensor, first_row: Tensor, seen: UOp) -> Tensor:
    """q [T, H, N] times keys [R, K*N]: of each token the `seen` rows from its first_row [T] on -> [T, H, seen]. The
    memory behind it is that of seen's largest value."""
    T, H, N = q.shape
    most, kernel = _length(seen), _scores(H * N // keys.shape[1], N)
    return empty((T, H, most), q.device).custom_kernel(q, keys, first_row, fxn=kernel(seen))[0][:, :, :seen]


def weighted(weights: Tensor, values: Tensor, first_row: Tensor, seen: UOp, n_kv_heads: int, width: int) -> Tensor:
    """weights [T, H, seen], values [R, K*...] -> [T, H, M], M = `width`, the first of each head's: as `scores`, the
    other way round."""
    T, H = weights.shape[:2]
    kernel = _weighted(H // n_kv_heads, values.shape[1] // n_kv_heads)
    most = _length(seen)
    whole = empty((T, H, most), values.device)
    stored = Tensor(whole.uop.after(whole[:, :, :seen].uop.store(weights.uop)))
    return empty((T, H, width), values.device).custom_kernel(stored, values, first_row, fxn=kernel(seen))[0]


def _length(seen: UOp) -> int:
    return int(seen.vmax)


def _range_of(seen: UOp, axis: int, kind: Any = AxisType.LOOP) -> UOp:
    """A kernel knows a variable as a parameter of its own, by name."""
    v = seen.src[0]
    name, bounds = v.expr, (int(v.vmin), int(v.vmax))
    return UOp.range(UOp.param(9, dtypes.int, (), vmin_vmax=bounds, name=name, addrspace=AddrSpace.ALU), axis, kind)


def _rows(out: UOp, source: UOp, index: UOp) -> UOp:
    t, w = UOp.range(out.shape[0], 0), UOp.range(out.shape[1], 1)
    return out[t, w].store(source[index[t], w]).end(t, w).sink(arg=KernelInfo(name="rows"))


def _put(target: UOp, values: UOp, index: UOp) -> UOp:
    t, w = UOp.range(values.shape[0], 0), UOp.range(values.shape[1], 1)
    return target[index[t], w].store(values[t, w].cast(target.dtype)).end(t, w).sink(arg=KernelInfo(name="put"))


@cache
def _unpacked(first: int) -> Callable[..., UOp]:
    def kernel(out: UOp, records: UOp) -> UOp:
        where = [UOp.range(n, axis) for axis, n in enumerate(out.shape)]
        *lead, i = where
        if out.dtype.itemsize == 1:
            value = records[*lead, i + first]
        else:
            low, high = (records[*lead, i * 2 + first + k].cast(dtypes.uint16) for k in (0, 1))
            value = low + high * 256
        return out[*where].store(value.bitcast(out.dtype)).end(*where).sink(arg=KernelInfo(name="unpacked"))

    return kernel


@cache
def _scores(group: int, N: int) -> Callable[[UOp], Callable[..., UOp]]:
    def of(seen: UOp) -> Callable[..., UOp]:
        def kernel(out: UOp, q: UOp, keys: UOp, first: UOp) -> UOp:
            t, h, s = UOp.range(q.shape[0], 0), UOp.range(q.shape[1], 1), _range_of(seen, 2)
            n = UOp.range(N, 3, AxisType.REDUCE)
            key = keys[first[t] + s, h // group * N + n].cast(dtypes.float32)
            return (
                out[t, h, s]
                .store((q[t, h, n] * key).reduce(n, arg=Ops.ADD))
                .end(t, h, s)
                .sink(arg=KernelInfo(name="scores"))
            )

        return kernel

    return of


@cache
def _weighted(group: int, stride: int) -> Callable[[UOp], Callable[..., UOp]]:
    def of(seen: UOp) -> Callable[..., UOp]:
        def kernel(out: UOp, weights: UOp, values: UOp, first: UOp) -> UOp:
            t, h, m = UOp.range(out.shape[0], 0), UOp.range(out.shape[1], 1), UOp.range(out.shape[2], 2)
            s = _range_of(seen, 3, AxisType.REDUCE)
            value = values[first[t] + s, h // group * stride + m].cast(dtypes.float32)
            return (
                out[t, h, m]
                .store((weights[t, h, s] * value).reduce(s, arg=Ops.ADD))
                .end(t, h, m)
                .sink(arg=KernelInfo(name="weighted"))
            )

        return kernel

    return of


def grouped(n: int) -> Callable[[UOp], UOp]:
    """Value heads next to each other share a key head."""
    return lambda head: head // n


def tiled(n: int) -> Callable[[UOp], UOp]:
    return lambda head: head % n


def delta_rule(
    states: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    keep: Tensor,
    slots: Tensor,
    fresh: Tensor,
    key_head: Callable[[Any], Any],
) -> tuple[Tensor, Tensor]:
    """The gated delta rule, one token after the other: states [S, V*N*M] in place, q, k [T, K*N], v [T, V*M], beta and
    keep [T, V], slots int32 [T], fresh int32 [T] (1: from zeros); `key_head`: of a value head. -> states, out [T, V*M].
    A thread has one column of one head's state, and no other reads it."""
    V, M = beta.shape[1], v.shape[1] // beta.shape[1]
    N = states.shape[1] // (V * M)

    def kernel(S: UOp, out: UOp, q: UOp, k: UOp, v: UOp, beta: UOp, keep: UOp, slots: UOp, fresh: UOp) -> UOp:
        h, m, t = UOp.range(V, 0), UOp.range(M, 1), UOp.range(v.shape[0], 2, AxisType.REDUCE)
        n, again, last = (UOp.range(N, axis, AxisType.REDUCE) for axis in (3, 4, 5))
        zero, first = UOp.const(0.0, dtypes.float32), key_head(h) * N

        def old(n: UOp) -> UOp:
            return (fresh[t] > 0).where(zero, S.after(t)[slots[t], (h * N + n) * M + m]) * keep[t, h]

        found = (k[t, first + n] * old(n)).reduce(n, arg=Ops.ADD)
        delta = (v[t, h * M + m] - found) * beta[t, h]
        stored = S[slots[t], (h * N + again) * M + m].store(old(again) + k[t, first + again] * delta).end(again)
        y = (q[t, first + last] * S.after(stored)[slots[t], (h * N + last) * M + m]).reduce(last, arg=Ops.ADD)
        done = out[t, h * M + m].store(y).end(t).end(h, m)
        return done.sink(arg=KernelInfo(name="delta_rule", opts_to_apply=()))

    out = empty((v.shape[0], V * M), states.device)
    new, out = states.custom_kernel(out, q, k, v, beta, keep, slots, fresh, fxn=kernel)[:2]
    return new, out
