"""A lab in one line, labs by name, and changes to a lab."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labs import device
from labs import lab as make_lab

from motley.errors import UsageError
from motley.lab.changes import Change, changed
from motley.lab.lab import Lab
from motley.lab.labs import find_lab, named_labs
from motley.lab.shorthand import assemble


def joins(lab: Lab) -> dict[tuple[str, str], str]:
    """Every pair's link, by its name in the catalogue."""
    assert not lab.missing_links()
    names = [d.name for d in lab.devices]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return {(a, b): lab.link(a, b).source.removeprefix("catalogue: ") for a, b in pairs}


def test_terms_are_joined_by_the_link_at_the_end() -> None:
    lab = assemble("rtx-pro-6000 + 2x m3-ultra-512 @10gbe").lab
    assert [d.name for d in lab.devices] == ["rtx-pro-6000", "m3-ultra-512-1", "m3-ultra-512-2"]
    assert set(joins(lab).values()) == {"10gbe"}
    assert all(d.source.startswith("catalogue: ") for d in lab.devices)


def test_parentheses_are_an_island_with_a_link_of_its_own() -> None:
    lab = assemble("rtx-pro-6000 + (2x m3-ultra-512 @tb5-rdma) @10gbe").lab
    assert joins(lab) == {
        ("rtx-pro-6000", "m3-ultra-512-1"): "10gbe",
        ("rtx-pro-6000", "m3-ultra-512-2"): "10gbe",
        ("m3-ultra-512-1", "m3-ultra-512-2"): "tb5-rdma",
    }
    islands = joins(assemble("2x (2x gb10 @cx7-200g) @10gbe").lab)
    assert islands["gb10-1", "gb10-2"] == islands["gb10-3", "gb10-4"] == "cx7-200g"
    assert islands["gb10-2", "gb10-3"] == "10gbe"


def test_an_earlier_terms_link_is_its_own() -> None:
    found = joins(assemble("pi5 @wifi + 2x m4-max-64 @10gbe").lab)
    assert found["pi5", "m4-max-64-1"] == "wifi"
    assert found["m4-max-64-1", "m4-max-64-2"] == "10gbe"


def test_devices_of_one_machine() -> None:
    lab = assemble("2x rtx-3090 & epyc-9354-512").lab
    assert {d.node for d in lab.devices} == {"box"}
    assert set(joins(lab).values()) == {"pcie4x16"}
    assert set(joins(assemble("2x rtx-3090 & epyc-9354 via pcie4x8").lab).values()) == {"pcie4x8"}
    nv = joins(assemble("2x h200 & epyc-9575f via nvlink4").lab)
    assert (nv["h200-1", "h200-2"], nv["h200-1", "epyc-9575f"]) == ("nvlink4", "pcie5x16")


def test_a_card_at_a_mac_hangs_on_thunderbolt() -> None:
    lab = assemble("m3-ultra-512 & rtx-pro-6000 + m3-ultra-512 @tb5-rdma").lab
    assert lab.link("m3-ultra-512-1", "rtx-pro-6000").source == "catalogue: tb5-egpu"
    through, direct = lab.link("rtx-pro-6000", "m3-ultra-512-2"), lab.link("m3-ultra-512-1", "m3-ultra-512-2")
    assert through.rtt_us == direct.rtt_us + 40
    assert through.gb_s == 6.5 < direct.gb_s


