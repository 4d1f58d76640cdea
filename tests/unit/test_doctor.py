"""The doctor on machines that are not here: files laid out as the kernel has them, outputs as the tools print them."""

import re
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest

import motley
from motley.cluster import thunderbolt
from motley.cluster.thunderbolt import Port
from motley.doctor import mac, memory, network, rdma, software
from motley.doctor.examine import examine
from motley.doctor.finding import Finding
from motley.doctor.system import System
from motley.errors import MotleyError

ROOT = Path(__file__).parents[2]
MEMINFO = "MemTotal: 64000000 kB\nMemFree: 1 kB\nMemAvailable: {free} kB\nSwapTotal: 8000000 kB\nSwapFree: {swap} kB\n"
ETHTOOL = """Settings for eth0:
    Supported link modes:   1000baseT/Full
                            10000baseT/Full
    Supported pause frame use: Symmetric
    Advertised link modes:  25000baseT/Full
"""
PORT = "/sys/class/infiniband/mlx5_0/ports/1"
ROCE = {
    f"{PORT}/state": "4: ACTIVE",
    f"{PORT}/link_layer": "Ethernet",
    f"{PORT}/rate": "100 Gb/sec (4X EDR)",
    f"{PORT}/gid_attrs/types/0": "RoCE v2",
    f"{PORT}/gid_attrs/ndevs/0": "eth2",
    f"{PORT}/counters/port_xmit_data": "1000",
    "/sys/class/net/eth2/mtu": "9000",
    "/proc/self/limits": "Max locked memory         unlimited            unlimited            bytes",
}
SOFT = "/sys/class/infiniband/rxe0/ports/1"
SOFT_ROCE = {  # read in the guest of tests/rdma: Linux 6.1, rdma_rxe on a veth with its own IPv6 address and 10.9.0.1
    f"{SOFT}/state": "4: ACTIVE",
    f"{SOFT}/phys_state": "5: LinkUp",
    f"{SOFT}/link_layer": "Ethernet",
    f"{SOFT}/rate": "10 Gb/sec (1X FDR10)",
    f"{SOFT}/gids/0": "fe80:0000:0000:0000:6cb4:6fff:fe3a:70b1",
    f"{SOFT}/gids/1": "0000:0000:0000:0000:0000:ffff:0a09:0001",
    **{f"{SOFT}/gid_attrs/types/{n}": "RoCE v2" for n in (0, 1)},  # of 1,024; reading the others is an error
    **{f"{SOFT}/gid_attrs/ndevs/{n}": "eth0" for n in (0, 1)},
    f"{SOFT}/hw_counters/lifespan": "12",
    f"{SOFT}/hw_counters/sent_pkts": "10062",
    f"{SOFT}/hw_counters/rcvd_pkts": "10062",
    f"{SOFT}/hw_counters/rdma_sends": "2000",
    "/sys/class/net/eth0/mtu": "1500",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def system(root: Path, files: dict[str, str], outputs: dict[str, str] | None = None, kind: str = "Linux") -> System:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def run(words: Sequence[str]) -> str | None:
        return (outputs or {}).get(words[0])

    return System(root, run, kind)


def bad(found: Sequence[Finding]) -> dict[str, str]:
    return {x.code: x.severity for x in found if x.severity != "ok"}


def test_every_code_is_explained_and_no_other() -> None:
    sources = "".join(path.read_text() for path in (Path(motley.__file__).parent / "doctor").glob("*.py"))
    used = set(
        re.findall(
            r'Finding\(\s*"([A-Z-]+)"', sources + (Path(motley.__file__).parent / "cli" / "doctor.py").read_text()
        )
    )
    told = set(re.findall(r"^\| `([A-Z-]+)` \|", (ROOT / "docs" / "doctor.md").read_text(), re.MULTILINE))
    assert used == told


def test_what_is_wrong_has_a_remedy(root: Path) -> None:
    for finding in examine(system(root, {**ROCE, f"{PORT}/state": "1: DOWN"})):
        assert finding.remedy or finding.severity in ("ok", "note")


def test_memory_is_what_is_free_here(root: Path) -> None:
    fine = system(root, {"/proc/meminfo": MEMINFO.format(free=50_000_000, swap=8_000_000)})
    assert bad(list(memory.check(fine))) == {}
    full = system(root, {"/proc/meminfo": MEMINFO.format(free=5_000_000, swap=1_000_000)})
    assert bad(list(memory.check(full))) == {"MEMORY-LOW": "warning", "SWAPPING": "warning"}


def test_a_control_groups_limit_counts(root: Path) -> None:
    files = {
        "/proc/meminfo": MEMINFO.format(free=50_000_000, swap=8_000_000),
        "/sys/fs/cgroup/memory.max": "1000000000",
        "/sys/fs/cgroup/memory.current": "900000000",
    }
    assert memory.free_bytes(system(root, files)) == (100_000_000, 1_000_000_000)
    files["/sys/fs/cgroup/memory.stat"] = "anon 5\ninactive_file 700000000"  # the cache gives way
    assert memory.free_bytes(system(root, files)) == (800_000_000, 1_000_000_000)
    own = {f"/sys/fs/cgroup/user.slice/app/memory.{k}": v for k, v in (("max", "500000000"), ("current", "100000000"))}
    inside = system(root, {**files, **own, "/proc/self/cgroup": "0::/user.slice/app"})
    assert memory.free_bytes(inside) == (400_000_000, 500_000_000)


def test_huge_pages_off(root: Path) -> None:
    files = {"/sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]"}
    assert bad(list(memory.check(system(root, files)))) == {"HUGE-PAGES": "note"}


def test_a_good_roce_port(root: Path) -> None:
    there = system(root, ROCE)
    assert bad([*rdma.check(there, lambda: "libibverbs.so.1"), *memory.check(there)]) == {}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({f"{PORT}/state": "1: DOWN"}, {"PORT-DOWN": "error"}),
        ({f"{PORT}/gid_attrs/types/0": "IB/RoCE v1"}, {"ROCE-GID": "error"}),
        ({"/sys/class/net/eth2/mtu": "1500"}, {"ROCE-MTU": "warning"}),
        ({"/proc/self/limits": "Max locked memory         65536   65536   bytes"}, {"MEMLOCK": "error"}),
    ],
)
def test_a_bad_roce_port(root: Path, change: dict[str, str], found: dict[str, str]) -> None:
    there = system(root, {**ROCE, **change})
    assert bad([*rdma.check(there, lambda: "libibverbs.so.1"), *memory.check(there)]) == found


