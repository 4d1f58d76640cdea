"""What one device takes for one operation: max(bytes / rate, operations / rate) + overhead.

Owns the only place where a Device's figures become milliseconds.
"""

from dataclasses import dataclass
from math import exp, log2
from typing import Self

from motley.lab.lab import GEMM_SHARE, Device, Kernel
from motley.predict.memory import KEPT_AS, runs_native
from motley.shape.mixer import Mixer
from motley.shape.quant import Quant

FLOATS = frozenset({"f32", "f16", "bf16"})
_NEARLY = 0.85  # a kernel that arithmetic keeps so busy is not waiting for memory
GLUE = 1.3  # Python between two ops, in calls of a small one: measured on the native engine


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


@dataclass(frozen=True)
class WorkingSets:
    """What a device reads between two uses of the same weights, bytes: how far they have moved out of its caches.

    Home weights come round every step. An expert comes round after 1 / (its share of the choices) steps, in which
    all others of the device have been touched with a probability of 1 - 1/e."""

    home: float
    expert: float

    @classmethod
    def of(cls, device: Device, home_bytes: float, expert_bytes: float, touched: float) -> Self:
        """`touched`: share of the experts that one step reads."""
        expert = home_bytes + max(1 - exp(-1), touched) * expert_bytes
        return cls(_step(device, home_bytes + touched * expert_bytes), _step(device, expert))


def _step(device: Device, n_bytes: float) -> float:
    """To half a power of two, and no more than was measured: placements that differ by an expert should cost the
    same per byte, and be remembered as the same."""
    if n_bytes <= 0 or all(len(k.matvec) == 1 for k in device.kernels):
        return 0.0  # whatever it is, it is read at one rate
    largest = max(k.matvec[-1][0] for k in device.kernels)
    return float(largest) if n_bytes >= largest else float(2 ** (round(2 * log2(n_bytes)) / 2))


class DeviceCost:
    """One device, and what it reads over and over."""

    def __init__(self, device: Device, sets: WorkingSets) -> None:
        self._device = device
        self._sets = sets

    def matrix(self, weights: Matrix, tokens: float, touched: float = 1.0, expert: bool = False) -> Cost:
        """`weights`, `touched` times over (experts), applied to `tokens` rows in all. Without the overhead of the
        call."""
        if touched == 0 or tokens == 0:
            return Cost()
        d, kernel = self._device, self._kernel(weights)
        n_bytes, operations = self._as_kept(weights).n_bytes * touched, 2.0 * weights.n_params * tokens
        if kernel is None:
            rate = d.f32_gflops if weights.quant in FLOATS else d.int8_gops * GEMM_SHARE
            reach = d.read_gb_s * (d.expert_share if expert else 1.0)
            rate *= d.expert_gemm_share if expert else 1.0
            return Cost.larger(n_bytes / reach / 1e6, operations / rate / 1e6)
        reach = kernel.matvec_gb_s(self._sets.expert if expert else self._sets.home)
        reach *= d.expert_share if expert else 1.0
        # From the nearest cache the first token's product is bound by unpacking; each further one adds arithmetic.
        first = 2.0 * weights.n_params * min(touched, tokens)
        gemm = kernel.gemm_gops * (d.expert_gemm_share if expert else 1.0)
        unpacking = n_bytes / kernel.matvec[0][1] if len(kernel.matvec) > 1 else 0.0
        computing = unpacking + max(0.0, operations - first) / gemm
        moving = n_bytes / reach
        if computing >= _NEARLY * moving:
            return Cost(compute=max(moving, computing) / 1e6)
        return Cost(bandwidth=moving / 1e6)

    def _kernel(self, weights: Matrix) -> Kernel | None:
        """The measured one; for a precision that was not, the measured integer one with the nearest size."""
        weights = self._as_kept(weights)
        known = self._device.kernel(weights.quant)
        alike = [k for k in self._device.kernels if k.quant not in FLOATS]
        if known or weights.quant in FLOATS or not alike:
            return known

        def distance(kernel: Kernel) -> float:
            quant = Quant.named(kernel.quant)
            return abs(log2(weights.n_bytes / weights.n_params * quant.block / quant.block_bytes))

        return min(alike, key=distance)

    def _as_kept(self, weights: Matrix) -> Matrix:
        """Of a precision without kernels: what a device of Motley's own keeps, and reads, in its place. (Where weights
        stay in the file they are unpacked at every use instead, which is slower than this says.)"""
        if not runs_native(self._device) or weights.quant not in KEPT_AS or self._device.kernel(weights.quant):
            return weights
        kept, per_weight = KEPT_AS[weights.quant]
        quant = "q8_0" if kept == "int8" else kept.lower()
        return Matrix(quant, round(per_weight * weights.n_params), weights.n_params)

    def upload(self, n_bytes: float) -> Cost:
        """Of weights that are brought here from the host's memory."""
        return Cost(bandwidth=n_bytes / self._device.upload_gb_s / 1e6)

    def elements(self, n: float) -> Cost:
        """Element-wise work, in units of a norm's."""
        rate = self._device.elements_g_s
        return Cost(compute=n / rate / 1e6) if rate else Cost()

    def attention(self, kv_bytes: float, operations: float) -> Cost:
        d = self._device
        reading = kv_bytes / (d.cache_gb_s or d.read_gb_s) / 1e6
        return Cost.larger(reading, operations / (d.attention_gflops or d.f32_gflops) / 1e6)

    def calls(self, threaded: float, single: float) -> Cost:
        """Dispatch of ops that use all threads, and of those that need one."""
        return Cost(overhead=(threaded * self._device.op_overhead_us + single * self._device.call_us) / 1e3)

    def glue(self, n_ops: float) -> Cost:
        """Python between `n_ops` ops: it runs as fast as its calls do."""
        return Cost(overhead=n_ops * GLUE * self._device.call_us / 1e3)

    def step(self) -> Cost:
        return Cost(overhead=self._device.step_us / 1e3)

    def layer(self, mixer: Mixer) -> Cost:
        """Launches of a layer's attention and what surrounds it."""
        d = self._device
        more = {"linear": d.recurrent_us, "latent": d.latent_us, "sparse": d.sparse_us}.get(mixer.kind, 0.0)
        return Cost(overhead=(d.layer_us + more) / 1e3)

    def routed(self) -> Cost:
        return Cost(overhead=self._device.routed_us / 1e3)

    def reduce(self, n_bytes: float, times: int) -> Cost:
        """All-reduces of `n_bytes` each, where the device is a group."""
        d = self._device
        if not d.reduce_gb_s:
            return Cost()
        return Cost(overhead=times * (d.reduce_us / 1e3 + n_bytes / d.reduce_gb_s / 1e6))
