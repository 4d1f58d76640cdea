"""The gate: a sound result passes; each fault, and nothing but it, is found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench_sample import sample_load, sample_result, sample_served
from motley.bench import clock, gate
from motley.bench.records import Spread
from motley.bench.result import Clock, PeerResult, Result, load_result

change = msgspec.structs.replace


def sound() -> Result:
    return sample_result(peer=False)


def with_test(result: Result, i: int, **changes: Any) -> Result:
    tests = list(result.results)
    tests[i] = change(tests[i], **changes)
    return change(result, results=tuple(tests))


def with_load(**changes: Any) -> Result:
    return change(sound(), loads=(change(sample_load(), **changes),))


def with_ratio(i: int, low: float, high: float) -> PeerResult:
    return change(sample_result().peers[i], ratio=Spread.of([low, low, high, high, high]))


def large() -> Result:
    """The same speeds of a model that no cache holds: 9 GB of weights, of which a token reads 1.15 GB."""
    model = change(sound().model, n_bytes=9_400_000_000, n_params=10_300_000_000)
    return change(sound(), model=model, machine=change(sound().machine, cache_bytes=32 << 20))


def slowly(result: Result, tokens_per_s: float) -> Result:
    for i in range(len(result.results)):
        result = with_test(result, i, tokens_per_s=Spread.of([tokens_per_s] * 5))
    return result


def codes(result: Result) -> list[tuple[str, str]]:
    return [(flag.code, flag.test) for flag in gate.flags(result)]


def test_a_sound_result_may_be_published() -> None:
    result = change(sound(), loads=(sample_load(),))
    result = with_test(result, 2, clock=Clock(before=100, after=96, throttled=0))
    assert codes(result) == []


FAULTS: dict[str, tuple[Callable[[], Result], list[tuple[str, str]]]] = {
    "no check": (lambda: change(sound(), check=None), [("not-checked", "")]),
    "wrong answer": (
        lambda: change(sound(), check=change(sound().check, greedy_tokens_equal=127)),
        [("check-failed", "")],
    ),
    "wrong logits": (
        lambda: change(sound(), check=change(sound().check, max_rel_logit_diff=1e-3)),
        [("check-failed", "")],
    ),
    "four samples": (
        lambda: with_test(sound(), 2, tokens_per_s=Spread.of([900, 910, 900, 905])),
        [("few-samples", "tg64")],
    ),
    "varying": (
        lambda: with_test(sound(), 2, tokens_per_s=Spread.of([900, 600, 900, 1200, 900])),
        [("varying", "tg64")],
    ),
    "sagging": (
        lambda: with_test(sound(), 2, tokens_per_s=Spread.of([900, 890, 860, 830, 800, 790])),
        [("throttled", "tg64")],
    ),
    "a ratio that nobody should quote": (
        lambda: change(sample_result(), peers=(with_ratio(2, 1.0, 1.4), with_ratio(3, 1.0, 9.0))),
        [("varying", "tg64 against llama.cpp")],  # of the best setting alone
    ),
    "slower clock": (
        lambda: with_test(sound(), 3, clock=Clock(before=100, after=94)),
        [("varying-clock", "tg64 @ d512")],
    ),
    "faster clock": (
        lambda: with_test(sound(), 3, clock=Clock(before=94, after=100)),
        [("varying-clock", "tg64 @ d512")],
    ),
    "thermal events": (
        lambda: with_test(sound(), 0, clock=Clock(before=1, after=1, throttled=3)),
        [("throttled", "pp128")],
    ),
    "more than the memory gives": (
        lambda: with_test(slowly(large(), 10), 2, tokens_per_s=Spread.of([60] * 5)),
        [("above-bandwidth", "tg64")],  # 60 x 1.15 GB against 37.5 GB/s
    ),
    "a batch shares what it reads": (
        lambda: with_test(slowly(large(), 10), 4, tokens_per_s=Spread.of([60] * 5)),
        [],
    ),
    "bytes by its own account": (
        lambda: with_test(slowly(large(), 10), 2, active_bytes_per_token=5_000_000_000),
        [("above-bandwidth", "tg64")],
    ),
    "more than the cores compute": (
        lambda: with_test(slowly(large(), 10), 1, tokens_per_s=Spread.of([2000] * 5)),
        [("above-peak", "pp512")],  # 2 x 1.29e9 x 2000 = 5.1 Top/s against 1.93
    ),
    "failed requests": (
        lambda: with_load(errors={"HTTP 500": 2, "closed early": 1}),
        [("failed-requests", "128+64 c4")],
    ),
    "a busy client": (lambda: with_load(client_busy=0.9), [("busy-client", "128+64 c4")]),
    "short answers": (lambda: with_load(output_tokens=128), [("short-answers", "128+128 c4")]),
    "cached prompts": (lambda: with_load(cached_share=0.5), [("cached-prompts", "128+64 c4")]),
    "pieces counted": (lambda: with_load(counted_by="chunks"), [("counted-by-chunks", "128+64 c4")]),
    "two runs": (
        lambda: with_load(output_tokens_per_s=Spread.of([500, 510])),
        [("few-samples", "128+64 c4")],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_nothing_else(fault: str) -> None:
    make, wanted = FAULTS[fault]
    result = make()
    assert codes(result) == wanted


def test_a_load_is_held_against_the_roofline_too() -> None:
    load = change(sample_load(), output_tokens_per_s=Spread.of([4000.0] * 5))
    found = codes(change(slowly(large(), 10), loads=(load,)))
    assert found == [("above-bandwidth", load.label), ("above-peak", load.label)]


def test_without_a_known_cache_a_small_model_gets_the_benefit_of_the_doubt() -> None:
    result = with_test(sound(), 2, tokens_per_s=Spread.of([90_000] * 5))
    assert codes(result) == []
    known = change(result, machine=change(result.machine, cache_bytes=1 << 20))
    assert codes(known) == [("above-bandwidth", "tg64")]


def test_a_servers_loads_are_judged_too() -> None:
    server = sample_served()
    assert gate.flags(server) == ()
    load = change(sample_load(), errors={"HTTP 500": 1}, client_busy=0.95)
    guessed = change(server, loads=(load,), server=change(server.server, prompts_counted_by="words"))
    assert [flag.code for flag in gate.flags(guessed)] == ["prompts-not-counted", "failed-requests", "busy-client"]
    test = change(server.results[0], tokens_per_s=Spread.of([900, 600, 900, 1200, 900]))
    (flag,) = gate.flags(change(server, results=(test,)))
    assert (flag.code, flag.test) == ("varying", "pp128")


def test_flags_of_a_kind_are_said_together() -> None:
    few = Spread.of([900.0] * 4)
    result = with_test(with_test(change(sound(), check=None), 1, tokens_per_s=few), 3, tokens_per_s=few)
    found = gate.by_kind(gate.flags(result))
    assert [(kind.code, [flag.test for flag in kind.flags]) for kind in found] == [
        ("not-checked", [""]),
        ("few-samples", ["pp512", "tg64 @ d512"]),
    ]
    assert found[1].remedy == gate.REMEDIES["few-samples"]


def test_every_flag_has_a_sentence_and_a_remedy() -> None:
    seen = set()
    for make, _ in FAULTS.values():
        for flag in gate.flags(make()):
            seen.add(flag.code)
            assert flag.sentence
            assert flag.remedy
            assert str(flag).startswith(flag.test)
    assert seen | {"prompts-not-counted"} == set(gate.REMEDIES)


RESULTS = sorted((Path(__file__).parents[3] / "benchmarks" / "results").glob("2*/*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_of_before_the_gate_load_and_lie_below_the_roofline(path: Path) -> None:
    result = load_result(path)
    assert result.schema == 1
    assert {flag.code for flag in gate.flags(result)} <= {"not-checked", "varying"}


def test_the_clock_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds, events = iter([100.0, 90.0]), iter([3, 5])
    monkeypatch.setattr(clock, "speed", lambda: next(speeds))
    monkeypatch.setattr(clock, "thermal_events", lambda: next(events))
    with clock.watched() as watch:
        assert watch.clock is None
    assert watch.clock == Clock(before=100, after=90, throttled=2)


def test_thermal_events_are_added_up_over_cores(tmp_path: Path) -> None:
    assert clock.thermal_events(tmp_path) is None
    for core, n in (("cpu0", "3"), ("cpu1", "4"), ("cpu2", "broken")):
        folder = tmp_path / core / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(n)
    assert clock.thermal_events(tmp_path) == 7


def test_a_cores_speed_is_a_rate() -> None:
    assert clock.speed() > 0
