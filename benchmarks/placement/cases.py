"""Random small questions for the planner: 2 to 4 unequal devices, few layers, few experts."""

from dataclasses import dataclass, replace

import numpy as np

from motley.lab.lab import Device, Kernel, Lab, Link
from motley.lab.placement import LayerPlacement, Placement
from motley.plan.objective import Objective
from motley.predict.memory import memory_needed, work_bytes
from motley.predict.routes import Routes
from motley.predict.workload import STEP_TOKENS, Workload
from motley.shape.dims import Dims
from motley.shape.model import ModelShape
from motley.shape.role import Role

CONTEXT = 64


@dataclass(frozen=True)
class Case:
    name: str
    shape: ModelShape
    lab: Lab
    objective: Objective
    routes: Routes | None
    head: str | None
    homes: tuple[str, ...] | None


def case(seed: int, larger: bool = False) -> Case:
    """`larger`: up to 8 layers and 8 experts."""
    rng = np.random.default_rng([seed, 7])
    n_devices = int(rng.integers(2, 5))
    traced = rng.random() < 0.35
    most = {2: 7, 3: 5, 4: 5}[n_devices] if traced else {2: 9, 3: 7, 4: 6}[n_devices]
    n_experts = int(rng.integers(4, most + 2) if larger else rng.integers(2, most))
    shape = _shape(rng, n_experts, int(rng.integers(3, 9) if larger else rng.integers(1, 5)))
    routes = _routes(rng, shape) if traced else None
    lab = _lab(rng, shape, n_devices)
    named = ["tg64", "tg64", "tg64x4", "pp256", "tg16@d300"][rng.integers(5)]
    asked = [None, None, None, "ttft", "throughput"][rng.integers(5)]
    names = [d.name for d in lab.devices]
    head = str(rng.choice(names)) if rng.random() < 0.15 else None
    homes = tuple(sorted(rng.choice(names, 2, replace=False).tolist())) if rng.random() < 0.15 else None
    what = f"{n_devices} devices, {shape.n_layers} layers, {n_experts} experts, {asked or named}{', traced' * traced}"
    return Case(what, shape, lab, Objective.of(Workload.parse(named), asked), routes, head, homes)


def _shape(rng: np.random.Generator, n_experts: int, n_layers: int) -> ModelShape:
    """Wide experts or a wide rest; sometimes with layers that have no experts, sometimes with none at all."""
    used = int(rng.integers(1, n_experts + 1))
    d_expert = int(rng.choice([128, 512, 2048]))
    dims = Dims("small", "qwen3moe", n_layers, 256, 8, 2, 32, n_experts, used, d_expert, 512, 512, 1024, 1e-6, 1e4)
    shape = ModelShape.from_dims(dims, str(rng.choice(["q8_0", "q4_k"])))
    chance = rng.choice([0.0, 0.0, 0.3, 1.0], p=[0.4, 0.2, 0.33, 0.07])
    plain = [i for i in range(n_layers) if rng.random() < chance]
    return without_experts(shape, plain)


def without_experts(shape: ModelShape, layers: list[int]) -> ModelShape:
    """The same with a dense FFN, as wide as two experts, instead of the experts of these layers."""
    tensors = []
    for t in shape.tensors:
        if t.layer in layers and t.role is Role.EXPERT:
            t = replace(t, dims=(2 * t.dims[1], t.dims[2]), role=Role.DENSE_FFN, name=t.name.replace("_exps", ""))
        if not (t.layer in layers and t.role is Role.ROUTER):
            tensors.append(t)
    return replace(shape, tensors=tuple(tensors))


def _routes(rng: np.random.Generator, shape: ModelShape) -> Routes:
    n, used = shape.n_experts, shape.n_experts_used
    odds = rng.dirichlet(np.full(n, 0.7), shape.n_layers) + 0.02
    chosen = [[rng.choice(n, used, replace=False, p=o / o.sum()) for o in odds] for _ in range(60)]
    return Routes(np.array(chosen, np.int32), n)


def _lab(rng: np.random.Generator, shape: ModelShape, n_devices: int) -> Lab:
    """Memory from too little for most to enough for all; links from a call's to a slow network's, all different."""
    names = [f"d{i}" for i in range(n_devices)]
    whole = Placement(tuple(LayerPlacement("d0", ("d0",) * shape.experts_in(i)) for i in range(shape.n_layers)))
    buffers = work_bytes(shape, STEP_TOKENS, home=True)
    weights = memory_needed(shape, whole, CONTEXT, 8)["d0"].total - buffers
    low, high = [(0.3, 0.8), (0.4, 1.4), (0.9, 2.0)][rng.integers(3)]
    devices = []
    for name in names:
        memory = buffers + weights * rng.uniform(low, high) * (rng.random() > 0.05)
        devices.append(_device(name, int(memory), 10 ** rng.uniform(-1, 1), bool(rng.random() < 0.3)))
    slow = rng.choice([0.0, 1.0, 2.0, 3.0])
    links = [
        Link(a, b, "tcp", float(10 ** rng.uniform(slow - 1, slow + 0.5)), float(10 ** rng.uniform(-1, 1)))
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
    return Lab(tuple(devices), tuple(links))


def _device(name: str, memory: int, speed: float, measured: bool) -> Device:
    kernels = tuple(Kernel(q, 600 * speed, ((2**20, 18 * speed),)) for q in ("q4_k", "q6_k", "q8_0"))
    return Device(
        name=name,
        node=name,
        kind="cpu",
        memory_bytes=memory,
        threads=2,
        read_gb_s=20 * speed,
        int8_gops=1000 * speed,
        f32_gflops=100 * speed,
        op_overhead_us=4,
        call_us=0.2,
        kernels=kernels if measured else (),
    )
