"""Steps run from memory against the same steps through Python, to the bit."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from random_weights import random_tensor

from in_process import three_devices
from motley.engine import stage
from motley.engine.local import LocalRunner
from motley.engine.placed import PlacedRunner
from motley.engine.runner import Runner
from motley.errors import LinkError
from motley.formats.checkpoint import open_checkpoint
from motley.lab.placement import LayerPlacement, Placement, RowsPart
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch, Program, Recording, Routing
from motley.shape.quant import Quant
from tiny_models import FAMILIES, write_tiny

PROMPTS = {0: [5, 6, 7, 8, 9], 1: [300], 2: [17, 4]}
# the slots that decode in each step: numbers of tokens come again with other slots, in another order
STEPS = [[0], [1], [0, 1], [2, 0], [0, 1, 2], [2], [1, 2, 0], [1, 0]]


def decode(runner: Runner) -> list[np.ndarray]:
    length = dict.fromkeys(PROMPTS, 0)
    for slot, prompt in PROMPTS.items():
        runner.step(Batch(prompt, range(len(prompt)), [slot] * len(prompt), []))
        length[slot] = len(prompt)
    logits = []
    for i, slots in enumerate(STEPS):
        tokens = [(31 * i + 7 * slot) % 320 for slot in slots]
        logits.append(runner.step(Batch(tokens, [length[s] for s in slots], slots, range(len(slots)))))
        for slot in slots:
            length[slot] += 1
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_remembered_steps_give_the_same_logits_and_counts(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, family, "q4_k"))

    def run(sizes: list[tuple[int, bool]]) -> tuple[list[np.ndarray], np.ndarray, dict[str, float]]:
        runner = LocalRunner(checkpoint, NativeOps(threads=2), n_slots=3, context=32)
        logits = decode(runner)
        assert runner.model.stage is not None
        steps = runner.model.stage._remembered
        assert list(steps) == sizes
        assert all(step.works for step in steps.values())
        routes, times = runner.routes(), runner.times().parts()
        runner.close()
        return logits, routes, times

    remembered, routes, times = run([(1, False), (3, False), (2, False)])  # the latest last
    monkeypatch.setattr(stage, "MOST_TOKENS", 0)
    through_python, expected_routes, _ = run([])
    for got, want in zip(remembered, through_python, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(routes, expected_routes)
    assert all(times[part] > 0 for part in ("attention", "router", "experts", "head", "python"))
    assert all(seconds >= 0 for seconds in times.values())


def test_a_remembered_step_that_fails_does_no_harm(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "olmoe", "q8_0"))
    runner = LocalRunner(checkpoint, NativeOps(threads=1), n_slots=1, context=4)
    steps = [runner.step(Batch([9], [i], [0], [0])) for i in range(4)]
    with pytest.raises(ValueError, match="context of 4"):
        runner.step(Batch([9], [4], [0], [0]))
    with pytest.raises(ValueError, match="token 999 is outside"):
        runner.step(Batch([999], [0], [0], [0]))
    for i, want in enumerate(steps):
        np.testing.assert_array_equal(runner.step(Batch([9], [i], [0], [0])), want)
    runner.close()


def test_logits_of_one_step_are_not_overwritten_by_the_next(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "olmoe", "q8_0"))
    runner = LocalRunner(checkpoint, NativeOps(threads=1), n_slots=1, context=8)
    first = [runner.step(Batch([9], [i], [0], [0])) for i in range(3)]
    kept = [logits.copy() for logits in first]
    runner.step(Batch([10], [3], [0], [0]))
    for logits, copy in zip(first, kept):
        np.testing.assert_array_equal(logits, copy)
    runner.close()


def run(program: Program | None) -> list[tuple[float, float]]:
    assert program
    program.begin()
    while host := program.next():
        host.work()
    return list(program.marks())


def test_a_program_keeps_what_it_uses_and_outlives_its_device() -> None:
    ops = NativeOps(threads=2)
    x = np.ones((1, 256), np.float32)
    norm = ops.weight(random_tensor(Quant.F32, (256,)))

    def work(recording: Recording) -> np.ndarray:
        weight, router = (
            ops.weight(random_tensor(Quant.Q8_0, (64, 256))),
            ops.weight(random_tensor(Quant.F32, (4, 256))),
        )
        gate, down = random_tensor(Quant.Q4_0, (4, 64, 256), 1), random_tensor(Quant.Q4_0, (4, 256, 64), 2)
        cache, batch = ops.kv_cache(1, 8, 1, 64), Batch([0], [0], [0], [0])
        h = ops.rms_norm(x, norm, 1e-5)
        (q,) = ops.linear(h, weight)
        recording.mark()
        ops.attention(q, q, q, cache, batch, 1.0)
        ids, weights = ops.router(h, router, Routing(2, False))
        (part,) = [ops.experts(h, ids, weights, ops.experts_weight(gate, gate, down, range(4)))]
        return ops.combine(h, [part])

    program = ops.record(work)
    want = program.out.copy()
    gc.collect()
    for _ in range(2):  # the second time on the caller alone: the device was closed
        program.out[:] = 0
        run(program)
        marks = program.marks()
        np.testing.assert_array_equal(program.out, want)
        assert len(marks) == 1
        assert 0 < marks[0][0] < 10
        ops.close()


def test_two_recordings_do_not_mix() -> None:
    ops = NativeOps(threads=1)
    with pytest.raises(ValueError, match="records already"):
        ops.record(lambda recording: ops.record(lambda recording: np.zeros(1, np.float32)).out)
    assert run(ops.record(lambda recording: np.ones(1, np.float32))) == []


def test_the_hosts_part_comes_again_in_its_place() -> None:
    ops = NativeOps(threads=1)
    x, part = np.ones((1, 64), np.float32), np.zeros((1, 64), np.float64)
    seen: list[float] = []

    def from_elsewhere() -> None:
        seen.append(float(x[0, 0]))
        ops.add(np.ones(1, np.float32), np.ones(1, np.float32))  # the host's own: not remembered
        part[:] = 10

    def work(recording: Recording) -> np.ndarray:
        ops.add(x, np.ones((1, 64), np.float32))
        recording.call(from_elsewhere)
        return ops.combine(x, [part])

    program = ops.record(work)
    x[:], part[:] = 5, 0
    run(program)
    assert seen == [2, 6]
    assert (program.out == 16).all()


def test_what_the_host_raises_ends_the_run_and_no_more() -> None:
    ops = NativeOps(threads=1)
    x, broken = np.zeros((1, 8), np.float32), [False]

    def fragile() -> None:
        if broken[0]:
            raise LinkError("the cable")

    def work(recording: Recording) -> np.ndarray:
        recording.call(fragile)
        return ops.add(x, np.ones((1, 8), np.float32))

    program = ops.record(work)
    broken[0] = True
    with pytest.raises(LinkError, match="the cable"):
        run(program)
    with pytest.raises(LinkError, match="the cable"):
        ops.record(work)
    assert run(ops.record(lambda recording: x)) == []  # recording has ended
    broken[0] = False
    run(program)
    assert (x == 2).all()


@pytest.mark.parametrize("n", [2, 3, 8])
def test_halves_that_take_turns_give_the_same_bits(tmp_path: Path, n: int) -> None:
    """Experts and the head's rows on three devices: whole steps, then halves, as `Faster` tries them."""
    path = write_tiny(tmp_path, "qwen3moe", "q4_0")
    layers = tuple(LayerPlacement("a", tuple("abc"[e % 3] for e in range(6))) for _ in range(2))
    placement = Placement(layers, (RowsPart("a", 0, 100), RowsPart("b", 100, 250), RowsPart("c", 250, 320)))
    whole = LocalRunner(open_checkpoint(path), NativeOps(threads=1), n_slots=n, context=40)
    with three_devices(lambda name: NativeOps(threads=1)) as site:
        placed = PlacedRunner(str(path), placement, site, n_slots=n, context=40)
        for i in range(3 * stage.Faster.TRIALS):
            batch = Batch([(31 * i + 7 * s) % 320 for s in range(n)], [i] * n, range(n), range(n))
            np.testing.assert_array_equal(placed.step(batch), whole.step(batch))
        done = site.runtime._model().stage
        assert done is not None
        assert {halves for _, halves in done._remembered} == {False, True}
        assert (placed.routes() == whole.routes()).all()
        times = placed.times().parts()
        assert all(seconds >= 0 for part, seconds in times.items() if part != "python")
        placed.close()
    whole.close()


