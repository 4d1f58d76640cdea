"""Probing: what a device reaches, asked of a meter and written down as a `Device`.

Owns the list of what is measured; how it is measured is the meter's matter (`ops.meter`, an ops implementation's own).
A few seconds a device.
"""

from collections.abc import Sequence
from typing import Protocol

from motley.lab.lab import Device, Kernel
from motley.lab.machine import this_machine

QUANTS = ("q8_0", "q4_k", "q6_k", "f32")  # what the bundled and the synthetic models are stored in

_WORKING_SETS = tuple(n * 2**20 for n in (1, 4, 16, 64, 384))  # from the nearest cache's to memory's


class Meter(Protocol):
    """Measures one device as it will be used: with its own kernels, threads and Python calls."""

    def read_gb_s(self, n_bytes: int) -> float:
        """Sequential read of a working set of `n_bytes`."""
        ...

    def int8_gops(self) -> float: ...

    def f32_gflops(self) -> float: ...

    def attention_gflops(self) -> float:
        """Attention of a chunk of a prompt."""
        ...

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
    """Measure everything the cost model asks for, on a quarter of `memory_bytes` at the most: what Motley may use
    (default: what is free now)."""
    memory = memory_bytes if memory_bytes is not None else this_machine().available_bytes
    sizes = [n for n in _WORKING_SETS if n <= max(memory // 4, _WORKING_SETS[0])]
    return Device(
        name=name,
        node=node,
        kind=kind,
        memory_bytes=memory,
        threads=threads,
        read_gb_s=_rounded(meter.read_gb_s(sizes[-1])),
        int8_gops=_rounded(meter.int8_gops()),
        f32_gflops=_rounded(meter.f32_gflops()),
        attention_gflops=_rounded(meter.attention_gflops()),
        op_overhead_us=_rounded(meter.op_overhead_us()),
        call_us=_rounded(meter.call_us()),
        kernels=tuple(_kernel(meter, quant, sizes) for quant in quants),
    )


def _kernel(meter: Meter, quant: str, sizes: Sequence[int]) -> Kernel:
    curve = tuple((n, _rounded(meter.matvec_gb_s(quant, n))) for n in sizes)
    return Kernel(quant, _rounded(meter.gemm_gops(quant)), curve)


def _rounded(value: float) -> float:
    """Three digits: no measurement here is better than that, and lab files are read by people."""
    return float(f"{value:.3g}")