def test_a_card_without_its_library(root: Path) -> None:
    assert bad(list(rdma.check(system(root, ROCE), lambda: None))) == {"NO-VERBS": "error"}


def test_no_card(root: Path) -> None:
    assert bad(list(rdma.check(system(root, {}), lambda: None))) == {"NO-RDMA": "note"}


def test_the_library_is_not_looked_for_without_a_card(root: Path) -> None:
    """It takes programs to find it, at each start of a node."""
    assert bad(list(rdma.check(system(root, {}), lambda: pytest.fail("looked for")))) == {"NO-RDMA": "note"}


def test_root_is_held_to_no_limit_of_locked_memory(root: Path) -> None:
    """The kernel does not ask about the limit where it finds CAP_IPC_LOCK (bit 14)."""
    limited = {**ROCE, "/proc/self/limits": "Max locked memory         65536   65536   bytes"}
    for privileges, found in (("000001ffffffffff", {}), ("000001ffffffbfff", {"MEMLOCK": "error"})):
        there = system(root, {**limited, "/proc/self/status": f"Name:\tpython\nCapEff:\t{privileges}\nSeccomp:\t0"})
        assert bad(list(memory.check(there))) == found


def test_who_carried_the_bytes(root: Path) -> None:
    before = rdma.counters(system(root, ROCE))
    assert before == {"mlx5_0/1": 0, "mlx5_0/1/port_xmit_data": 4000}
    assert rdma.carried(before, before, 1 << 20).severity == "error"
    half = rdma.counters(
        system(root, {**ROCE, f"{PORT}/counters/port_xmit_data": "132072", f"{PORT}/counters/port_rcv_data": "131072"})
    )
    found = rdma.carried(before, half, 1 << 20)  # both ways together are not one way
    assert (found.severity, "UCX_MAX_RNDV_RAILS=1" in found.remedy) == ("warning", True)
    after = rdma.counters(system(root, {**ROCE, f"{PORT}/counters/port_xmit_data": str(1000 + (1 << 18))}))
    assert rdma.carried(before, after, 1 << 20).severity == "ok"


