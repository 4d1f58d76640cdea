"""Small labs for the tests of lab, predict and plan."""

from dataclasses import replace

from motley.lab.lab import Device, Kernel, Lab, Link
from motley.lab.placement import LayerPlacement, Placement
from motley.shape.dims import Dims
from motley.shape.model import ModelShape


def device(name: str, memory: float = 64e9, speed: float = 1.0, **changes: object) -> Device:
    """A CPU that reads `speed` x 20 GB/s and computes in proportion."""
    plain = Device(
        name=name,
        node=name,
        kind="cpu",
        memory_bytes=int(memory),
        threads=2,
        read_gb_s=20 * speed,
        int8_gops=1000 * speed,
        f32_gflops=100 * speed,
        op_overhead_us=4,
        call_us=1,
        kernels=tuple(
            Kernel(q, 600 * speed, ((2**13, 40 * speed), (2**14, 18 * speed))) for q in ("q4_k", "q6_k", "q8_0")
        ),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def lab(*devices: Device, rtt_us: float = 50, gb_s: float = 1.0) -> Lab:
    """Every pair joined by the same kind of link."""
    links = [Link(a.name, b.name, "tcp", rtt_us, gb_s) for i, a in enumerate(devices) for b in devices[i + 1 :]]
    return Lab(devices, tuple(links))


def tiny_shape(n_layers: int = 2, n_experts: int = 4, n_used: int = 2, quant: str = "q8_0") -> ModelShape:
    dims = Dims("tiny", "qwen3moe", n_layers, 256, 8, 2, 32, n_experts, n_used, 128, 128, 512, 1024, 1e-6, 1e4)
    return ModelShape.from_dims(dims, quant)


def placed(shape: ModelShape, home: str, *owners: str) -> Placement:
    """All layers at `home`, experts dealt to `owners` in turn."""
    experts = tuple(owners[e % len(owners)] for e in range(shape.n_experts))
    return Placement(tuple(LayerPlacement(home, experts) for _ in range(shape.n_layers)))