def test_a_model_that_is_dropped_is_gone_at_once(tmp_path: Path) -> None:
    """Its weights and links don't wait for the collector of cycles."""
    path = write_tiny(tmp_path, "olmoe", "q8_0")
    layers = tuple(LayerPlacement("a", tuple("ab"[e % 2] for e in range(6))) for _ in range(2))
    with three_devices(lambda name: NativeOps(threads=1)) as site:
        placed = PlacedRunner(str(path), Placement(layers, (RowsPart("a", 0, 160), RowsPart("b", 160, 320))), site)
        for i in range(3 * stage.Faster.TRIALS):
            placed.step(Batch([5, 6], [2 * i, 2 * i + 1], [0, 0], [0, 1]))
        held = weakref.ref(site.runtime._model().stage)  # type: ignore[type-var]
        gc.collect()
        gc.disable()
        try:
            placed.close()
            assert held() is None
        finally:
            gc.enable()


def test_the_faster_way_is_kept_for_a_while() -> None:
    faster = stage.Faster()
    taken = []
    for _ in range(stage.Faster.KEPT):
        second = faster.second()
        taken.append(second)
        faster.note(second, 1.0 if second else 2.0)
    trials = stage.Faster.TRIALS
    assert taken == [False] * trials + [True] * (stage.Faster.KEPT - trials)
    assert not faster.second()  # compared again
