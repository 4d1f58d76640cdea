"""What one device takes for one operation: max(bytes / rate, operations / rate) + overhead.

Owns the only place where a Device's figures become milliseconds.
"""

from dataclasses import dataclass
from typing import Self

from motley.lab.lab import Device

_GEMM_SHARE = 0.5  # of the peak int8 rate, where the device's own kernels were not measured


@dataclass(frozen=True)
class Cost:
    """Milliseconds of each kind; they add up."""

    bandwidth: float = 0.0
    compute: float = 0.0
    overhead: float = 0.0

    @property
    def ms(self) -> float:
        return self.bandwidth + self.compute + self.overhead

    @property
    def limited_by(self) -> str:
        return max(("bandwidth", "compute", "overhead"), key=lambda kind: float(getattr(self, kind)))

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bandwidth + other.bandwidth, self.compute + other.compute, self.overhead + other.overhead)

    def __mul__(self, factor: float) -> "Cost":
        return Cost(self.bandwidth * factor, self.compute * factor, self.overhead * factor)

    @classmethod
    def larger(cls, bandwidth: float, compute: float) -> Self:
        """Moving and computing overlap: the longer of the two counts."""
        return cls(bandwidth=bandwidth) if bandwidth >= compute else cls(compute=compute)


@dataclass(frozen=True)
class Matrix:
    """Weights of one precision that an operation reads."""

    quant: str
    n_bytes: int
    n_params: int


class DeviceCost:
    """One device with `cached`: which share of its weights stays in cache between steps."""

    def __init__(self, device: Device, cached: float) -> None:
        self._device = device
        self._cached = cached

    def matrix(self, weights: Matrix, tokens: float, touched: float = 1.0) -> Cost:
        """`weights`, `touched` times over (experts), applied to `tokens` rows in all. Without the overhead of the
        call."""
        if touched == 0 or tokens == 0:
            return Cost()
        d, kernel = self._device, self._device.kernel(weights.quant)
        n_bytes, operations = weights.n_bytes * touched, 2.0 * weights.n_params * tokens
        if kernel is None:
            is_float = weights.quant in ("f32", "f16", "bf16")
            rate = d.f32_gflops if is_float else d.int8_gops * _GEMM_SHARE
            return Cost.larger(n_bytes / d.read_gb_s / 1e6, operations / rate / 1e6)
        memory = n_bytes * (1 - self._cached) / kernel.memory_gb_s / 1e6
        from_cache = n_bytes / kernel.cache_gb_s / 1e6 * self._cached  # unpacking at full speed
        many = operations / kernel.gemm_gops / 1e6
        one = Cost(memory, from_cache, 0.0)
        return one if one.ms >= many else Cost(compute=many)

    def attention(self, kv_bytes: float, operations: float) -> Cost:
        d = self._device
        return Cost.larger(kv_bytes / d.read_gb_s / 1e6, operations / d.f32_gflops / 1e6)

    def calls(self, threaded: float, single: float) -> Cost:
        """Dispatch of ops that use all threads, and of those that need one."""
        return Cost(overhead=(threaded * self._device.op_overhead_us + single * self._device.call_us) / 1e3)

    def step(self) -> Cost:
        return Cost(overhead=self._device.step_us / 1e3)


def cached_share(device: Device, weight_bytes: float) -> float:
    """1 while all the device's weights fit its cache, 0 from twice that on: what a step reads pushes out what the
    next one would have found."""
    if device.cache_bytes == 0 or weight_bytes == 0:
        return 0.0
    return min(1.0, max(0.0, 2.0 - weight_bytes / device.cache_bytes))