def test_what_rdma_cannot_join_is_said() -> None:
    found = assemble("rtx-pro-6000 + 2x m3-ultra-512 @tb5-rdma")
    assert joins(found.lab)["rtx-pro-6000", "m3-ultra-512-1"] == "tb4"
    assert found.lab.link("rtx-pro-6000", "m3-ultra-512-1").transport == "tcp"
    assert any("no supported RDMA joins a Linux box and a Mac" in note for note in found.notes)
    old = assemble("2x m1-max @tb5-rdma")
    assert "needs Thunderbolt 5" in old.notes[0]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty"),
        ("rtx-pro-600", "did you mean rtx-pro-6000"),
        ("2x rtx-3090", "nothing joins rtx-3090 and rtx-3090: end the sum with a link"),
        ("rtx-3090 + gb10 @10gb", "did you mean 10gbe"),
        ("rtx-3090 + m3-ultra @pcie5x16", "joins devices of one machine"),
        ("rtx-3090 + m3-ultra @ib-ndr", "ib-ndr cannot join"),
        ("gb10 via 10gbe", "via names a link inside a machine"),
        ("(gb10 + gb10 @10gbe", "not closed"),
        ("gb10 2x pi5", "'2' is not expected here after 'gb10'"),
        ("gb10 gb10", "unknown device 'gb10 gb10': did you mean gb10"),
        ("radeon 7900 xtz", "unknown device 'radeon 7900 xtz': did you mean rx-7900-xt"),
        ("7900xtz", "unknown device '7900xtz': did you mean rx-7900-xt"),
        ("RTX 4090 100GB", "rtx-4090 is sold with 24 or 48 GB"),
        ("-1x gb10", "a count is a whole number from 1 to 2,048, not -1"),
        ("1.5x gb10", "a whole number from 1 to 2,048, not 1.5"),
        ("1e3x gb10 @10gbe", "a whole number from 1 to 2,048, not 1e3"),
        ("-1xgb10", "a whole number from 1 to 2,048, not -1"),
        ("5000x gb10 @10gbe", "a whole number from 1 to 2,048, not 5000"),
        (f"{'9' * 5000}x gb10", "a whole number from 1 to 2,048, not 99"),
        ("2048x (2048x (2048x gb10 @10gbe) @10gbe) @10gbe", "8,589,934,592 devices: it takes up to 2,048"),
        ("gb10 + ", "a device is missing"),
        ("0x gb10", "a whole number from 1 to 2,048, not 0"),
        ("gb10 @", "a link is missing"),
    ],
)
def test_bad_shorthand_says_what_and_where(text: str, what: str) -> None:
    with pytest.raises(UsageError) as error:
        assemble(text)
    assert what in str(error.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("RTX 4090 24GB", ["rtx-4090-24"]),
        ("DGX Spark + raspberry pi 5 @25GbE TCP", ["gb10", "pi5"]),
        ("radeon r9700", ["r9700"]),
        ("7900 xtx & EPYC 9354", ["rx-7900-xtx", "epyc-9354"]),
        ("7900xtx", ["rx-7900-xtx"]),
        ("2x Mac Studio M3 Ultra 512GB @tb5-rdma", ["m3-ultra-512-1", "m3-ultra-512-2"]),
        ("2xRTX 3090 via pcie4x8", ["rtx-3090-1", "rtx-3090-2"]),
        ("2xh200 & 1xepyc-9354", ["h200-1", "h200-2", "epyc-9354"]),
    ],
)
def test_a_name_is_all_words_up_to_the_next_sign(text: str, names: list[str]) -> None:
    assert [d.name for d in assemble(text).lab.devices] == names


def test_a_long_line_is_no_files_name() -> None:
    assert len(find_lab(" + ".join(["gb10"] * 60) + " @10gbe").lab.devices) == 60


def test_an_engine_that_never_ran_on_such_a_device_is_said() -> None:
    said = "mlx on cuda: no measurement of that; predicted by what it reaches on metal"
    assert assemble("2x rtx-3090 & epyc-9354", "mlx").notes[0] == said
    assert assemble("m3-ultra + gb10 @10gbe", "ktransformers").notes[0].startswith("ktransformers on metal: no")
    for engine, lab in (("mlx", "m3-ultra"), ("vllm", "mi300x"), ("llama.cpp", "pi5"), ("motley", "m3-ultra")):
        assert not assemble(lab, engine).notes
    assert Change("swap", "m3-ultra->gb10").apply(assemble("m3-ultra", "mlx").lab, "mlx").notes == (said,)


def test_many_machines_are_one_pattern() -> None:
    lab = assemble("512x gb10 @cx7-200g").lab
    assert len(lab.links) == 1
    assert lab.link("gb10-7", "gb10-300").source == "catalogue: cx7-200g"


