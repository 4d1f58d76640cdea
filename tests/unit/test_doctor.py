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
    assert bad([*rdma.check(there, "libibverbs.so.1"), *memory.check(there)]) == {}


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
    assert bad([*rdma.check(there, "libibverbs.so.1"), *memory.check(there)]) == found


def test_a_card_without_its_library(root: Path) -> None:
    assert bad(list(rdma.check(system(root, ROCE), None))) == {"NO-VERBS": "error"}


def test_no_card(root: Path) -> None:
    assert bad(list(rdma.check(system(root, {}), None))) == {"NO-RDMA": "note"}


def test_who_carried_the_bytes(root: Path) -> None:
    before = rdma.counters(system(root, ROCE))
    assert before == {"mlx5_0/1/port_xmit_data": 1000}
    assert rdma.carried(before, before, 1 << 20).severity == "error"
    half = rdma.counters(
        system(root, {**ROCE, f"{PORT}/counters/port_xmit_data": "132072", f"{PORT}/counters/port_rcv_data": "131072"})
    )
    assert rdma.carried(before, half, 1 << 20).severity == "error"  # both ways together are not one way
    after = rdma.counters(system(root, {**ROCE, f"{PORT}/counters/port_xmit_data": str(1000 + (1 << 18))}))
    assert rdma.carried(before, after, 1 << 20).severity == "ok"
    soft = {"rxe0/1/port_xmit_data": 0}
    assert rdma.carried(soft, soft, 1 << 20).severity == "note"


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
