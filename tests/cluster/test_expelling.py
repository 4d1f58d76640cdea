"""One member is shut out: by the authority only, at every port, for all who are there and all who come later."""

import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from cluster.door import HOST, Echo, door, head, token_for
from motley.cluster import membership
from motley.cluster.access import Access
from motley.cluster.authority import Authority, certificate_pem, id_of, is_newer, refused_by
from motley.cluster.choice import Choice
from motley.cluster.hello import call
from motley.cluster.identity import Identity
from motley.cluster.joining import JoinServer, join
from motley.cluster.link import Link
from motley.cluster.members import expel
from motley.cluster.membership import Inventory, Membership
from motley.cluster.neighbour import possible
from motley.cluster.remote import ask
from motley.cluster.server import Server
from motley.errors import ClusterError, LinkError, UsageError

__all__ = ["door", "head"]  # fixtures


@pytest.fixture
def b(head: Identity, door: JoinServer, tmp_path: Path) -> Identity:
    return join(token_for(head, door), "b", tmp_path / "b")


@pytest.fixture
def c(head: Identity, door: JoinServer, tmp_path: Path) -> Identity:
    return join(token_for(head, door), "c", tmp_path / "c")


def authority_of(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate((identity.folder / "ca.pem").read_bytes())


def told(by: Identity, *others: Access) -> None:
    for other in others:
        assert other.trust
        assert other.trust.adopt((by.folder / "ca.pem").read_bytes())


# -- the list


def test_the_list_grows_and_says_whom(head: Identity, b: Identity, c: Identity) -> None:
    first = authority_of(head)
    assert refused_by(first) == frozenset()
    expel(head, "b")
    second = authority_of(head)
    expel(head, "c")
    third = authority_of(head)
    ids = [id_of(x509.load_pem_x509_certificate((x.folder / "node.pem").read_bytes())) for x in (b, c)]
    assert refused_by(second) == {ids[0]}
    assert refused_by(third) == set(ids)
    assert is_newer(third, second)
    assert is_newer(second, first)
    assert not is_newer(first, third)
    assert not is_newer(third, third)
    assert len(certificate_pem(third)) - len(certificate_pem(second)) < 60  # bytes for each that was expelled
    for name in ("ca.pem", "members.json"):
        assert stat.S_IMODE((head.folder / name).stat().st_mode) == 0o600


def test_only_the_authority_expels(head: Identity, b: Identity, c: Identity) -> None:
    with pytest.raises(UsageError, match="decided where it was made"):
        expel(b, "c")
    forger = Authority.create("home")  # the same name and a higher number, another key
    before = authority_of(head)
    access = Access.of(c)
    assert access.trust
    for made in (forger.certificate, forger.without(["x.motley"]).without(["y.motley"]).certificate):
        assert made.subject == before.subject
        assert not access.trust.adopt(certificate_pem(made))
    mixed = Authority(before, forger.key).without(["x.motley"]).certificate  # signed by whom it does not name
    for junk in (certificate_pem(mixed), b"", b"-----BEGIN CERTIFICATE-----", bytes(2 << 20)):
        assert not access.trust.adopt(junk)
    assert authority_of(c) == before


@pytest.mark.parametrize(("name", "said"), [("head", "made the cluster"), ("d", "no member 'd' joined here: b, c")])
def test_whom_it_does_not_expel(head: Identity, b: Identity, c: Identity, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        expel(head, name)


def test_nobody_is_expelled_twice(head: Identity, b: Identity, c: Identity) -> None:
    expel(head, "b")
    with pytest.raises(UsageError, match="no member 'b' joined here: c"):
        expel(head, "b")


def test_an_older_list_counts_no_more(head: Identity, b: Identity) -> None:
    old = (head.folder / "ca.pem").read_bytes()
    expel(head, "b")
    access = Access.of(head)
    assert access.trust
    assert not access.trust.adopt(old)
    assert refused_by(authority_of(head))


# -- the ports


def serving(access: Access) -> Server:
    handler: object = Echo()
    return Server(access.listen(), handler, cluster="home", name=access.name, token=access.token)  # type: ignore[arg-type]


def reached(access: Access, port: int) -> Link:
    link = call(HOST, port, cluster="home", name=access.name, token=access.token, tls=access.tls)
    assert ask(link, "hello") == {"what": "hello"}
    return link


@pytest.mark.parametrize("trusted_lan", [False, True])
def test_data_links(head: Identity, b: Identity, c: Identity, trusted_lan: bool) -> None:
    """New ones are refused by both sides, present ones cut, those of the others go on; the secret alone does not help:
    every call here knows it."""
    ours, theirs, others = (Access.of(x, trusted_lan=trusted_lan) for x in (head, b, c))
    here, there = serving(ours), serving(theirs)
    try:
        present, calling, untouched = (
            reached(theirs, here.listener.port),
            reached(ours, there.listener.port),
            reached(others, here.listener.port),
        )
        assert present.transport == ("tcp" if trusted_lan else "tcp+tls")
        expel(head, "b")
        told(head, ours, others)
        for link in (present, calling):
            with pytest.raises(LinkError):
                ask(link, "still here?")
            link.close()
        with pytest.raises(LinkError):  # it may say why, or just close
            reached(theirs, here.listener.port)
        with pytest.raises(LinkError, match="expelled"):
            reached(ours, there.listener.port)
        assert ask(untouched, "there?") == {"what": "there?"}
        untouched.close()
        reached(others, here.listener.port).close()
    finally:
        here.close()
        there.close()


def test_trusted_lan_takes_a_certificate(head: Identity) -> None:
    """Plain TCP with the right secret, as a member that was expelled could try."""
    access = Access.of(head, trusted_lan=True)
    server = serving(access)
    try:
        with pytest.raises(LinkError):
            call(HOST, server.listener.port, cluster="home", name="b", token=access.token)
    finally:
        server.close()


@pytest.mark.skipif(not possible(), reason="memory can be shared on Linux only")
def test_shared_memory_is_given_up(head: Identity, b: Identity) -> None:
    ours, theirs = Access.of(head), Access.of(b)
    server = serving(ours)
    try:
        link = Choice().connect((HOST, server.listener.port), lambda: reached(theirs, server.listener.port))  # type: ignore[arg-type, return-value]
        assert ask(link, "hello") == {"what": "hello"}
        expel(head, "b")
        told(head, ours)
        with pytest.raises(LinkError):
            ask(link, "still here?")
        link.close()
    finally:
        server.close()


def test_who_joined_with_the_same_token_is_named(head: Identity, door: JoinServer, tmp_path: Path) -> None:
    """It may be the same machine under another name, whose certificate still holds."""
    token = token_for(head, door)
    for name in ("b", "b2"):
        join(token, name, tmp_path / name)
    join(token_for(head, door), "c", tmp_path / "c")
    assert expel(head, "b") == (2, ["b2"])
    assert expel(head, "b2") == (0, [])


def test_the_joining_port(head: Identity, door: JoinServer, tmp_path: Path) -> None:
    """With its old token nothing; with a new one it is a member again, whose old certificate is refused as before."""
    token = token_for(head, door)
    b = join(token, "b", tmp_path / "b")
    old = tmp_path / "old"
    b.folder.rename(old)
    assert expel(head, "b") == (1, [])
    with pytest.raises(ClusterError, match="revoked"):
        join(token, "b", tmp_path / "b")
    again = join(token_for(head, door), "b", tmp_path / "b")
    server = serving(Access.of(head))
    try:
        reached(Access.of(again), server.listener.port).close()
        with pytest.raises(LinkError):
            reached(Access.of(Identity(old, b.member)), server.listener.port)
    finally:
        server.close()
    told(head, Access.of(Identity(old, b.member)))
    with pytest.raises(ClusterError, match="b was expelled from cluster home"):
        Access.of(Identity(old, b.member))


# -- the control plane


class Seats:
    """Memberships at addresses of their own, all with the first as their peer."""

    def __init__(self) -> None:
        self.open: dict[str, Membership] = {}
        self.left: list[str] = []
        self.expelled = threading.Event()

    def take(self, identity: Identity, peers: list[str], **callbacks: Callable[..., None]) -> Membership:
        name, access = identity.member.name, Access.of(identity)
        told = Inventory("0", name, HOST, 1)
        tls = access.control_tls
        seat = Membership("home", name, told, peers=peers, tls=tls, trust=access.trust, **callbacks)  # type: ignore[arg-type]
        self.open[name] = seat
        return seat


@pytest.fixture
def seats() -> Iterator[Seats]:
    found = Seats()
    yield found
    for seat in reversed(found.open.values()):
        seat.close()


def until(met: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_control_plane(
    head: Identity, b: Identity, c: Identity, seats: Seats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told, open their sessions anew without missing each other, and the one is out; who was away learns."""
    monkeypatch.setattr(membership, "CONNECT_S", 1.0)
    monkeypatch.setattr(membership, "GRACE_S", 3.0)
    first = seats.take(head, [], on_left=seats.left.append)
    away = seats.take(c, [first.endpoint])
    assert first.wait_for_nodes(["c"], 5)
    away.close()
    until(lambda: not first.nodes())
    seats.take(b, [first.endpoint], on_expelled=seats.expelled.set)
    assert first.wait_for_nodes(["b"], 5)
    seats.left.clear()

    expel(head, "b")
    assert first._trust
    with Membership(
        "home", "onlooker", peers=[first.endpoint], tls=head.zenoh_settings(), trust=Access.of(head).trust
    ) as onlooker:
        assert onlooker.wait_for_nodes(["head"], 5)
        onlooker.spread()
        assert seats.expelled.wait(10)
        until(lambda: not onlooker.unaware())
    until(lambda: "b" not in first.nodes())
    assert seats.left == ["b"]
    seats.open.pop("b").close()
    with pytest.raises(ClusterError, match="no member of a cluster answers"):
        Membership("home", "b", peers=[first.endpoint], tls=b.zenoh_settings())

    number = first._trust.number
    known = Access.of(c).trust
    assert known
    assert known.number < number
    with monkeypatch.context() as slow:  # it hears of the expulsion while it still announces itself
        answer = Membership._answer
        slow.setattr(Membership, "_answer", lambda self, *said: (time.sleep(0.5), answer(self, *said)))
        back = seats.take(c, [first.endpoint])
    assert back._trust
    until(lambda: back._trust.number == number)
    assert authority_of(c) == authority_of(head)
    until(lambda: "c" in first.nodes() and "head" in back.nodes())


def test_others_do_not_miss_each_other(head: Identity, b: Identity, c: Identity, seats: Seats) -> None:
    first = seats.take(head, [], on_left=seats.left.append)
    second = seats.take(c, [first.endpoint], on_left=seats.left.append)
    assert second.wait_for_nodes(["head"], 5)
    expel(head, "b")
    told(head, Access.of(c))
    seats.left.clear()
    first._events.put((head.folder / "ca.pem").read_bytes())
    first.spread()
    numbers = {authority_of(head).serial_number}
    until(lambda: {x._seated for x in (first, second)} == numbers)
    until(lambda: not (first._away or second._away))
    assert seats.left == []
    assert first.nodes().keys() == {"c"}
    assert second.nodes().keys() == {"head"}