def test_every_lab_that_ships_is_whole(tmp_path: Path) -> None:
    for named in named_labs():
        found = find_lab(named.name)
        assert not found.notes, "a lab that ships is wired as it says"
        joins(found.lab)
        file = tmp_path / "lab.toml"
        found.lab.save(file)
        assert find_lab(str(file)).lab == found.lab
        if named.name.startswith("2tb"):
            assert 1.7e12 < sum(d.memory_bytes for d in found.lab.devices) < 2.2e12


def test_a_lab_is_a_file_a_name_or_shorthand() -> None:
    with pytest.raises(UsageError, match="cannot read the lab file missing"):
        find_lab("missing.toml")
    with pytest.raises(UsageError, match="is a folder"):
        find_lab("/tmp")
    with pytest.raises(UsageError, match="did you mean 2tb-10gbe-rdma"):
        find_lab("2tb-10gbe-rdm")
    assert find_lab("gb10").lab.devices[0].name == "gb10"


BASE = assemble("rtx-4090 & epyc-9354 + 2x m3-ultra-512 + pi5 @10gbe").lab


def test_added_machines_are_joined_to_all() -> None:
    found = Change("add", "2x m3-ultra-512 @tb5-rdma").apply(BASE)
    after = joins(found.lab)
    assert after["m3-ultra-512-1", "m3-ultra-512-3"] == after["m3-ultra-512-3", "m3-ultra-512-4"] == "tb5-rdma"
    assert after["rtx-4090", "m3-ultra-512-3"] == "10gbe"
    assert "they talk as the others do, over 10gbe" in found.notes[0]
    assert joins(Change("add", "gb10").apply(BASE).lab)["pi5", "gb10"] == "10gbe", "as the others of its system"
    with pytest.raises(UsageError, match="nothing says what joins"):
        Change("add", "gb10").apply(assemble("pi5").lab)


def test_added_devices_get_names_of_their_own() -> None:
    lab = assemble("m3-ultra-96 + rtx-4090 & epyc-9354 @10gbe").lab
    found = Change("add", "2x m3-ultra-96 + rtx-4090 & epyc-9354 @10gbe").apply(lab).lab
    assert [d.name for d in found.devices[3:]] == ["m3-ultra-96-2", "m3-ultra-96-3", "rtx-4090-2", "epyc-9354-2"]
    assert [d.node for d in found.devices[5:]] == ["box-2", "box-2"]
    swapped = Change("swap", "m3-ultra-96->m3-ultra-256").apply(found).lab
    assert [d.name for d in swapped.devices][:1] == ["m3-ultra-256"]
    assert len({d.name for d in swapped.devices}) == 7


@pytest.mark.parametrize("name", ["m3-ultra-512-1", "m3-ultra-512", "m3-ultra*", "m3-ultra"])
def test_dropped_by_name_device_or_pattern(name: str) -> None:
    left = {d.name for d in Change("drop", name).apply(BASE).lab.devices}
    assert "m3-ultra-512-1" not in left
    assert ("m3-ultra-512-2" in left) == (name == "m3-ultra-512-1")
    assert {"rtx-4090", "pi5"} <= left


def test_swapped_links() -> None:
    found = Change("swap", "tcp->rdma").apply(BASE)
    after = joins(found.lab)
    assert after["m3-ultra-512-1", "m3-ultra-512-2"] == "tb5-rdma"
    assert after["epyc-9354", "pi5"] == "10gbe-roce"
    assert after["rtx-4090", "m3-ultra-512-1"] == "10gbe"
    assert "no supported RDMA joins a Mac and a Linux box: they stay on 10gbe" in found.notes[0]
    assert joins(Change("swap", "rdma->tcp").apply(found.lab).lab)["epyc-9354", "pi5"] == "10gbe"
    wide = joins(Change("swap", "10gbe->100gbe").apply(BASE).lab)
    assert (wide["rtx-4090", "pi5"], wide["rtx-4090", "epyc-9354"]) == ("100gbe", "pcie4x16")


def test_a_card_on_a_cable_stays_on_it() -> None:
    lab = assemble("m3-ultra-512 & rtx-pro-6000 + m3-ultra-512 @tb5-tcp").lab
    after = Change("swap", "tcp->rdma").apply(lab).lab
    assert after.link("rtx-pro-6000", "m3-ultra-512-2").rtt_us == 42 + 40
    assert after.link("rtx-pro-6000", "m3-ultra-512-1").source == "catalogue: tb5-egpu"


