"""How long the planner takes on large labs, and what it finds: Kimi K3 (93 layers, 896 experts), 64 and 1,024 devices.

    PYTHONPATH=src python benchmarks/placement/scale.py [--devices 64 1024] [--profile]

Unlike devices on hierarchical links: islands joined by RDMA inside and by TCP outside, with some cards of a faster
kind. `--unequal` gives every device its own speed. One process; the time is that of the whole `find_placement`.
"""

import argparse
import cProfile
import pstats
from time import perf_counter

import numpy as np

from motley.lab.lab import Device, Lab, Link
from motley.plan.plan import Plan
from motley.plan.search import find_placement
from motley.plan.show import plan_text
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

_ISLAND = 8


def lab(n: int, unequal: bool = False) -> Lab:
    """Islands of eight Macs with 96 to 512 GB; in every fourth one a box with a fast card takes one's place."""
    rng = np.random.default_rng(0)
    devices = []
    for i in range(n):
        island, place = divmod(i, _ISLAND)
        card = island % 4 == 0 and place == 0
        speed = float(rng.uniform(0.5, 1.5)) if unequal else 1.0
        memory = 96e9 if card else (512e9, 256e9, 96e9)[(island + place) % 3] * 0.9
        devices.append(
            Device(
                name=f"{'card' if card else 'mac'}{i}",
                node=f"island{island}-{place}",
                kind="cuda" if card else "metal",
                memory_bytes=int(memory),
                threads=1,
                read_gb_s=speed * (1500 if card else 650),
                int8_gops=speed * (600e3 if card else 50e3),
                f32_gflops=speed * (300e3 if card else 25e3),
                op_overhead_us=0,
                layer_us=30 if card else 60,
                step_us=300,
                exchange_us=20,
                source="made up",
            )
        )
    islands = [f"island{k}-*" for k in range((n + _ISLAND - 1) // _ISLAND)]
    links = [Link(name, name, "rdma", 15, 6) for name in islands] + [Link("*", "*", "tcp", 250, 1.1)]
    return Lab(tuple(devices), tuple(links))


def planned(n: int, unequal: bool, workload: str, seconds: float | None) -> tuple[Plan, float]:
    shape = ModelShape.named("kimi-k3")
    started = perf_counter()
    plan = find_placement(shape, lab(n, unequal), Workload.parse(workload), seconds=seconds)
    return plan, perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--workload", default="tg64")
    parser.add_argument("--seconds", type=float, help="what find_placement may search (default: its own)")
    parser.add_argument("--unequal", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--text", action="store_true", help="print the plan as `motley plan` does")
    args = parser.parse_args()
    for n in args.devices:
        profile = cProfile.Profile()
        if args.profile:
            profile.enable()
        plan, seconds = planned(n, args.unequal, args.workload, args.seconds)
        profile.disable()
        print(f"{n} devices: {seconds:.2f} s, {plan.prediction.p50:.3f} tokens/s")
        for reason in plan.reason:
            print(f"  - {reason}")
        if args.text:
            print(plan_text(plan, ModelShape.named("kimi-k3"), lab(n, args.unequal)))
        if args.profile:
            pstats.Stats(profile).sort_stats("cumtime").print_stats(45)


if __name__ == "__main__":
    main()
