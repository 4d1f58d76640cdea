"""Which RDMA device leads to which Mac, by outputs as Apple, MLX and users show them; no Mac was asked."""

import json
from collections.abc import Sequence

import pytest

from motley.cluster import thunderbolt
from motley.cluster.thunderbolt import Port
from motley.errors import ClusterError

DEVINFO = """hca_id:\trdma_en2
\ttransport:\t\t\tThunderbolt (100)
\tphys_port_cnt:\t\t\t1
\t\tport:\t1
\t\t\tstate:\t\t\tPORT_ACTIVE (4)

hca_id:\trdma_en3
\ttransport:\t\t\tThunderbolt (100)
\t\tport:\t1
\t\t\tstate:\t\t\tPORT_DOWN (1)

hca_id:\tmlx5_0
\t\t\tstate:\t\t\tPORT_ACTIVE (4)
"""
HARDWARE = """
Hardware Port: Ethernet
Device: en0
Ethernet Address: 00:00:5e:00:53:01

Hardware Port: Thunderbolt 1
Device: en2
Ethernet Address: 00:00:5e:00:53:02

Hardware Port: Thunderbolt 2
Device: en3
Ethernet Address: 00:00:5e:00:53:03

Hardware Port: Thunderbolt Bridge
Device: bridge0
"""


def bus(receptacle: str, domain: str, *items: object) -> dict[str, object]:
    return {
        "device_name_key": "Mac Studio",
        "domain_uuid_key": domain,
        "receptacle_1_tag": {"receptacle_id_key": receptacle},
        "_items": list(items),
    }


PROFILE = {
    "SPThunderboltDataType": [
        bus("2", "D-2"),
        bus("1", "D-1", {"_name": "a hub", "_items": [{"domain_uuid_key": "E-1"}]}),
        bus("7", "D-7", {"domain_uuid_key": "E-7"}),  # of no interface
        {"_name": "a bus without a domain"},
    ]
}
ADDRESS = "en2: flags=8863<UP> mtu 1500\n\tinet6 fe80::1 prefixlen 64\n\tinet 169.254.7.1 netmask 0xffff0000\n"


def mac(**outputs: str | None) -> thunderbolt.Run:
    printed = {
        "ibv_devinfo": DEVINFO,
        "networksetup": HARDWARE,
        "system_profiler": json.dumps(PROFILE),
        "ifconfig": ADDRESS,
        **outputs,
    }

    def run(words: Sequence[str]) -> str | None:
        return printed[words[0]]

    return run


def test_ports_of_a_mac() -> None:
    assert thunderbolt.ports(mac()) == (
        Port("rdma_en2", "D-1", "E-1", active=True, has_address=True),
        Port("rdma_en3", "D-2", "", active=False, has_address=True),
    )
    without = thunderbolt.ports(mac(ifconfig="en2: flags=8863<UP>\n\tinet6 fe80::1 prefixlen 64\n"))
    assert [port.has_address for port in without] == [False, False]


@pytest.mark.parametrize(
    "odd",
    [
        {"ibv_devinfo": None},
        {"ibv_devinfo": "No IB devices found\n"},
        {"networksetup": None},
        {"system_profiler": "not JSON"},
        {"system_profiler": "[]"},
        {"system_profiler": '{"SPThunderboltDataType": [3]}'},
        {"system_profiler": None},
    ],
)
def test_what_says_nothing_is_no_port(odd: dict[str, str | None]) -> None:
    found = thunderbolt.ports(mac(**odd))
    assert found == ()
    with pytest.raises(ClusterError, match="needs RDMA over Thunderbolt 5"):
        thunderbolt.usable(found)


def port(device: str, domain: str, beyond: str, active: bool = True, has_address: bool = True) -> Port:
    return Port(device, domain, beyond, active, has_address)


THEIRS = (port("rdma_en4", "B-4", ""), port("rdma_en5", "B-5", "A-2"))


def test_the_cable_that_joins_two() -> None:
    ours = (port("rdma_en1", "A-1", "C-9"), port("rdma_en2", "A-2", "B-5"))
    assert thunderbolt.cable(THEIRS, ours) == (THEIRS[1], ours[1])
    one_sided = (port("rdma_en2", "A-2", ""),)  # one end says it, and that is enough
    assert thunderbolt.cable(THEIRS, one_sided) == (THEIRS[1], one_sided[0])


def test_of_two_cables_the_one_that_carries_rdma() -> None:
    theirs = (port("rdma_en4", "B-4", "A-1", active=False), port("rdma_en5", "B-5", "A-2"))
    ours = (port("rdma_en1", "A-1", "B-4"), port("rdma_en2", "A-2", "B-5"))
    assert thunderbolt.cable(theirs, ours) == (theirs[1], ours[1])


@pytest.mark.parametrize(
    ("ours", "sentence"),
    [
        ((), "no Thunderbolt cable leads from one Mac to the other"),
        ((port("rdma_en2", "A-3", "C-1"),), "no Thunderbolt cable"),
        (
            (port("rdma_en2", "A-2", "B-5", active=False),),
            "not active on the cable between them",
        ),
        ((port("rdma_en2", "A-2", "B-5", has_address=False),), "en2 has no IPv4 address.* sudo ifconfig en2 inet"),
    ],
)
def test_no_cable_is_one_sentence(ours: tuple[Port, ...], sentence: str) -> None:
    with pytest.raises(ClusterError, match=sentence.replace(" sudo", " `sudo")):
        thunderbolt.cable(THEIRS, ours)
