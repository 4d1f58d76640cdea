"""Probing: what a device reaches, asked of a meter and written down as a `Device`.

Owns the list of what is measured; how it is measured is the meter's matter (`ops.meter`, an ops implementation's own).
A few seconds a device.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Protocol

from motley.lab.lab import Device, Kernel
from motley.lab.machine import this_machine

QUANTS = ("q8_0", "q4_k", "q6_k", "mxfp4", "f32")  # what the bundled, the synthetic and many public models have

_WORKING_SETS = tuple(n * 2**20 for n in (1, 2, 4, 16, 64, 384))  # from the nearest cache's to memory's
_QUICK = 4 * 2**20  # sets that are measured in no time
_PACKED = 64 * 2**20
_ROUNDS = 3


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

    def elements_g_s(self) -> float:
        """A norm of many tokens: 1e9 elements a second."""
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

    def stored_gb_s(self, quant: str, n_bytes: int) -> float:
        """`matvec_gb_s` of weights that were not repacked."""
        ...

    def pack_gb_s(self, n_bytes: int) -> float:
        """Repacking about `n_bytes` of weights, once the memory is at hand."""
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
    quick = _medians(
        {
            "op_overhead_us": meter.op_overhead_us,
            "call_us": meter.call_us,
            "elements_g_s": meter.elements_g_s,
            "attention_gflops": meter.attention_gflops,
            "int8_gops": meter.int8_gops,
            "f32_gflops": meter.f32_gflops,
            **{f"gemm {quant}": partial(meter.gemm_gops, quant) for quant in quants},
            **{f"{n} {quant}": partial(meter.matvec_gb_s, quant, n) for quant in quants for n in sizes if n <= _QUICK},
        }
    )
    large = {f"{n} {quant}": meter.matvec_gb_s(quant, n) for quant in quants for n in sizes if n > _QUICK}
    outermost = [n for n in sizes if n in (_QUICK, sizes[-1])] or sizes
    stored = {q: tuple((n, _rounded(meter.stored_gb_s(q, n))) for n in outermost) for q in quants}
    found = {key: _rounded(value) for key, value in {**quick, **large}.items()}
    return Device(
        name=name,
        node=node,
        kind=kind,
        memory_bytes=memory,
        threads=threads,
        read_gb_s=_rounded(meter.read_gb_s(sizes[-1])),
        int8_gops=found["int8_gops"],
        f32_gflops=found["f32_gflops"],
        op_overhead_us=found["op_overhead_us"],
        call_us=found["call_us"],
        attention_gflops=found["attention_gflops"],
        elements_g_s=found["elements_g_s"],
        pack_gb_s=_rounded(meter.pack_gb_s(min(_PACKED, sizes[-1]))),
        kernels=tuple(
            Kernel(q, found[f"gemm {q}"], tuple((n, found[f"{n} {q}"]) for n in sizes), stored[q]) for q in quants
        ),
    )


def _medians(measure: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Each of them once a round: a slow second of the machine spoils one round, not one figure."""
    rounds = [{name: take() for name, take in measure.items()} for _ in range(_ROUNDS)]
    return {name: median(r[name] for r in rounds) for name in measure}


def _rounded(value: float) -> float:
    """Three digits: no measurement here is better than that, and lab files are read by people."""
    return float(f"{value:.3g}")