def test_swapped_devices() -> None:
    found = Change("swap", "rtx-4090->rtx-5090").apply(BASE)
    assert joins(found.lab)["rtx-5090", "epyc-9354"] == "pcie5x16"
    assert found.lab.device("rtx-5090").node == "box"
    mac = Change("swap", "m3-ultra-512->rtx-pro-6000").apply(Change("swap", "tcp->rdma").apply(BASE).lab)
    assert joins(mac.lab)["rtx-pro-6000-1", "rtx-pro-6000-2"] == "tb4", "what joined Macs cannot join Linux boxes"


def test_changes_add_up_and_leave_the_lab_alone() -> None:
    before = BASE.dumps()
    found = changed(BASE, [Change("add", "gb10 @10gbe"), Change("drop", "pi5"), Change("swap", "gb10->strix-halo")])
    assert [d.name for d in found.lab.devices][-1] == "strix-halo"
    assert BASE.dumps() == before


@pytest.mark.parametrize(
    ("verb", "text", "what"),
    [
        ("drop", "pi6", "did you mean pi5"),
        ("drop", "*", "leaves no device"),
        ("swap", "tcp", "write 'tcp->rdma'"),
        ("swap", "25gbe->100gbe", "its links are 10gbe, pcie4x16"),
        ("swap", "foo->bar", "no device and no link 'foo'"),
        ("swap", "tcp->foo", "unknown link 'foo'"),
        ("swap", "pi5->rtx-509", "did you mean rtx-5090"),
        ("swap", "10gbe->pcie4x16", "joins devices of one machine"),
        ("add", "gb10 @pcie4x16", "joins devices of one machine"),
    ],
)
def test_a_change_that_names_nothing_says_so(verb: str, text: str, what: str) -> None:
    with pytest.raises(UsageError) as error:
        Change(verb, text).apply(BASE)
    assert what in str(error.value)


def test_the_pages_examples_are_labs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "labs.md").read_text(encoding="utf-8")
    examples = [line.split("   ")[0] for line in page.partition("```\n")[2].partition("```")[0].splitlines()]
    assert len(examples) == 7
    for line in examples:
        joins(assemble(line).lab)


WORDS = [
    "gb10",
    "m3-ultra-512",
    "rtx-3090",
    "epyc-9354",
    "3x",
    "0x",
    "x",
    "+",
    "&",
    "@",
    "(",
    ")",
    "via",
    "10gbe",
    "tb5-rdma",
]
WORDS += ["pcie4x16", "nvlink4", "foo", "->", "", "2.5gbe", "é", "@@", "+ +"]


@given(st.lists(st.sampled_from(WORDS), max_size=9))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_whole_lab_or_a_sentence(words: list[str]) -> None:
    try:
        lab = assemble(" ".join(words)).lab
    except UsageError:
        return  # a sentence
    assert lab.devices
    assert not lab.missing_links()


@given(st.sampled_from(["add", "drop", "swap"]), st.lists(st.sampled_from([*WORDS, "tcp->rdma", "pi5"]), max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_change_is_a_whole_lab_or_a_sentence(verb: str, words: list[str]) -> None:
    try:
        lab = Change(verb, " ".join(words)).apply(BASE).lab
    except UsageError:
        return  # a sentence
    assert lab.devices
    assert not lab.missing_links()


def test_a_measured_lab_can_be_changed_too() -> None:
    measured = make_lab(device("big"), device("small"), rtt_us=80, gb_s=1.1)
    added = Change("add", "rtx-3090").apply(measured).lab
    assert added.link("rtx-3090", "big").rtt_us == 80, "as the others are joined"
    faster = Change("swap", "tcp->rdma").apply(measured)
    assert joins(faster.lab)["big", "small"] == "10gbe-roce", "the nearest in bandwidth"
    assert "network cards" in faster.notes[0]
    swapped = Change("swap", "small->gb10").apply(measured).lab
    assert [d.name for d in swapped.devices] == ["big", "gb10"]
    assert swapped.link("big", "gb10").rtt_us == 80
