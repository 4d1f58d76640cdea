"""Probing: what a device reaches, asked of a meter and written down as a `Device`.

Owns the list of what is measured; how it is measured is the meter's matter (`ops.meter`, an ops implementation's own).
A few seconds a device.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Protocol

from motley.lab.lab import Device, Kernel
from motley.lab.machine import this_machine
from motley.progress import Progress, silent

QUANTS = ("q8_0", "q4_k", "q6_k", "mxfp4", "f32")  # what the bundled, the synthetic and many public models have

WORKING_SETS = tuple(n * 2**20 for n in (1, 2, 4, 16, 64, 384))  # from the nearest cache's to memory's
_QUICK = 4 * 2**20  # sets that are measured in no time
_PACKED = 64 * 2**20
_ROUNDS = 5
# Where a device works behind the host, its Python takes no time of its own, and small operations are launches:
_LAYER_CALLS, _ROUTED_CALLS = 5, 3  # of a layer (norms, ropes, add), and where it has experts (norm, choice, sum)
_EXCHANGE_US = 20.0  # an exchange's Python: 20 small calls of the native engine, as `predict.cost` has it


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

    def step_us(self) -> float:
        """Waiting for the device once: 0 where it has done its work when a call returns."""
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

    def upload_gb_s(self, n_bytes: int) -> float:
        """Bringing about `n_bytes` of experts from the machine's memory, as a file has them, in the place of others; 0:
        such a device never needs it."""
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
    working_sets: Sequence[int] = WORKING_SETS,
    rounds: int = _ROUNDS,
    progress: Progress = silent,
) -> Device:
    """Measure everything the cost model asks for, on a quarter of `memory_bytes` at the most: what Motley may use
    (default: what is free now)."""
    memory = memory_bytes if memory_bytes is not None else this_machine().available_bytes
    sizes = [n for n in working_sets if n <= max(memory // 4, working_sets[0])]
    outermost = [n for n in sizes if n in (_QUICK, sizes[-1])] or sizes
    quick: dict[str, Callable[[], float]] = {
        "op_overhead_us": meter.op_overhead_us,
        "call_us": meter.call_us,
        "elements_g_s": meter.elements_g_s,
        "attention_gflops": meter.attention_gflops,
        "int8_gops": meter.int8_gops,
        "f32_gflops": meter.f32_gflops,
        **{f"gemm {quant}": partial(meter.gemm_gops, quant) for quant in quants},
        **{f"{n} {quant}": partial(meter.matvec_gb_s, quant, n) for quant in quants for n in sizes if n <= _QUICK},
    }
    slow: dict[str, Callable[[], float]] = {
        **{f"{n} {quant}": partial(meter.matvec_gb_s, quant, n) for quant in quants for n in sizes if n > _QUICK},
        **{f"stored {n} {quant}": partial(meter.stored_gb_s, quant, n) for quant in quants for n in outermost},
        "read_gb_s": partial(meter.read_gb_s, sizes[-1]),
        "pack_gb_s": partial(meter.pack_gb_s, min(_PACKED, sizes[-1])),
        "upload_gb_s": partial(meter.upload_gb_s, min(_PACKED, sizes[-1])),
        "step_us": meter.step_us,
    }
    found = _medians([*[quick] * rounds, slow], partial(progress, f"measuring {name}"))
    waiting = found["step_us"]
    return Device(
        name=name,
        node=node,
        kind=kind,
        memory_bytes=memory,
        threads=threads,
        read_gb_s=found["read_gb_s"],
        int8_gops=found["int8_gops"],
        f32_gflops=found["f32_gflops"],
        op_overhead_us=found["op_overhead_us"],
        call_us=0.0 if waiting else found["call_us"],
        layer_us=_rounded(_LAYER_CALLS * found["call_us"]) if waiting else 0.0,
        routed_us=_rounded(_ROUTED_CALLS * found["call_us"]) if waiting else 0.0,
        attention_gflops=found["attention_gflops"],
        elements_g_s=found["elements_g_s"],
        step_us=waiting,
        exchange_us=waiting + _EXCHANGE_US if waiting else 0.0,
        pack_gb_s=found["pack_gb_s"],
        upload_gb_s=found["upload_gb_s"],
        kernels=tuple(
            Kernel(
                quant,
                found[f"gemm {quant}"],
                tuple((n, found[f"{n} {quant}"]) for n in sizes),
                tuple((n, found[f"stored {n} {quant}"]) for n in outermost),
            )
            for quant in quants
        ),
    )


def _medians(rounds: Sequence[Mapping[str, Callable[[], float]]], tell: Callable[[float], None]) -> dict[str, float]:
    """Rounds that measure alike are apart in time: a slow second of the machine spoils one of them, not one figure."""
    todo = [measurement for measure in rounds for measurement in measure.items()]
    taken = defaultdict[str, list[float]](list)
    for i, (name, take) in enumerate(todo):
        tell(i / len(todo))
        taken[name].append(take())
    return {name: _rounded(median(values)) for name, values in taken.items()}


def _rounded(value: float) -> float:
    """Three digits: no measurement here is better than that, and lab files are read by people."""
    return float(f"{value:.3g}")
