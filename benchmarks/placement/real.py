"""Real shapes, where brute force has no chance: the planner beside the optimum of a mixed-integer program.

    PYTHONPATH=src python benchmarks/placement/real.py [--cases 6]

Layers of one kind are interchangeable, so the program asks only how many of them have each pattern: three devices,
some twenty thousand patterns (home, experts on each). Needs scipy and some minutes.
"""

import argparse
from itertools import product
from math import inf
from time import perf_counter

import numpy as np
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_matrix

from motley.lab.lab import Device, Lab, Link
from motley.plan.search import find_placement
from motley.plan.state import Pricer
from motley.predict.cost import CostModel
from motley.predict.workload import STEP_TOKENS, Workload
from motley.shape.model import ModelShape


def lab(rng: np.random.Generator, n_bytes: int) -> Lab:
    devices = []
    for name in "abc":
        speed, memory = 10 ** rng.uniform(-0.5, 0.7), n_bytes * rng.uniform(0.25, 0.9)
        figures = {"read_gb_s": 100 * speed, "int8_gops": 10_000 * speed, "f32_gflops": 2000 * speed}
        devices.append(Device(name, name, "cuda", int(memory), 1, op_overhead_us=4.0, call_us=1.0, **figures))
    rtt = 10 ** rng.uniform(0.5, 2.5, 3)
    ends = [("a", "b"), ("a", "c"), ("b", "c")]
    return Lab(tuple(devices), tuple(Link(x, y, "tcp", float(us), 2.0) for (x, y), us in zip(ends, rtt)))


def optimum(pricer: Pricer) -> float:
    """Milliseconds of the best state."""
    n, unit = len(pricer.devices), float(pricer.shape.n_bytes)
    sets, kinds = pricer.plain_sets(), sorted(set(pricer.kind))
    cost, home, owner, use = [], [], [], []
    for kind in kinds:
        e = pricer.n_experts[kind]
        counts = [c for c in product(range(e + 1), repeat=n - 1) if sum(c) <= e]
        for h, c in product(range(n), counts):
            pattern = pricer.pattern(h, enumerate((*c, e - sum(c))))
            cost.append(pricer.layer_ms(kind, pattern, sets))
            row = np.zeros(n)
            row[h] = pricer.home_bytes[kind] + pricer.kv[kind]
            for d, k in pattern.held:
                row[d] += k * pricer.expert_bytes[kind]
            home.append(h)
            owner.append(kind)
            use.append(row / unit)
    found = [
        _program(pricer, ends, np.array(cost), np.array(home), np.array(owner), np.array(use), sets)
        for ends in product(range(n), repeat=2)
    ]
    return min(found)


def _program(pricer, ends, cost, home, owner, use, sets) -> float:  # type: ignore[no-untyped-def]
    """With these first and last homes."""
    (first, last), n, columns = ends, len(pricer.devices), len(cost)
    layers = np.bincount(pricer.kind, minlength=max(pricer.kind) + 1)
    unit = float(pricer.shape.n_bytes)
    homes = [first] if first == last else range(n)
    hops = [pricer.hop(first, h, h == last) if h in homes else 0.0 for h in range(n)]
    limits = []
    for kind in sorted(set(pricer.kind)):
        row = np.concatenate([owner == kind, np.zeros(n)])
        limits.append((row, layers[kind], layers[kind]))
    for d in range(n):
        row = np.concatenate([use[:, d], np.zeros(n)])
        row[columns + d] = (pricer.work[0] - pricer.work[1]) / unit
        fixed = (d == first) * pricer.embed_bytes + (d == last) * pricer.head_bytes
        limits.append((row, -inf, (pricer.memory[d] - pricer.work[1] - fixed) / unit))
        limits.append((np.concatenate([home == d, np.where(np.arange(n) == d, -len(pricer.kind), 0)]), -inf, 0))
    matrix = coo_matrix(np.array([row for row, _, _ in limits]))
    constraint = LinearConstraint(matrix.tocsr(), [low for _, low, _ in limits], [high for _, _, high in limits])
    low, high = np.zeros(columns + n), np.concatenate([layers[owner], [float(h in homes) for h in range(n)]])
    low[[columns + first, columns + last]] = 1
    answer = milp(
        np.concatenate([cost, hops]),
        constraints=constraint,
        integrality=np.ones(columns + n),
        bounds=(low, high),
        options={"mip_rel_gap": 1e-3, "time_limit": 60},
    )
    if answer.x is None:
        return inf
    return float(answer.fun) + pricer.ends_ms(first, last, sets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=6)
    args = parser.parse_args()
    print("| shape | workload | planner ms | optimum ms | gap | planner s |\n|---|---|---|---|---|---|")
    for seed in range(args.cases):
        rng = np.random.default_rng(seed)
        shape = ModelShape.named(["olmoe-1b-7b", "deepseek-v2-lite", "qwen3-30b-a3b"][seed % 3])
        where, workload = lab(rng, shape.n_bytes), Workload.parse(["tg64", "tg64", "tg64x64"][seed // 3 % 3])
        started = perf_counter()
        plan = find_placement(shape, where, workload, context=512)
        took = perf_counter() - started
        pricer = Pricer([(CostModel(shape, where, workload), 1.0)], 512, workload.batch, STEP_TOKENS)
        best, found = optimum(pricer), plan.prediction.ms_per_step
        cells = [shape.name, workload.name, f"{found:.3f}", f"{best:.3f}", f"{found / best - 1:.2%}", f"{took:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
