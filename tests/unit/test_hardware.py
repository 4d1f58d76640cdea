"""The hardware and link catalogues: complete, sourced, plausible, and found by the names people use."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from motley.errors import UsageError
from motley.lab.hardware import Hardware, every_device, hardware, memory_sizes
from motley.lab.links import every_link, joining, link_kind
from motley.shape.catalogue import names as models

SOURCE = re.compile(r"(vendor|measured|estimate|knowledge|computed|as fitted|https://)")

# The keys of published tables: rows of measurements name their hardware so.
KEYS = """a100_sxm a100_pcie a30 h100_sxm h100_pcie h200 gh200 b200 b300 gb200 gb300 l4 l40s t4 v100 a40 rtx_pro_6000
rtx_pro_5000 rtx_6000ada rtx_5000ada rtx_4000ada rtx_a6000 rtx_a4000 gb10 rtx_5090 rtx_5080 rtx_5070ti rtx_5070
rtx_5060ti rtx_4090 rtx_4080 rtx_4070ti_super rtx_4070ti rtx_4070 rtx_4070super rtx_3090ti rtx_3090 rtx_3080ti
rtx_3080 rtx_3070 rtx_3060 rtx_2080ti rtx_2080 gtx_1050ti mi250x mi300x mi325x mi355x r9700 rx_9070xt rx_7900xtx
rx_7900xt w7700 strix_halo ryzen_7840hs intel_b60 gaudi3 m1 m1_pro m1_max m1_ultra m2 m2_pro m2_max m2_ultra m3
m3_pro m3_max m3_ultra m4 m4_pro m4_max m5 m5_pro m5_max cpu_epyc9355 cpu_epyc9554 cpu_epyc9334 cpu_epyc9135
cpu_xeon6454s_2s cpu_epyc7003 cpu_13900k cpu_i9_10900x cpu_7800x3d cpu_7950x pi5"""
PUBLISHED = KEYS.split()

DEVICES = every_device()


@pytest.mark.parametrize("key", PUBLISHED)
def test_every_published_key_is_found(key: str) -> None:
    assert hardware(key) in DEVICES


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.key)
def test_figures_have_sources_and_make_sense(device: Hardware) -> None:
    for source in (device.source_bandwidth, device.source_memory, device.source_usable, device.source_watts):
        assert SOURCE.match(source) or "sysctl" in source or "reports" in source or "shows" in source, source
    rates = [device.fp32_tflops, device.fp16_tflops, device.int8_tops, device.fp8_tflops, device.fp4_tflops]
    if any(rates):
        assert SOURCE.match(device.source_compute), device.source_compute
    assert (device.price_usd is None) == (device.source_price == "") == (device.price_date == "")
    assert 0.5 * device.memory_gb < device.usable_gb < device.memory_gb
    assert device.watts is None or device.watts > 0
    assert device.dense
    if device.measured_bandwidth_gb_s and device.key != "i9-10900x":
        assert device.measured_bandwidth_gb_s < device.bandwidth_gb_s
    for slow, fast in ((device.fp16_tflops, device.fp8_tflops), (device.fp8_tflops, device.fp4_tflops)):
        assert slow is None or fast is None or slow <= fast <= 4.01 * slow
    assert (device.kind == "metal") == (device.system == "macos") == (device.thunderbolt > 0)
    if device.pcie:
        assert link_kind(device.pcie).within == "machine"
    if device.channels and device.memory_mt_s and "measured" not in device.source_bandwidth:
        assert device.bandwidth_gb_s <= device.channels * device.memory_mt_s * 8 / 1e3 * 1.01


def test_a_memory_size_that_comes_with_fewer_cores_is_that_chip() -> None:
    assert (hardware("m4-max-36").key, hardware("m4-max-36").bandwidth_gb_s) == ("m4-max-32core", 410)
    assert hardware("Mac Studio M4 Max 36GB").key == "m4-max-32core"
    assert (hardware("m3-max-96").key, hardware("m3-max-96").bandwidth_gb_s) == ("m3-max-30core-96", 300)
    assert (hardware("m5-max-36").bandwidth_gb_s, hardware("m5-max-48").bandwidth_gb_s) == (460, 614)
    assert (hardware("m3-ultra-60core-96").price_usd, hardware("Mac Studio M3 Ultra 96GB (60-core)").fp16_tflops) == (
        3999,
        21.3,
    )
    assert hardware("m3-ultra-256").price_date == "2025-12"


def test_apple_chips_without_matrix_units_run_fp16_as_fast_as_fp32() -> None:
    before = [d for d in DEVICES if d.cls == "apple" and d.key[:2] <= "m4"]
    assert len(before) > 15
    assert all(d.fp16_tflops == d.fp32_tflops for d in before)


def test_cards_without_matrix_units_are_a_class_of_their_own() -> None:
    old = {"gtx-1080-ti", "gtx-1080", "gtx-1070", "gtx-1050-ti", "p100", "p40"}
    assert {d.key for d in DEVICES if d.cls == "old_nvidia"} == old


def test_memory_sizes_are_devices_of_their_own() -> None:
    assert memory_sizes("m3-ultra") == (96, 256, 512)
    small, large = hardware("m3-ultra-96"), hardware("m3-ultra-512gb")
    assert (small.key, small.memory_gb, large.memory_gb) == ("m3-ultra-96", 96, 512)
    assert small.model == large.model == hardware("m3-ultra").model == "m3-ultra"
    assert small.bandwidth_gb_s == large.bandwidth_gb_s == 819
    assert hardware("rtx-4090-48").price_usd is None
    assert hardware("rtx-4090-48").source_price == "", "only the size that the price is for"
    assert (large.price_usd, large.price_date) == (9499, "2025-03")
    assert hardware("epyc-9355-512").memory_gb == 512  # a processor's memory is as fitted
    for device in DEVICES:
        for size in memory_sizes(device.key):
            assert hardware(f"{device.key}-{size:g}").memory_gb == size


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("RTX 3090", "rtx-3090"),
        ("rtx_3090", "rtx-3090"),
        ("nvidia-rtx-3090", "rtx-3090"),
        ("NVIDIA GeForce RTX 5060 Ti", "rtx-5060-ti"),
        ("1x NVIDIA GB10 (121.63 GB) + Cortex-A725", "gb10"),
        ("DGX Spark", "gb10"),
        ("Mac Studio M3 Ultra 512GB (80-core GPU)", "m3-ultra-512"),
        ("4x RTX PRO 6000 Blackwell 96GB", "rtx-pro-6000"),
        ("4x RTX PRO 6000 @300W", "rtx-pro-6000"),
        ("AMD Ryzen AI Max+ 395 (Strix Halo) 128GB", "strix-halo-128"),
        ("Ryzen 9 7900X (Nvidia 4090)", "rtx-4090"),
        ("1x RTX 3090 + CPU AMD EPYC 7543", "rtx-3090"),
        ("AMD Instinct MI300X 192GB HBM3", "mi300x"),
    ],
)
def test_names_as_people_write_them(text: str, key: str) -> None:
    assert hardware(text).key == key


@pytest.mark.parametrize(
    ("text", "near"),
    [("rtx-3095", "rtx-3090"), ("m3-ultra-300", "m3-ultra-512"), ("m3ultr", "m3-ultra"), ("", "there are")],
)
def test_an_unknown_device_suggests_the_nearest(text: str, near: str) -> None:
    with pytest.raises(UsageError, match=near):
        hardware(text)


def test_links_have_sources_and_ordered_ranges() -> None:
    for kind in every_link():
        for figure in (kind.rtt_us, kind.gb_s):
            assert 0 < figure.low <= figure.p50 <= figure.high, kind.key
        assert SOURCE.match(kind.source_rtt), kind.key
        assert SOURCE.match(kind.source_gb_s), kind.key
        assert bool(kind.joins) != (kind.within == "machine"), kind.key
        assert kind.rdma == (kind.transport in ("mpi", "jaccl")), kind.key
        assert not (kind.rdma and ("linux", "macos") in kind.joins), "no supported RDMA joins a Mac to a Linux box"


def test_links_are_found_and_joined_by_what_can_join() -> None:
    assert link_kind("25GbE TCP").key == "25gbe"
    with pytest.raises(UsageError, match="did you mean 10gbe"):
        link_kind("10gb")
    rdma = link_kind("tb5-rdma")
    assert joining(rdma, "macos", "macos") == (rdma, "")
    instead, why = joining(rdma, "linux", "macos")
    assert instead.transport == "tcp"
    assert "no supported RDMA joins a Linux box and a Mac" in why
    with pytest.raises(UsageError, match="ib-ndr cannot join"):
        joining(link_kind("ib-ndr"), "linux", "macos")
    link = rdma.between("a", "b")
    assert (link.transport, link.rtt_us, link.source) == ("jaccl", 42.0, "catalogue: tb5-rdma")


def test_the_readme_counts_as_the_catalogue_does() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    said = re.search(r"(\d+) models, (\d+) devices and (\d+) links", readme)
    assert said
    assert tuple(map(int, said.groups())) == (len(models()), len(DEVICES), len(every_link()))


def test_the_catalogue_loads_light() -> None:
    code = "import sys, motley.lab.hardware, motley.lab.links; print('numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
