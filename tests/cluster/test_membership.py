"""Membership over real Zenoh sessions on loopback, several in one process; deaths of processes are in test_local."""

import subprocess
import sys
import threading
import time

import msgspec
import pytest

from motley.cluster import membership
from motley.cluster.membership import Inventory, Membership, _endpoint
from motley.errors import ClusterError, UsageError


def inventory(name: str) -> Inventory:
    return Inventory("0", name, "127.0.0.1", 4000, ({"name": f"{name}/cpu", "memory_bytes": 1 << 40},), 7)


def test_nodes_come_tell_their_inventory_and_leave() -> None:
    joined: list[Inventory] = []
    left: list[str] = []
    with Membership("t1", "head", head=True, on_joined=joined.append, on_left=left.append) as head:
        with Membership("t1", "a", inventory("a"), peers=[head.endpoint]) as a:
            assert head.wait_for_nodes(["a"], 3)
            assert head.nodes() == {"a": inventory("a")}
            assert a.wait_for_head(3)
            assert a.heads() == {"head"}
            assert a.nodes() == {}  # the others, not itself
            with Membership("t1", "b", inventory("b"), peers=[head.endpoint]):
                assert head.wait_for_nodes(["a", "b"], 3)
                assert a.wait_for_nodes(["b"], 3)  # nodes meet through the head
        deadline = time.monotonic() + 3
        while len(left) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert head.nodes() == {}
    assert [i.name for i in joined] == ["a", "b"]
    assert left == ["b", "a"]


def test_a_node_sees_its_head_go() -> None:
    gone: list[str] = []
    head = Membership("t2", "boss", head=True)
    with Membership("t2", "a", inventory("a"), peers=[head.endpoint], on_head_gone=gone.append) as a:
        assert a.wait_for_head(3)
        assert not a.wait_head_gone(0.05)
        head.close()
        assert a.wait_head_gone(10)
        assert not a.heads()
    assert gone == ["boss"]


def test_clusters_do_not_see_each_other() -> None:
    with (
        Membership("t3", "head", head=True) as head,
        Membership("t4", "a", inventory("a"), peers=[head.endpoint]) as a,
    ):
        assert not head.wait_for_nodes(["a"], 0.3)
        assert not a.heads()


def test_the_elder_keeps_its_name() -> None:
    taken = threading.Event()
    with Membership("t5", "head", head=True) as head:
        elder = Membership("t5", "a", inventory("a"), peers=[head.endpoint])
        assert head.wait_for_nodes(["a"], 3)
        other = msgspec.structs.replace(inventory("a"), port=9)
        younger = Membership("t5", "a", other, peers=[head.endpoint], on_name_taken=taken.set)
        assert taken.wait(3)
        younger.close()
        time.sleep(0.2)
        assert head.nodes() == {"a": inventory("a")}
        elder.close()


@pytest.mark.parametrize("last", ["", "raise SystemExit(3)", "1 / 0"])
def test_a_session_left_open_does_not_hang_the_exit(last: str) -> None:
    code = (
        f"from motley.cluster.membership import Membership; m = Membership('t8', 'h', head=True, on_left=print); {last}"
    )
    subprocess.run([sys.executable, "-c", code], timeout=10, stderr=subprocess.DEVNULL, check=False)


def test_nobody_at_the_peers_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "CONNECT_S", 0.5)
    with pytest.raises(ClusterError, match=r"no member of a cluster answers at 127.0.0.1:9"):
        Membership("t6", "a", inventory("a"), peers=["127.0.0.1:9"])


@pytest.mark.parametrize("name", ["", "a/b", "*", "a b", "-a", "x" * 65, "ä"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        Membership("t7", name)


@pytest.mark.parametrize(
    ("peer", "endpoint"),
    [
        ("box", "tcp/box:7447"),
        ("10.0.0.1:80", "tcp/10.0.0.1:80"),
        ("[::1]:80", "tcp/[::1]:80"),
        ("::1", "tcp/[::1]:7447"),
    ],
)
def test_peer_addresses(peer: str, endpoint: str) -> None:
    assert _endpoint(peer) == endpoint


@pytest.mark.parametrize("peer", ["", "box:99999", "a/b:1", "box:1#x=y"])
def test_bad_peer_addresses(peer: str) -> None:
    with pytest.raises(UsageError, match="--peer"):
        _endpoint(peer)
