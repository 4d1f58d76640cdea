"""Experts activated: the counters against a count by hand, and the bytes that they make."""

from dataclasses import replace

import numpy as np
import pytest
from bench_fakes import EXPERTS, LAYERS, VOCAB, FakeRunner
from test_bench_run import SETTINGS, SHAPE, subject

from motley.bench.activation import STEPS, count, step_bytes
from motley.bench.measure import Text, batches
from motley.bench.run import asked_workloads, run_bench
from motley.ops.protocol import Batch
from motley.predict.workload import Workload

TEXT = Text.random(VOCAB)


class Chooser(FakeRunner):
    """Each token chooses the experts that its number names: two of them, other ones in the second layer."""

    def step(self, batch: Batch):  # type: ignore[no-untyped-def]
        out = super().step(batch)
        self._routes -= self._routes  # what the fake counted
        for token in batch.tokens:
            for choice in self.choices(int(token)):
                self.total[choice] += 1
        self._routes = self.total.copy()
        return out

    def __init__(self) -> None:
        super().__init__()
        self.total = np.zeros((LAYERS, EXPERTS), np.int64)

    def choices(self, token: int) -> list[tuple[int, int]]:
        return [(layer, (token + layer * token + i) % EXPERTS) for layer in range(LAYERS) for i in (0, 1)]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_distinct_experts_are_counted_step_by_step(batch: int) -> None:
    workload = Workload("decode", 6, depth=3, batch=batch)
    runner = Chooser()
    found, steps = count(runner, workload, TEXT)
    by_hand = np.zeros(LAYERS)
    for step in batches(workload, TEXT):
        chosen = {choice for token in step.tokens for choice in runner.choices(int(token))}
        by_hand += [len({e for layer, e in chosen if layer == i}) for i in range(LAYERS)]
    assert steps == 6
    assert found.tolist() == (by_hand / 6).tolist()


def test_a_long_test_is_counted_in_its_first_steps() -> None:
    runner = Chooser()
    assert count(runner, Workload("decode", 100), TEXT)[1] == STEPS == len(runner.batches)


def test_one_tokens_step_reads_the_active_bytes() -> None:
    workload = Workload("decode", 8, depth=16)
    used = np.full(LAYERS, float(SHAPE.n_experts_used))
    cache = sum(SHAPE.kv_read_bytes(i, workload.mean_depth) for i in range(LAYERS))
    assert step_bytes(SHAPE, workload, used) == pytest.approx(SHAPE.active_bytes_per_token() + cache)


def test_a_batch_shares_all_but_its_experts_and_caches() -> None:
    one, four = (Workload("decode", 8, depth=16, batch=b) for b in (1, 4))
    experts = np.array([2.0, 3.5])
    more = step_bytes(SHAPE, four, experts) - step_bytes(SHAPE, one, experts)
    cache = sum(SHAPE.kv_read_bytes(i, one.mean_depth) for i in range(LAYERS))
    assert more == pytest.approx(3 * (cache + SHAPE.embed_bytes / SHAPE.vocab_size))


def test_results_hold_both_counts_and_the_bandwidth_that_was_used() -> None:
    asked = replace(SETTINGS, workloads=asked_workloads([16], [8], [4], [1, 2]))
    prompt, *_, batch = run_bench(subject(), asked).results
    assert (prompt.experts_activated, prompt.sparse_bandwidth_utilisation) == (None, None)
    assert batch.experts_activated
    assert batch.experts_activated.measured == 1.0  # the fake counts a step's first token alone
    assert batch.experts_activated.uniform == SHAPE.distinct_experts(2)
    wanted = step_bytes(SHAPE, asked.workloads[-1], np.ones(LAYERS))
    assert batch.sparse_bandwidth_utilisation == pytest.approx(wanted / (batch.ms_per_step / 1e3) / 12e9)
