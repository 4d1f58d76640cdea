"""Experts on several devices: one rule chooses, in a step as in the cost model; memory is counted; it has to pay."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labs import device, lab, tiny_shape

from motley.cluster.assignment import Assignment
from motley.engine.assign import assignments
from motley.engine.experts import Shared
from motley.errors import UsageError
from motley.lab.choice import Choice
from motley.lab.placement import LayerPlacement, Pace, Placement
from motley.plan.search import find_placement
from motley.predict.cost import CostModel
from motley.predict.memory import memory_needed
from motley.predict.predict import predict
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

TG = Workload.parse("tg64")
EVERYWHERE = LayerPlacement(
    "a", ("a", "b", "a", "b"), ((0, "b"), (1, "a"), (2, "b"), (3, "a")), (Pace("a", 0, 10), Pace("b", 5, 10))
)


@given(st.integers(0, 10_000))
def test_a_step_chooses_as_the_cost_model_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_holders, n_experts = int(rng.integers(1, 5)), int(rng.integers(1, 12))
    held = rng.random((n_holders, n_experts)) < 0.5
    held[rng.integers(n_holders, size=n_experts), np.arange(n_experts)] = True
    paces = [tuple(rng.integers(0, 9, 3).tolist()) for _ in range(n_holders)]
    choice = Choice.paced(held, paces)
    times = rng.integers(0, 3, (5, n_experts))
    owner = choice.of_cases(times)
    for case, n in zip(owner, times):
        chosen = choice.of_step((e, int(k)) for e, k in enumerate(n) if k)
        assert {e: int(case[e]) for e in chosen} == chosen
        assert all(held[h, e] for e, h in chosen.items())


def test_work_goes_to_who_is_done_first() -> None:
    choice = Choice.of(EVERYWHERE)
    assert choice.of_step([(0, 1), (1, 1), (2, 1)]) == {0: 0, 1: 1, 2: 0}  # done at 10, 15, 20
    slow = Choice.paced(choice.held, [(0, 10, 0), (100, 10, 0)])
    assert set(slow.of_step([(e, 1) for e in range(4)]).values()) == {0}


def test_the_price_is_the_mean_over_all_choices() -> None:
    """Top-2 of 4, both devices hold all, links cost nothing: always one expert each."""
    quiet = [device(name, op_overhead_us=0, call_us=0) for name in "ab"]
    shape, two = tiny_shape(1), lab(*quiet, rtt_us=0, gb_s=1e6)
    found = predict(shape, two, Placement((EVERYWHERE,)), TG)
    experts = sum(t.ms for t in found.terms if t.name == "experts")
    assert experts == pytest.approx(shape.expert_bytes(0) / 18e6, rel=1e-4)


@pytest.mark.parametrize("workload", ["tg64", "tg64x3", "pp64"])
def test_a_partly_copied_layer_costs_between_none_and_all(workload: str) -> None:
    quiet = [device(name, op_overhead_us=0, call_us=0) for name in "ab"]
    shape, two = tiny_shape(1), lab(*quiet, rtt_us=0, gb_s=1e6)
    few = LayerPlacement("a", EVERYWHERE.experts, EVERYWHERE.copies[:2], EVERYWHERE.paces)
    none = LayerPlacement("a", EVERYWHERE.experts)
    ms = [predict(shape, two, Placement((la,)), Workload.parse(workload)).ms_per_step for la in (EVERYWHERE, few, none)]
    assert ms[0] <= ms[1] * 1.03  # cases are drawn where there are copies, and counted where there are none
    assert ms[1] <= ms[2] * 1.03


def test_copies_take_memory() -> None:
    shape = tiny_shape(1)
    bare = memory_needed(shape, Placement((LayerPlacement("a", EVERYWHERE.experts),)), 64)
    full = memory_needed(shape, Placement((EVERYWHERE,)), 64)
    for name in "ab":
        assert full[name].weights - bare[name].weights == 2 * shape.expert_bytes(0)


@pytest.mark.parametrize(
    ("copies", "paces"),
    [
        (((0, "a"),), EVERYWHERE.paces),  # it is there
        (((4, "b"),), EVERYWHERE.paces),  # no such expert
        (((0, "b"),), ()),
        (((0, "b"),), EVERYWHERE.paces[::-1]),  # the home is not the first
        (((0, "b"),), EVERYWHERE.paces[:1]),
    ],
)
def test_impossible_copies_are_refused(copies: tuple[tuple[int, str], ...], paces: tuple[Pace, ...]) -> None:
    layer = LayerPlacement("a", EVERYWHERE.experts, copies, paces)
    with pytest.raises(UsageError, match="cop"):
        predict(tiny_shape(1), lab(device("a"), device("b")), Placement((layer,)), TG)


def test_the_planner_uses_what_memory_is_left_where_it_pays() -> None:
    shape = ModelShape.named("olmoe-1b-7b")
    quick = lab(*(device(n, 5e9, op_overhead_us=0.1, call_us=0.1) for n in "ab"), rtt_us=5, gb_s=10)
    plain, copied = (find_placement(shape, quick, copies=copies) for copies in (False, True))
    assert any(layer.copies for layer in copied.placement.layers)
    assert copied.prediction.p50 > 1.01 * plain.prediction.p50
    assert predict(shape, quick, copied.placement, TG).p50 == pytest.approx(copied.prediction.p50)
    for name, need in memory_needed(shape, copied.placement, 4096).items():
        assert need.total <= quick.device(name).memory_bytes
    assert any("copies of each expert" in reason for reason in copied.reason)
    slow = lab(*(device(n, 5e9) for n in "ab"), rtt_us=5000)
    assert not any(layer.copies for layer in find_placement(shape, slow, copies=True).placement.layers)


def test_copies_reach_the_devices() -> None:
    told = assignments(
        Placement((EVERYWHERE, LayerPlacement("a", ("a", "a", "b", "b")))),
        model="m.gguf",
        file_hash="0",
        context=64,
        slots=1,
        addresses={"a": ("127.0.0.1", 1), "b": ("127.0.0.1", 2)},
    )
    assert told["a"].experts[0] == told["b"].experts[0] == (0, 1, 2, 3)
    assert told["a"].elsewhere[0]["b"] == (0, 1, 2, 3)
    assert told["a"].paces == {0: (("a", 0, 10, 0), ("b", 5, 10, 0))}
    assert Assignment.from_json(told["a"].to_json()) == told["a"]
    with pytest.raises(UsageError, match="paces of layer 0"):
        Assignment(
            **{f: getattr(told["a"], f) for f in told["a"].__struct_fields__} | {"paces": {0: (("b", 0, 1, 0),)}}
        )


def test_every_case_of_two_is_dealt_evenly() -> None:
    """The cost model's drawn cases against all of them."""
    shape, two = tiny_shape(1, 4, 2), lab(device("a"), device("b"))
    model = CostModel(shape, two, TG)
    choice = Choice.of(EVERYWHERE)
    spread = model._shared_spread(0, choice)
    loads = {tuple(sorted(choice.of_step([(a, 1), (b, 1)]).values())) for a, b in combinations(range(4), 2)}
    assert loads == {(0, 1)}
    assert (spread.distinct == 1).all()


def test_one_tokens_holders_by_rank_are_those_of_the_rule() -> None:
    """Where everybody has all experts, a step of one token takes a short way."""
    rng = np.random.default_rng(5)
    for _ in range(200):
        holders, n_experts, used = int(rng.integers(1, 5)), int(rng.integers(4, 70)), int(rng.integers(1, 5))
        paces = [tuple(rng.choice([0.0, 30.0, 70.5, 500.0], 3)) for _ in range(holders)]
        choice = Choice.paced(np.ones((holders, n_experts), np.bool_), paces)
        ids = rng.permutation(n_experts)[:used].astype(np.int32)[None]
        rule = choice.of_step((e, 1) for e in sorted(ids[0].tolist()))
        found = Shared(choice, {}).holders(ids)
        assert found.tolist() == [[rule[e] for e in ids[0].tolist()]]
