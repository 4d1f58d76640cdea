"""Meters: measure a device as models will use it, through its own operations (`lab.probe.Meter`). NativeMeter for the
native kernels, OpsMeter for any other device.

Weights are zeros: the kernels' time does not depend on values. The best of several medians, as other work on the
machine slows some of the runs.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from motley.formats.tensor import QuantTensor
from motley.ops.native import NativeOps
from motley.ops.protocol import REPACKED, Batch, Ops, Upload
from motley.shape.quant import Quant

_COLS = 1024
_PIECES = 8  # matrices that a working set is cut into, so that threads and prefetching behave as in a model,
_PIECE_BYTES = 1 << 19  # but none so small that the cost of its call is what is measured
_GEMM_TOKENS = 64  # what an expert sees of a 512-token chunk, if 8 of 64 are chosen
_MiB = 1 << 20
_SECONDS = 0.02  # of one measurement, after warming up
_LONG = 0.02  # seconds: beside such an operation the wait for its end is nothing
_TURNS, _APART = 3, 0.03  # of one that takes long to prepare: a probe makes it once, and the others in several rounds
_LONG_BYTES = 8 * _MiB


class NativeMeter:
    """`alone`: nobody else measures on this machine at the same time; else what the others take belongs to it."""

    def __init__(self, ops: NativeOps, alone: bool = True) -> None:
        self._ops, self._alone = ops, alone
        self._overhead_s = median(ops.op_overhead_us() for _ in range(3)) * 1e-6

    def read_gb_s(self, n_bytes: int) -> float:
        return self._ops.read_gb_s(n_bytes)

    def int8_gops(self) -> float:
        return self._ops.int8_gops()

    def f32_gflops(self) -> float:
        return self._ops.f32_gflops()

    def op_overhead_us(self) -> float:
        return self._ops.op_overhead_us()

    def call_us(self) -> float:
        return self._norm_s(1, 64) * 1e6

    def step_us(self) -> float:
        """Nobody waits for this device."""
        return 0.0

    def elements_g_s(self) -> float:
        return 512 * 256 / self._norm_s(512, 256) / 1e9

    def _norm_s(self, tokens: int, width: int) -> float:
        norm = self._ops.weight(QuantTensor("norm", (width,), Quant.F32, np.zeros(4 * width, np.uint8)))
        x = np.ones((tokens, width), np.float32)
        return self._seconds(lambda: self._ops.rms_norm(x, norm, 1e-6))

    def matvec_gb_s(self, quant: str, n_bytes: int) -> float:
        return self._product_gb_s(quant, n_bytes, REPACKED)

    def stored_gb_s(self, quant: str, n_bytes: int) -> float:
        return self._product_gb_s(quant, n_bytes, Upload(repack=False))

    def pack_gb_s(self, n_bytes: int) -> float:
        """The second time: the first finds the memory. Q4_K, the most usual: the others are alike."""
        tensor = _zeros(Quant.Q4_K, n_bytes // Quant.Q4_K.n_bytes(_COLS) // 16 * 16)
        tensor.data.fill(1)  # or all its pages were one and the same
        rates = []
        for _ in range(4):
            started = perf_counter()
            self._ops.weight(tensor)
            rates.append(tensor.n_bytes / (perf_counter() - started) / 1e9)
        return median(rates[1:])

    def upload_gb_s(self, n_bytes: int) -> float:
        """What the machine's memory holds lies in this device's own."""
        return 0.0

    def _product_gb_s(self, quant: str, n_bytes: int, upload: Upload) -> float:
        """Working set of about `n_bytes`; the calls' own cost is taken off."""
        kind = Quant.named(quant)
        pieces = max(1, min(_PIECES, n_bytes // _PIECE_BYTES))
        rows = max(16, n_bytes // pieces // kind.n_bytes(_COLS) // 16 * 16)
        tensors = [_zeros(kind, rows) for _ in range(pieces)]
        for tensor in tensors:
            tensor.data.fill(0)  # untouched memory has no pages of its own
        weights = [self._ops.weight(tensor, upload) for tensor in tensors]
        x = np.ones((1, _COLS), np.float32)

        def pass_over() -> None:
            for weight in weights:
                self._ops.linear(x, weight)

        turns = _TURNS if n_bytes >= _LONG_BYTES else 1
        took = max(self._seconds(pass_over, turns) - pieces * self._overhead_s, 1e-9)
        return pieces * kind.n_bytes(rows * _COLS) / took / 1e9

    def gemm_gops(self, quant: str) -> float:
        rows = 2048
        weight = self._ops.weight(_zeros(Quant.named(quant), rows))
        x = np.ones((_GEMM_TOKENS, _COLS), np.float32)
        took = max(self._seconds(lambda: self._ops.linear(x, weight)) - self._overhead_s, 1e-9)
        return 2 * rows * _COLS * _GEMM_TOKENS / took / 1e9

    def attention_gflops(self) -> float:
        """A chunk of 128 tokens behind 128 others, 8 heads of 64 over 2 key/value heads."""
        heads, kv_heads, width, tokens = 8, 2, 64, 128
        cache = self._ops.kv_cache(1, 2 * tokens, kv_heads, width)
        q = np.ones((tokens, heads * width), np.float32)
        k = np.ones((tokens, kv_heads * width), np.float32)
        zeros = np.zeros(tokens, np.int32)
        batch = Batch(zeros, np.arange(tokens, 2 * tokens, dtype=np.int32), zeros, zeros)
        took = self._seconds(lambda: self._ops.attention(q, k, k, cache, batch, 0.125))
        return 4 * heads * width * tokens * (1.5 * tokens) / max(took - self._overhead_s, 1e-9) / 1e9

    def _seconds(self, work: Callable[[], object], turns: int = 1) -> float:
        """Seconds of one call: of a few medians, apart in time, the best, as other work on the machine only slows it
        for some tenths of a second; beside other nodes, whose work will stay, the middle one."""
        work()
        found = []
        for turn in range(turns):
            until = perf_counter() + (_APART if turn else 0)
            while perf_counter() < until:  # sleeping would lend the core to another node that is being measured
                pass
            times: list[float] = []
            until = perf_counter() + _SECONDS
            while len(times) < 3 or perf_counter() < until:
                started = perf_counter()
                work()
                times.append(perf_counter() - started)
            found.append(median(times))
        return min(found) if self._alone else median(found)


class OpsMeter:
    """Any device, a lazy one too: what an operation takes is the difference between many of them and few, with one
    wait for the device at the end of each. Its weights lie in one order, so that reading them stored is reading them.
    """

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self._one = ops.from_host(np.ones((1, _COLS), np.float32))
        self._pieces: dict[tuple[str, int], list[Any]] = {}  # of one precision at a time

    @property
    def working_sets(self) -> tuple[int, ...]:
        """Fewer where the device stands in for another and is slow."""
        self._pieces.clear()
        slow = self.matvec_gb_s("q8_0", 4 * _MiB) < 5
        return (_MiB, 4 * _MiB) if slow else (4 * _MiB, 64 * _MiB, 256 * _MiB)

    def read_gb_s(self, n_bytes: int) -> float:
        return self.matvec_gb_s("f32", n_bytes)

    def int8_gops(self) -> float:
        return self.gemm_gops("q8_0")

    def f32_gflops(self) -> float:
        return self.gemm_gops("f32")

    def op_overhead_us(self) -> float:
        weight = self._ops.weight(_zeros(Quant.F32, _COLS // 16))
        return 1e6 * self._each(lambda: self._ops.linear(self._one, weight)[0], 32)

    def call_us(self) -> float:
        return 1e6 * self._norm_s(1, 64)

    def elements_g_s(self) -> float:
        return 512 * _COLS / self._norm_s(512, _COLS) / 1e9

    def step_us(self) -> float:
        """Waiting for the device, where it has one small operation to do."""
        norm = self._ops.weight(_vector(_COLS))
        times = []
        for _ in range(32):
            started = perf_counter()
            self._ops.to_host(self._ops.rms_norm(self._one, norm, 1e-6))
            times.append(perf_counter() - started)
        return 1e6 * median(times)

    def matvec_gb_s(self, quant: str, n_bytes: int) -> float:
        kind, size = Quant.named(quant), min(n_bytes, 8 * _MiB)
        rows = max(16, size // kind.n_bytes(_COLS) // 16 * 16)
        pieces = self._of(quant, rows)
        while len(pieces) * size < n_bytes:
            pieces.append(self._ops.weight(_zeros(kind, rows)))
        used = pieces[: max(1, n_bytes // size)]
        took = self._each(lambda: self._ops.linear(self._one, *used), 3, len(used))
        return kind.n_bytes(rows * _COLS) / took / 1e9

    def stored_gb_s(self, quant: str, n_bytes: int) -> float:
        return self.matvec_gb_s(quant, n_bytes)

    def pack_gb_s(self, n_bytes: int) -> float:
        tensor = _zeros(Quant.Q4_K, min(n_bytes, 4 * _MiB) // Quant.Q4_K.n_bytes(_COLS) // 16 * 16)
        return max(tensor.n_bytes / _seconds_of(lambda: self._ops.weight(tensor)) / 1e9 for _ in range(3))

    def upload_gb_s(self, n_bytes: int) -> float:
        """Q4_K, the most usual. Two groups of experts by turns, each until it is there."""
        n = 2 * max(1, n_bytes // (3 * Quant.Q4_K.n_bytes(_COLS * _COLS)))
        gate, up, down = (_experts(Quant.Q4_K, n) for _ in range(3))
        kept: Any = None

        def bring(turn: int) -> None:
            nonlocal kept
            group = range(n // 2) if turn % 2 else range(n // 2, n)
            kept = self._ops.experts_weight(gate, up, down, group, Upload(into=kept))
            self._ops.wait()

        for turn in (0, 1):  # the second finds how the first was done
            bring(turn)
        seconds = [_seconds_of(partial(bring, turn)) for turn in (2, 3, 4)]
        return 3 * gate.n_bytes / 2 / median(seconds) / 1e9

    def gemm_gops(self, quant: str) -> float:
        rows = 2048
        (weight, *_) = self._of(quant, rows) or [self._ops.weight(_zeros(Quant.named(quant), rows))]
        x = self._ops.from_host(np.ones((_GEMM_TOKENS, _COLS), np.float32))
        return 2 * rows * _COLS * _GEMM_TOKENS / self._each(lambda: self._ops.linear(x, weight), 2) / 1e9

    def attention_gflops(self) -> float:
        """As NativeMeter's."""
        heads, kv_heads, width, tokens = 8, 2, 64, 128
        cache = self._ops.kv_cache(1, 2 * tokens, kv_heads, width)
        q, k, v = (self._ops.from_host(np.ones((tokens, n * width), np.float32)) for n in (heads, kv_heads, kv_heads))
        zeros = np.zeros(tokens, np.int32)
        chunks = [Batch(zeros, np.arange(a, a + tokens, dtype=np.int32), zeros, zeros) for a in (0, tokens)]
        self._ops.to_host(self._ops.attention(q, k, v, cache, chunks[0], 0.125))
        took = self._each(lambda: self._ops.attention(q, k, v, cache, chunks[1], 0.125), 4)
        return 4 * heads * width * tokens * (1.5 * tokens) / took / 1e9

    def _norm_s(self, tokens: int, width: int) -> float:
        norm = self._ops.weight(_vector(width))
        x = self._ops.from_host(np.ones((tokens, width), np.float32))
        return self._each(lambda: self._ops.rms_norm(x, norm, 1e-6), 32)

    def _of(self, quant: str, rows: int) -> list[Any]:
        if (quant, rows) not in self._pieces:
            self._pieces.clear()
        return self._pieces.setdefault((quant, rows), [])

    def _each(self, work: Callable[[], Any], times: int, parts: int = 1) -> float:
        """Seconds of one of the `parts` of `work`, which returns an array [T, n] or several."""
        self._run(work, 1)
        if (once := _seconds_of(lambda: self._run(work, 1))) > _LONG:
            return once / parts
        turns = [[_seconds_of(lambda n=n: self._run(work, n)) for n in (times, 3 * times)] for _ in range(_TURNS)]  # type: ignore[misc]
        each = median((many - few) / (2 * times) for few, many in turns)
        if each <= 0:  # the machine was busy with other things
            each = median(many for _, many in turns) / (3 * times)
        return each / parts

    def _run(self, work: Callable[[], Any], times: int) -> None:
        """All of it is needed for the one number that is waited for."""
        ops, last = self._ops, np.zeros(1, np.int32)
        total: Any = None
        for _ in range(times):
            outs = work()
            for y in outs if isinstance(outs, tuple) else (outs,):
                y = ops.columns(ops.take(y, last), 16, 0, 1)
                total = y if total is None else ops.add(total, y)
        ops.to_host(total)


def _seconds_of(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


def _vector(width: int) -> QuantTensor:
    return QuantTensor("probe", (width,), Quant.F32, np.zeros(4 * width, np.uint8))


def _experts(quant: Quant, n: int) -> QuantTensor:
    data = np.full(n * quant.n_bytes(_COLS * _COLS), 1, np.uint8)  # untouched memory has no pages of its own
    return QuantTensor("probe", (n, _COLS, _COLS), quant, data)


def _zeros(quant: Quant, rows: int) -> QuantTensor:
    return QuantTensor("probe", (rows, _COLS), quant, np.zeros(quant.n_bytes(rows * _COLS), np.uint8))
