"""Probing: what a device reaches, asked of a meter and written down as a `Device`.

Owns the list of what is measured; how it is measured is the meter's matter (`ops.meter`, an ops implementation's own).
A few seconds a device.
"""

from collections.abc import Sequence
from typing import Protocol

from motley.lab.lab import Device, Kernel
from motley.lab.machine import this_machine

QUANTS = ("q8_0", "q4_k", "q6_k")  # what the bundled and the synthetic models are stored in

_CACHED = 2**20  # a working set that every cache holds
_FROM_MEMORY = 384 * 2**20  # and one that is read from memory again each time
_CACHE_SIZES = tuple(2**n for n in range(21, 29))


class Meter(Protocol):
    """Measures one device as it will be used: with its own kernels, threads and Python calls."""

    def read_gb_s(self) -> float:
        """Sequential read of a working set larger than the caches."""
        ...

    def int8_gops(self) -> float: ...

    def f32_gflops(self) -> float: ...

    def op_overhead_us(self) -> float:
        """One tiny op that uses all threads."""
        ...

    def call_us(self) -> float:
        """One tiny op that needs a single thread."""
        ...

    def matvec_gb_s(self, quant: str, n_bytes: int) -> float:
        """`linear` of one token, again and again over weights of `n_bytes`: bytes of weights per second."""
        ...

    def gemm_gops(self, quant: str) -> float:
        """`linear` of many tokens, weights from cache."""
        ...


def probe_device(
    meter: Meter,
    name: str,
    node: str,
    threads: int,
    *,
    kind: str = "cpu",
    memory_bytes: int | None = None,
    quants: Sequence[str] = QUANTS,
) -> Device:
    """Measure everything the cost model asks for. `memory_bytes`: what Motley may use (default: what is free now)."""
    return Device(
        name=name,
        node=node,
        kind=kind,
        memory_bytes=memory_bytes if memory_bytes is not None else this_machine().available_bytes,
        threads=threads,
        read_gb_s=_rounded(meter.read_gb_s()),
        int8_gops=_rounded(meter.int8_gops()),
        f32_gflops=_rounded(meter.f32_gflops()),
        op_overhead_us=_rounded(meter.op_overhead_us()),
        call_us=_rounded(meter.call_us()),
        cache_bytes=_cache_bytes(meter, quants[0]) if quants else 0,
        kernels=tuple(_kernel(meter, quant) for quant in quants),
    )


def _kernel(meter: Meter, quant: str) -> Kernel:
    return Kernel(
        quant,
        memory_gb_s=_rounded(meter.matvec_gb_s(quant, _FROM_MEMORY)),
        cache_gb_s=_rounded(meter.matvec_gb_s(quant, _CACHED)),
        gemm_gops=_rounded(meter.gemm_gops(quant)),
    )


def _cache_bytes(meter: Meter, quant: str) -> int:
    """The largest working set that is still read faster than halfway between memory's and the cache's rate.
    What the processor says of its caches is no help: in a virtual machine they are shared."""
    slow, fast = meter.matvec_gb_s(quant, _FROM_MEMORY), meter.matvec_gb_s(quant, _CACHED)
    if fast < 1.1 * slow:
        return 0  # memory keeps up with the kernel
    found = _CACHED
    for size in _CACHE_SIZES:
        if meter.matvec_gb_s(quant, size) < (slow + fast) / 2:
            break
        found = size
    return found


def _rounded(value: float) -> float:
    """Three digits: no measurement here is better than that, and lab files are read by people."""
    return float(f"{value:.3g}")
