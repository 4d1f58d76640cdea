"""NativeMeter: measures a native device as models will use it, through its own operations (`lab.probe.Meter`).

Weights are zeros: the kernels' time does not depend on values. The best of several medians, as other work on the
machine slows some of the runs.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np

from motley.formats.tensor import QuantTensor
from motley.ops.native import NativeOps
from motley.ops.protocol import REPACKED, Batch, Upload
from motley.shape.quant import Quant

_COLS = 1024
_PIECES = 8  # matrices that a working set is cut into, so that threads and prefetching behave as in a model,
_PIECE_BYTES = 1 << 19  # but none so small that the cost of its call is what is measured
_GEMM_TOKENS = 64  # what an expert sees of a 512-token chunk, if 8 of 64 are chosen
_SECONDS = 0.06  # of one measurement, after warming up
_TURNS, _APART = 3, 0.03  # it is spread over so many turns, so many seconds apart


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

        took = max(self._seconds(pass_over) - pieces * self._overhead_s, 1e-9)
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

    def _seconds(self, work: Callable[[], object]) -> float:
        """Seconds of one call: of a few medians, apart in time, the best, as other work on the machine only slows it
        for some tenths of a second; beside other nodes, whose work will stay, the middle one."""
        work()
        found = []
        for _ in range(_TURNS):
            times: list[float] = []
            until = perf_counter() + _SECONDS / _TURNS
            while len(times) < 3 or perf_counter() < until:
                started = perf_counter()
                work()
                times.append(perf_counter() - started)
            found.append(median(times))
            until = perf_counter() + _APART
            while perf_counter() < until:  # sleeping would lend the core to another node that is being measured
                pass
        return min(found) if self._alone else median(found)


def _zeros(quant: Quant, rows: int) -> QuantTensor:
    return QuantTensor("probe", (rows, _COLS), quant, np.zeros(quant.n_bytes(rows * _COLS), np.uint8))
