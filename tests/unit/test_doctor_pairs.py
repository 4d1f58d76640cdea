"""The doctor on pairs of nodes: what was measured, in tables, and what it says of that."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from motley.cli.pairs import _way
from motley.cli.session import Session
from motley.cluster.remote import LinkSpeed
from motley.doctor import rdma
from motley.doctor.finding import Finding
from motley.doctor.pairs import End, Pair, Way, check, end
from motley.doctor.system import System

A = End("a", "3.12.4", "1.6.2", "eth0", 1500, 1000, "kernel-1", 1000, "net:[1]")
B = replace(A, name="b", interface="enp1s0", machine="kernel-2")
GIGABIT = Way("tcp+tls", 420.0, 0.117)


def pair(a: dict[str, Any] | None = None, b: dict[str, Any] | None = None, **change: Any) -> Pair:
    """Two machines at a sound gigabit, but for what is changed."""
    return replace(Pair(replace(A, **(a or {})), replace(B, **(b or {})), GIGABIT, GIGABIT), **change)


def bad(found: Sequence[Finding]) -> dict[str, str]:
    return {x.code: x.severity for x in found if x.severity != "ok"}


def both(**way: Any) -> dict[str, Way]:
    changed = replace(GIGABIT, **way)
    return {"there": changed, "back": changed}


TEN = {"mbit": 10_000}

TABLE: list[tuple[str, Pair, dict[str, str], str]] = [
    ("sound", pair(), {}, "a and b need 420 us there and back over tcp+tls, of which 262 are the wire's at 1 Gbit/s"),
    ("slow", pair(**both(rtt_us=600.0)), {"PAIR-SLOW": "warning"}, "each layer waits so long"),
    ("slow one way", pair(back=replace(GIGABIT, rtt_us=600.0)), {"PAIR-SLOW": "warning"}, "need 600 us"),
    ("slow wire, not more", pair(TEN, {"mbit": 100}, **both(rtt_us=2900.0, gb_s=0.011)), {}, "2621 are the wire's"),
    (
        "no speed known",
        pair({"mbit": 0}, **both(rtt_us=499.0, gb_s=0.001)),
        {},
        "need 499 us there and back over tcp+tls",
    ),
    ("no speed known, slow", pair({"mbit": 0}, **both(rtt_us=501.0)), {"PAIR-SLOW": "warning"}, "need 501 us"),
    (
        "half a gigabit",
        pair(back=replace(GIGABIT, gb_s=0.06)),
        {"PAIR-BANDWIDTH": "warning"},
        "move 0.06 GB/s, and their link at 1 Gbit/s could 0.12",
    ),
    ("ten, the other one", pair(TEN), {}, "at 1 Gbit/s"),
    (
        "encryption",
        pair({"mbit": 100_000}, {"mbit": 100_000}, **both(gb_s=2.5, rtt_us=60.0)),
        {"PAIR-BANDWIDTH": "warning"},
        "--trusted-lan",
    ),
    (
        "encryption, at what a core does",
        pair({"mbit": 10_000}, {"mbit": 10_000}, **both(gb_s=0.7, rtt_us=60.0)),
        {"PAIR-BANDWIDTH": "warning"},
        "--trusted-lan",
    ),
    ("jumbo on one end", pair(b={"mtu": 9000}), {"PAIR-MTU": "warning"}, "on a `ip link set eth0 mtu 9000`"),
    ("jumbo, other end unknown", pair({"mtu": 0}, {"mtu": 9000}), {}, ""),
    ("clock ahead", pair(skew_s=7.5, skew_error_s=0.01), {"PAIR-CLOCK": "warning"}, "clock of b is 7.5 s ahead of a's"),
    ("clock behind", pair(skew_s=-7.5), {"PAIR-CLOCK": "warning"}, "clock of a is 7.5 s ahead of b's"),
    ("clock not sure", pair(skew_s=1.5, skew_error_s=0.6), {}, ""),
    ("zenoh", pair(b={"zenoh": "1.4.0"}), {"PAIR-VERSIONS": "warning"}, "a has eclipse-zenoh 1.6.2, b 1.4.0"),
    ("zenoh, a fix apart", pair(b={"zenoh": "1.6.0"}), {}, ""),
    ("python", pair(b={"python": "3.11.2"}), {"PAIR-VERSIONS": "note"}, "a has Python 3.12.4, b 3.11.2"),
    (
        "not reached",
        pair(back=Way(failed="no node answers at 10.0.0.1:4000")),
        {"PAIR-BROKEN": "error"},
        "b does not reach a: no node answers at 10.0.0.1:4000",
    ),
    ("two machines", pair(), {}, "a and b both choose tcp+tls: they are two machines"),
    (
        "memory",
        pair(b={"machine": "kernel-1"}, **both(transport="local", rtt_us=9.0)),
        {},
        "which shares memory",
    ),
    ("users", pair(b={"machine": "kernel-1", "user": 0}), {}, "one machine, but two users"),
    ("spaces", pair(b={"machine": "kernel-1", "space": "net:[2]"}), {}, "one machine, but two network namespaces"),
    ("its socket is better", pair(b={"machine": "kernel-1"}), {}, "whose socket measured clearly better"),
    (
        "mpi was named, memory or not",
        pair(b={"machine": "kernel-1"}, **both(transport="mpi")),
        {},
        "a and b both choose mpi: both were started with --link mpi",
    ),
    (
        "mpi one way",
        pair(there=replace(GIGABIT, transport="mpi")),
        {"PAIR-TRANSPORT": "warning"},
        "one found no mpi link, and its log says why",
    ),
    (
        "ring was named",
        pair(b={"machine": "kernel-1"}, **both(transport="ring")),
        {},
        "a and b both choose ring: both were started with --link ring",
    ),
    ("nothing known", pair({"machine": ""}), {}, "whether they are one machine is not known"),
    (
        "not the same transport",
        pair(b={"machine": "kernel-1"}, there=Way("local", 9.0, 5.0)),
        {"PAIR-TRANSPORT": "warning"},
        "a reaches b over local, and b reaches a over tcp+tls",
    ),
    ("an mtu of loopback", pair(b={"machine": "kernel-1", "mtu": 65536}), {}, ""),
]


@pytest.mark.parametrize(("case", "measured", "found", "said"), TABLE, ids=[row[0] for row in TABLE])
def test_what_is_said_of_a_pair(case: str, measured: Pair, found: dict[str, str], said: str) -> None:
    told = list(check(measured))
    assert bad(told) == found
    assert any(said in x.sentence or said in x.remedy for x in told)
    assert all(x.remedy for x in told if x.severity in ("error", "warning"))


ADDRESSES = [
    {"ifname": "lo", "mtu": 65536, "addr_info": [{"local": "127.0.0.1"}]},
    {"ifname": "veth1", "mtu": 1500, "addr_info": [{"local": "192.0.2.9"}]},
    {"ifname": "eth1", "mtu": 9000, "addr_info": [{"local": "192.0.2.7"}, {"local": "fe80::1"}]},
]


@pytest.mark.parametrize(
    ("host", "told", "interface", "mtu", "mbit"),
    [
        ("192.0.2.7", json.dumps(ADDRESSES), "eth1", 9000, 25_000),
        ("127.0.0.1", json.dumps(ADDRESSES), "lo", 65536, 0),
        ("192.0.2.9", json.dumps(ADDRESSES), "veth1", 1500, 0),
        ("192.0.2.8", json.dumps(ADDRESSES), "", 0, 0),
        ("192.0.2.7", "", "", 0, 0),
        ("192.0.2.7", '{"a": [', "", 0, 0),
        ("192.0.2.7", '[{"addr_info": [{"local": "192.0.2.7"}]}]', "", 0, 0),
    ],
)
def test_what_an_end_says_of_itself(tmp_path: Path, host: str, told: str, interface: str, mtu: int, mbit: int) -> None:
    speeds = {"eth1": "25000", "lo": "-1", "veth1": "10000"}
    for name, speed in speeds.items():
        folder = tmp_path / "sys" / "class" / "net" / name
        folder.mkdir(parents=True)
        (folder / "speed").write_text(f"{speed}\n")
    (tmp_path / "sys" / "class" / "net" / "eth1" / "device").mkdir()
    found = end(System(tmp_path, lambda words: told if words[0] == "ip" else None, "Linux"), "x", host)
    assert (found.name, found.interface, found.mtu, found.mbit) == ("x", interface, mtu, mbit)
    assert found.machine == found.space == ""


class Measured:
    """A session whose links are all as `speed` says."""

    def __init__(self, speed: LinkSpeed) -> None:
        self.own, self.site, self._speed = SimpleNamespace(name="a"), SimpleNamespace(addresses={}), speed

    def speed(self, links: object, addresses: object, a: str, b: str) -> LinkSpeed:
        return self._speed


@pytest.mark.parametrize(
    ("transport", "far", "counted", "severity"),
    [
        ("mpi", "b", 24 << 20, "ok"),
        ("mpi", "b", 12 << 20, "warning"),
        ("mpi", "b", 1 << 20, "error"),
        ("mpi", "c", 0, None),  # between two others: their counters are not here
        ("tcp", "b", 0, None),
    ],
)
def test_who_carried_what_mpi_sent(
    monkeypatch: pytest.MonkeyPatch, transport: str, far: str, counted: int, severity: str | None
) -> None:
    port = "mlx5_0/1/port_xmit_data"
    counts = iter([{port: 1000}, {port: 1000 + counted}])
    monkeypatch.setattr(rdma, "counters", lambda system: next(counts))
    near = "a" if far == "b" else "b"
    way = _way(cast(Session, Measured(LinkSpeed(transport, 20.0, 9.0))), {}, {}, near, far)
    assert (way.carried.severity if way.carried else None) == severity
    said = [x.severity for x in check(replace(pair(), there=way)) if x.code == "RDMA-SILENT"]
    assert said == ([severity] if severity else [])
