"""Labs as files: what is read is what was written, and whatever is odd is named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labs import device, lab

from motley.errors import UsageError
from motley.lab import machine
from motley.lab.lab import Device, Kernel, Lab, Link
from motley.lab.probe import probe_device
from motley.lab.toml import KINDS, parse_lab

DEVICE = """
[[device]]
name = "big"
node = "big"
kind = "cpu"
memory_bytes = "24 GiB"
threads = 8
read_gb_s = 180.0
int8_gops = 5000
f32_gflops = 900.0
op_overhead_us = 0
"""


def changed(key: str, line: str) -> str:
    kept = [text for text in DEVICE.splitlines() if not text.startswith(f"{key} =")]
    return "\n".join([*kept, line])


def loads(text: str) -> Lab:
    return Lab(*parse_lab(text))


def test_a_hand_written_lab_reads() -> None:
    big = loads(DEVICE).device("big")
    assert big.memory_bytes == 24 * 2**30
    assert big.read_gb_s == 180.0
    assert isinstance(big.int8_gops, float)
    assert big.kernels == ()


@pytest.mark.parametrize(("text", "n_bytes"), [("64 GB", 64 * 10**9), ("1.5 MiB", 3 * 2**19), ("7b", 7)])
def test_memory_may_carry_its_unit(text: str, n_bytes: int) -> None:
    assert loads(changed("memory_bytes", f'memory_bytes = "{text}"')).devices[0].memory_bytes == n_bytes


numbers = st.floats(0.001, 1e5, allow_nan=False).map(lambda x: float(f"{x:.6g}"))
names = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Cf", "Zl", "Zp")), min_size=1, max_size=12)
kernels = st.builds(
    Kernel,
    names,
    numbers,
    st.dictionaries(st.integers(1, 2**40), numbers, min_size=1, max_size=4).map(lambda d: tuple(sorted(d.items()))),
    st.dictionaries(st.integers(1, 2**40), numbers, max_size=2).map(lambda d: tuple(sorted(d.items()))),
)
devices = st.builds(
    Device,
    name=names,
    node=names,
    kind=st.sampled_from(KINDS),
    memory_bytes=st.integers(1, 2**50),
    threads=st.integers(1, 512),
    read_gb_s=numbers,
    int8_gops=numbers,
    f32_gflops=numbers,
    op_overhead_us=numbers,
    source=names,
    call_us=numbers,
    elements_g_s=numbers,
    kernels=st.lists(kernels, max_size=3).map(tuple),
)


@given(st.lists(devices, min_size=1, max_size=4, unique_by=lambda d: d.name), numbers, numbers)
def test_what_is_written_reads_back(found: list[Device], rtt: float, gb_s: float) -> None:
    links = tuple(Link(a.name, b.name, "tcp", rtt, gb_s) for i, a in enumerate(found) for b in found[i + 1 :])
    whole = Lab(tuple(found), links)
    assert loads(whole.dumps()) == whole


def test_save_and_load(tmp_path: Path) -> None:
    saved = lab(device("a"), device("b"))
    saved.save(tmp_path / "lab.toml")
    assert Lab.load(tmp_path / "lab.toml") == saved


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at least one"),
        ("[[device]", "not valid TOML"),
        ("[device]\nname = 'x'", "list of tables"),
        ("[[machine]]\nname = 'x'", "unknown key 'machine'"),
        (DEVICE + "read_mb_s = 5", r"\(big\): unknown key 'read_mb_s'.*read_gb_s"),
        (DEVICE + "zzz = 5", "unknown key 'zzz': accepted are name"),
        (changed("threads", ""), "threads is missing"),
        (changed("read_gb_s", ""), "read_gb_s is missing, in GB/s"),
        (changed("read_gb_s", "read_gb_s = -1"), "read_gb_s must be zero or more"),
        (changed("read_gb_s", "read_gb_s = 0"), "read_gb_s must be positive"),
        (changed("read_gb_s", "read_gb_s = '180 GB/s'"), "read_gb_s must be a number, in GB/s"),
        (changed("read_gb_s", "read_gb_s = nan"), "read_gb_s must be a number"),
        (changed("read_gb_s", "read_gb_s = true"), "read_gb_s must be a number"),
        (changed("memory_bytes", "memory_bytes = '24 Gb/s'"), "24 GiB"),
        (changed("memory_bytes", "memory_bytes = '24'"), "24 GiB"),
        (changed("memory_bytes", "memory_bytes = '1.2.3 GB'"), "24 GiB"),
        (changed("threads", "threads = 1.5"), "whole number"),
        (changed("read_gb_s", "read_gb_s = 1e12"), r"read_gb_s = 1e\+12, in GB/s .1e9 bytes.*did you mean 1000\?"),
        (changed("read_gb_s", "read_gb_s = 1e-308"), "not between 0.001 and 100000$"),
        (changed("int8_gops", "int8_gops = 1e300"), "int8_gops must be a number"),
        (changed("threads", f"threads = 1{'0' * 400}"), "threads must be a number"),
        (changed("threads", f"threads = 1{'0' * 5000}"), "not valid TOML"),
        (changed("memory_bytes", "memory_bytes = '1e99 TiB'"), "24 GiB"),
        (changed("memory_bytes", "memory_bytes = '99999999 TiB'"), r"memory_bytes = 1.09951e.20 is not between"),
        (changed("op_overhead_us", "op_overhead_us = 1e9"), "op_overhead_us = 1e.09, in microseconds, is not"),
        (changed("kind", "kind = 'quantum'"), "unknown kind 'quantum': it is one of cpu, cuda, metal"),
        (changed("name", 'name = "big\\u001b[31m"'), r"name has the control character '\\x1b'"),
        (
            DEVICE + "[[link]]\na = 'big'\nb = 'big'\ntransport = 'pigeon'\nrtt_us = 1\ngb_s = 1",
            "'pigeon'.*tcp, tcp.tls",
        ),
        (changed("name", "name = 3"), "name must be text"),
        (DEVICE + DEVICE, "two devices are called 'big'"),
        (DEVICE + DEVICE.replace('"big"', '"small"'), "no .*link.* between big - small"),
        (DEVICE + "kernels = [{ quant = 'q8_0' }]", "kernel 1: gemm_gops is missing"),
        (
            DEVICE + "kernels = [{ quant = 'q8_0', gemm_gops = 1, matvec = 5 }]",
            r"matvec must be a list of \[bytes, GB/s",
        ),
        (DEVICE + "kernels = [{ quant = 'q8_0', gemm_gops = 1, matvec = [] }]", "matvec must be a list"),
        (DEVICE + "kernels = [{ quant = 'q8_0', gemm_gops = 1, matvec = [[2, 1], [1, 1]] }]", "ascending"),
        (DEVICE + "kernels = [{ quant = 'q8_0', gemm_gops = 1, matvec = [[2, -1]] }]", "gb_s must be zero or more"),
        (DEVICE + "[[link]]\na = 'big'\nb = 'bog'\ntransport = 'tcp'\nrtt_us = 1\ngb_s = 1", "'bog'.*mean 'big'"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        loads(text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml"):
        Lab.load(tmp_path / "nowhere.toml")


def test_links_are_symmetric_and_may_name_nodes() -> None:
    gpu, cpu = device("gpu0", node="box"), device("cpu0", node="mac")
    joined = Lab((gpu, cpu), (Link("mac", "box", "tcp", 30, 1),))
    assert joined.link("gpu0", "cpu0") is joined.link("cpu0", "gpu0")
    assert joined.missing_links() == []


def test_devices_of_one_node_need_no_link() -> None:
    both = Lab((device("gpu0", node="box"), device("cpu0", node="box")))
    assert both.link("gpu0", "cpu0").rtt_us == 0
    assert both.missing_links() == []


def test_a_missing_link_is_said() -> None:
    with pytest.raises(UsageError, match="no link between a and b"):
        Lab((device("a"), device("b"))).link("a", "b")
    with pytest.raises(UsageError, match="no device 'c'"):
        Lab((device("a"), device("b"))).device("c")


class FakeMeter:
    """Reads 10 GB/s from memory, 100 from a cache of 20 MB."""

    def read_gb_s(self, n_bytes: int) -> float:
        return 12.34567

    def int8_gops(self) -> float:
        return 650.0

    def f32_gflops(self) -> float:
        return 60.0

    def attention_gflops(self) -> float:
        return 30.0

    def elements_g_s(self) -> float:
        return 6.0

    def op_overhead_us(self) -> float:
        return 3.0

    def call_us(self) -> float:
        return 1.0

    def step_us(self) -> float:
        return 0.0

    def matvec_gb_s(self, quant: str, n_bytes: int) -> float:
        return 100.0 if n_bytes <= 20e6 else 10.0

    def stored_gb_s(self, quant: str, n_bytes: int) -> float:
        return 50.0 if n_bytes <= 20e6 else 8.0

    def upload_gb_s(self, n_bytes: int) -> float:
        return 25.0

    def pack_gb_s(self, n_bytes: int) -> float:
        return 2.5

    def gemm_gops(self, quant: str) -> float:
        return 400.0


def test_probing_writes_down_what_the_meter_says() -> None:
    told: list[float] = []
    quants = ["q8_0", "q4_k"]
    found = probe_device(
        FakeMeter(), "a", "a", 2, memory_bytes=10**9, quants=quants, progress=lambda what, done: told.append(done)
    )
    assert told == sorted(told)
    assert len(set(told)) == 5 * (6 + 2 * 4) + 2 * (2 + 2) + 4  # quick ones five times, slow ones once
    assert found.read_gb_s == 12.3  # three digits
    mib = 2**20
    curve = (
        (mib, 100.0),
        (2 * mib, 100.0),
        (4 * mib, 100.0),
        (16 * mib, 100.0),
        (64 * mib, 10.0),
    )  # a quarter of 1 GB at most
    assert found.kernels[1] == Kernel("q4_k", 400.0, curve, ((4 * mib, 50.0), (64 * mib, 8.0)))
    assert found.pack_gb_s == 2.5
    assert found.upload_gb_s == 25.0
    assert found.kernels[0].matvec_gb_s(1) == 100.0
    assert found.kernels[0].matvec_gb_s(32 * mib) == pytest.approx(55.0)
    assert found.kernels[0].matvec_gb_s(2**40) == 10.0
    assert loads(Lab((found,)).dumps()).devices[0] == found


def test_probing_asks_this_machine_for_its_memory() -> None:
    found = probe_device(FakeMeter(), "a", "a", 2, quants=[])
    assert 10**8 < found.memory_bytes <= machine.this_machine().memory_bytes


def test_machine_facts() -> None:
    here = machine.this_machine()
    assert here.cpu
    assert here.host
    assert here.cores >= 1
    assert here.available_bytes <= here.memory_bytes


def test_machine_facts_where_the_processor_has_no_name() -> None:
    cpu, total, free = machine._cpu_and_memory("processor: 0\n", "MemTotal: 8 kB\n")
    assert cpu
    assert (total, free) == (8192, 8192)


def test_probing_keeps_to_the_memory_it_was_given() -> None:
    asked = []

    class Counting(FakeMeter):
        def matvec_gb_s(self, quant: str, n_bytes: int) -> float:
            asked.append(n_bytes)
            return super().matvec_gb_s(quant, n_bytes)

    found = probe_device(Counting(), "a", "a", 1, memory_bytes=64 << 20)
    assert max(asked) == 16 << 20
    assert found.kernels[0].matvec[-1][0] == 16 << 20


# -- links between many


def many(links: str, *names: str) -> Lab:
    devices = "\n".join(changed("name", f'name = "{n}"').replace('node = "big"', f'node = "{n}"') for n in names)
    return loads(devices + links)


def joined(a: str, b: str, rtt_us: float) -> str:
    return f'\n[[link]]\na = "{a}"\nb = "{b}"\ntransport = "tcp"\nrtt_us = {rtt_us}\ngb_s = 1.0\n'


def test_a_pattern_joins_an_island_and_the_more_specific_link_counts() -> None:
    links = joined("*", "*", 300) + joined("mac*", "mac*", 100) + joined("mac-a*", "mac-a*", 10)
    links += joined("mac-a1", "mac-b1", 50)
    where = many(links, "mac-a1", "mac-a2", "mac-b1", "box")
    for a, b, rtt_us in (
        ("mac-a1", "mac-a2", 10),
        ("mac-a2", "mac-b1", 100),
        ("mac-b1", "mac-a1", 50),
        ("box", "mac-a2", 300),
    ):
        assert where.link(a, b).rtt_us == where.link(b, a).rtt_us == rtt_us


def test_a_pattern_leaves_the_devices_of_one_node_as_they_are() -> None:
    two = lab(device("x0", node="box"), device("x1", node="box"), device("y"))
    links = (Link("*", "*", "tcp", 300, 1), Link("box", "y", "rdma", 20, 5))
    where = Lab(two.devices, links)
    assert where.link("x0", "x1").transport == "local"
    assert where.link("x0", "y").transport == where.link("y", "x1").transport == "rdma"


def test_among_equally_specific_links_the_first_counts() -> None:
    where = many(joined("a*", "b*", 1) + joined("b*", "a*", 2), "a1", "b1")
    assert where.link("a1", "b1").rtt_us == 1


def test_patterns_that_fit_nothing_and_many_missing_links_are_said() -> None:
    with pytest.raises(UsageError, match=r"'max\*', which no device or node fits"):
        many(joined("max*", "mac1", 1), "mac1", "mac2")
    with pytest.raises(UsageError, match=r"no \[\[link\]\] between d0 - d1, .* and 37 more"):
        many("", *(f"d{i}" for i in range(10)))


def test_a_thousand_devices_with_a_link_each_are_joined_quickly() -> None:
    from time import process_time

    devices = [device(f"d{i}") for i in range(400)]
    started = process_time()
    where = lab(*devices)  # 79,800 links
    assert where.missing_links() == []
    assert where.link("d7", "d399").rtt_us == 50
    assert process_time() - started < 5
