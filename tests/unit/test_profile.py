"""Profiles: what engines reach on classes of hardware; groups of devices."""

from dataclasses import replace

import pytest
from labs import device as plain_device

from motley.errors import UsageError
from motley.lab.group import grouped
from motley.lab.hardware import hardware
from motley.lab.profile import device, engines, known, own_engine, profile, spread


def test_a_catalogue_device_reaches_less_than_its_vendor_says() -> None:
    card = hardware("rtx-4090")
    found = device(card, "llama.cpp")
    assert 0.4 * card.bandwidth_gb_s < found.read_gb_s < card.bandwidth_gb_s
    assert found.memory_bytes == card.usable_bytes
    assert found.source == "catalogue: rtx-4090, llama.cpp"


def test_a_device_without_an_engine_runs_motleys_own() -> None:
    assert device(hardware("m3-ultra")).source.endswith("motley-mlx")
    assert own_engine(hardware("epyc-9354")) == "motley-native"


def test_an_unknown_engine_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean.*llama\.cpp"):
        profile(hardware("rtx-4090"), "lama.cpp")


@pytest.mark.parametrize("engine", engines())
def test_every_engine_has_positive_figures_on_every_kind(engine: str) -> None:
    for name in ("rtx-5090", "m4-max-128", "strix-halo", "epyc-9354", "h200", "r9700"):
        assert all(value > 0 for value in vars(profile(hardware(name), engine)).values())


def test_memory_sizes_are_one_device() -> None:
    assert known(hardware("m3-ultra-256")) == known(hardware("m3-ultra-512")) is True


@pytest.mark.parametrize("domain", ["decode moe", "decode dense", "prefill", "batch", "serving", "several"])
def test_what_is_not_known_never_narrows_an_interval(domain: str) -> None:
    seen, unseen = hardware("rtx-4090"), hardware("rtx-5080")
    assert known(seen)
    assert not known(unseen)
    for name in ("rtx-4090", "gb10", "m3-ultra", "strix-halo", "epyc-9334", "h200", "rx-7900-xt"):
        of = hardware(name)
        assert spread(domain, of, doubted=True) >= spread(domain, of)
    assert spread(domain, unseen) >= spread(domain, seen)
    assert spread(domain, unseen, doubted=True) >= spread(domain, unseen)


def test_a_group_reads_at_the_pace_of_its_slowest_member() -> None:
    fast, slow = plain_device("a", speed=2.0), plain_device("b", memory=32e9)
    both = grouped("both", [fast, slow], 10.0, 50.0)
    assert both.read_gb_s == 2 * slow.read_gb_s
    assert both.memory_bytes == 2 * slow.memory_bytes
    assert both.reduce_us == 10.0
    assert grouped("alone", [fast], 10.0, 50.0) == replace(fast, name="alone", node="alone")
    with pytest.raises(UsageError, match="no members"):
        grouped("none", [], 1.0, 1.0)