def test_who_carried_the_bytes_on_soft_roce(root: Path) -> None:
    """It counts packets, in another folder, and has none of the files of a card's counters."""

    def counted(n_packets: int) -> rdma.Counters:
        return rdma.counters(system(root, {**SOFT_ROCE, f"{SOFT}/hw_counters/sent_pkts": str(n_packets)}))

    before = counted(10062)
    assert before == {"rxe0/1": 0, "rxe0/1/sent_pkts": 10062 * 1500, "rxe0/1/rcvd_pkts": 10062 * 1500}
    found = [rdma.carried(before, counted(10062 + n), 1500 * 1000) for n in (0, 10, 500, 1000)]
    assert [one.severity for one in found] == ["error", "error", "warning", "ok"]
    assert "packets" in found[-1].sentence


def test_a_port_that_counts_nothing(root: Path) -> None:
    siw = {"/sys/class/infiniband/siw0/ports/1/state": "4: ACTIVE"}
    counts = rdma.counters(system(root, siw))
    assert counts == {"siw0/1": 0}
    assert rdma.carried(counts, counts, 1 << 20).severity == "note"
    assert rdma.counters(System(root / "nothing")) == {}


def test_soft_roce_as_the_kernel_has_it(root: Path) -> None:
    found = list(rdma.check(system(root, SOFT_ROCE), lambda: "libibverbs.so.1"))
    assert bad(found) == {"ROCE-MTU": "warning"}
    assert [x.sentence for x in found if x.code == "PORT-DOWN"] == [
        "rxe0 port 1 is active (Ethernet, 10 Gb/sec (1X FDR10))"
    ]


def test_a_link_below_its_card(root: Path) -> None:
    files = {
        "/sys/class/net/eth0/speed": "1000",
        "/sys/class/net/eth0/operstate": "up",
        "/sys/class/net/eth0/duplex": "half",
        "/sys/class/net/eth0/device/current_link_width": "1",
        "/sys/class/net/eth0/device/max_link_width": "4",
    }
    found = bad(list(network.check(system(root, files, {"ethtool": ETHTOOL, "nft": ""}))))
    assert found == {"LINK-SLOW": "warning", "HALF-DUPLEX": "error", "SLOT-NARROW": "warning"}


@pytest.mark.parametrize(
    ("rules", "severity"),
    [
        ("chain input { type filter hook input priority 0; policy drop; }", "warning"),
        ("chain input { type filter hook input priority 0; policy accept; }", "ok"),
        ("chain input { type filter hook input priority 0; policy accept; ct state new reject }", "warning"),
        ("", "ok"),
    ],
)
def test_firewall(root: Path, rules: str, severity: str) -> None:
    found = list(network.check(system(root, {}, {"nft": rules, "timedatectl": "NTPSynchronized=no"})))
    assert [x.severity for x in found if x.code == "FIREWALL"] == [severity]
    assert bad(found)["CLOCK"] == "note"


@pytest.mark.parametrize(
    ("version", "status", "found"),
    [
        ("15.4", "", {"MAC-OLD": "warning"}),
        ("26.2", "disabled", {"MAC-RDMA-OFF": "warning"}),
        ("26.3.1", "enabled", {"MAC-RDMA-PORT": "note"}),
    ],
)
def test_macs(root: Path, version: str, status: str, found: dict[str, str]) -> None:
    there = system(root, {}, {"rdma_ctl": status}, kind="Darwin")
    assert bad(list(mac.check(there, version))) == {"MAC-UNTESTED": "note", **found}
    assert bad([*memory.check(there), *network.check(there), *rdma.check(there)]) == {}


@pytest.mark.parametrize(
    ("port", "level", "said"),
    [
        (Port("rdma_en2", "A", "", True, True), "note", "no Thunderbolt port that a cable joins"),
        (Port("rdma_en2", "A", "B", False, True), "warning", "not active on rdma_en2"),
        (Port("rdma_en2", "A", "B", True, False), "warning", "en2 has no IPv4 address"),
        (Port("rdma_en2", "A", "B", True, True), "ok", "ready for --link jaccl"),
    ],
)
def test_thunderbolt_ports(root: Path, port: Port, level: str, said: str) -> None:
    there = system(root, {}, {"rdma_ctl": "enabled"}, kind="Darwin")
    with mock.patch.object(thunderbolt, "ports", return_value=(port,)):
        (found,) = [f for f in mac.check(there, "26.3") if f.code == "MAC-RDMA-PORT"]
    assert (found.severity, said in found.sentence) == (level, True)


def test_kernels(root: Path) -> None:
    def missing() -> list[str]:
        raise MotleyError("the native kernels are not built")

    assert bad(list(software.check(system(root, {}), missing))) == {"NO-KERNELS": "error"}
    assert bad(list(software.check(system(root, {}), lambda: ["scalar"]))) == {"SLOW-KERNELS": "warning"}
