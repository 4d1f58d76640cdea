"""How many experts a decoding step of a batch really reads, and the bandwidth that this makes.

Counted in steps of their own after the timed samples, as counting costs time: the same tokens, the runner's counters
read after each step.
"""

from itertools import islice

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from motley.bench.measure import Text, batches
from motley.bench.result import Activated, TestResult
from motley.engine.runner import Runner
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

STEPS = 16


def with_activation(
    result: TestResult, runner: Runner, workload: Workload, text: Text, shape: ModelShape
) -> TestResult:
    """`result` with its experts activated and its sparse bandwidth utilisation; as it is, for prompts."""
    if workload.kind != "decode":
        return result
    counted, steps = count(runner, workload, text)
    routed = [i for i in range(shape.n_layers) if shape.experts_in(i)]
    step_s = result.ms_per_step / 1e3
    return structs.replace(
        result,
        experts_activated=Activated(
            measured=float(counted[routed].mean()), uniform=shape.distinct_experts(workload.batch), steps=steps
        )
        if routed
        else None,
        sparse_bandwidth_utilisation=step_bytes(shape, workload, counted) / step_s / (result.read_gb_s * 1e9),
    )


def count(runner: Runner, workload: Workload, text: Text) -> tuple[NDArray[np.float64], int]:
    """Distinct experts a step: [L], the mean over up to STEPS steps; and how many steps those were."""
    before = np.array(runner.routes())
    total, steps = np.zeros(len(before)), 0
    for batch in islice(batches(workload, text), STEPS):
        runner.step(batch)
        after = np.array(runner.routes())
        total += (after > before).sum(axis=1)
        before, steps = after, steps + 1
    return total / steps, steps


def step_bytes(shape: ModelShape, workload: Workload, activated: NDArray[np.float64]) -> float:
    """Bytes that a step of the batch reads: shared weights once, the experts `activated` in each layer, and the caches
    of all sequences."""
    experts = sum(n * shape.expert_bytes(i) for i, n in enumerate(activated))
    cache = sum(shape.kv_read_bytes(i, workload.mean_depth) for i in range(shape.n_layers))
    return float(shape.step_bytes(workload.batch, distinct=0.0) + experts + workload.batch * cache)
