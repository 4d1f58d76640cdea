"""A machine joins by a token and by nothing else: real sockets, real certificates, what an attacker would try."""

import os
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cluster.door import HOST, Echo, door, head, token_for
from motley.cluster import joining
from motley.cluster.access import Access
from motley.cluster.hello import call
from motley.cluster.identity import Identity, init
from motley.cluster.joining import JoinServer, Offer, Request, join
from motley.cluster.remote import ask
from motley.cluster.server import Server
from motley.cluster.tls_link import Tls, TlsLink
from motley.cluster.tokens import Token
from motley.errors import ClusterError, LinkError, UsageError

__all__ = ["door", "head"]  # fixtures


@pytest.fixture
def member(head: Identity, door: JoinServer, tmp_path: Path) -> Identity:
    return join(token_for(head, door), "second", tmp_path / "second")


@pytest.fixture
def service(head: Identity) -> Iterator[Server]:
    access = Access.of(head)
    server = Server(access.listen(), Echo(), cluster="home", name="head", token=access.token)  # type: ignore[arg-type]
    yield server
    server.close()


def reach(identity: Identity, service: Server, tls: Tls | None) -> dict[str, object]:
    link = call(HOST, service.listener.port, cluster="home", name="x", token=identity.member.secret, tls=tls)
    try:
        assert isinstance(link, TlsLink)
        return ask(link, "hello")
    finally:
        link.close()


def test_token_survives_being_written_down() -> None:
    token = Token("192.0.2.7", 7446, bytes(range(32)), "0a1b2c3d", b"s" * 32)
    assert Token.from_text(f"  {token.to_text()}\n") == token


@pytest.mark.parametrize("text", ["", "motley1-", "motley1-abc", "hello", "motley1-" + "A" * 500])
def test_cut_token_is_said_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="no token") as caught:
        Token.from_text(text)
    assert len(text) < 9 or text not in str(caught.value)


def test_joined_member_talks_to_the_head(member: Identity, head: Identity, service: Server) -> None:
    assert member.member.cluster == "home"
    assert member.member.secret == head.member.secret
    assert reach(member, service, member.tls()) == {"what": "hello"}
    assert head.tokens.issued()[0].joined == ("second",)


def test_secrets_are_the_owners_only(head: Identity, member: Identity) -> None:
    for folder, names in ((head.folder, ["ca.key", "node.key", "member.json"]), (member.folder, ["node.key"])):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        for name in names:
            assert stat.S_IMODE(os.stat(folder / name).st_mode) == 0o600, name


def test_expired_token(head: Identity, door: JoinServer, tmp_path: Path) -> None:
    token = token_for(head, door, valid_s=0.01)
    time.sleep(0.02)
    with pytest.raises(ClusterError, match="expired or revoked"):
        join(token, "late", tmp_path / "late")
    assert not (tmp_path / "late").exists()


def test_revoked_token(head: Identity, door: JoinServer, tmp_path: Path) -> None:
    token = token_for(head, door)
    head.tokens.revoke(token.id)
    with pytest.raises(ClusterError, match="expired or revoked"):
        join(token, "late", tmp_path / "late")
    with pytest.raises(UsageError, match="no token"):
        head.tokens.revoke("nothing")


def test_wrong_secret(head: Identity, door: JoinServer, tmp_path: Path) -> None:
    token = msgspec.structs.replace(token_for(head, door), secret=b"guess" * 6)
    with pytest.raises(ClusterError, match="unknown, expired or revoked"):
        join(token, "guesser", tmp_path / "guesser")


def test_head_of_another_cluster_is_not_trusted(head: Identity, tmp_path: Path) -> None:
    """Somebody in between with a certificate of their own making."""
    other = init(tmp_path / "other", "home", "head", HOST)
    impostor = JoinServer(other, HOST, 0)
    try:
        with pytest.raises(ClusterError, match="not the cluster that made this token"):
            join(token_for(head, impostor), "careful", tmp_path / "careful")
    finally:
        impostor.close()
    assert other.tokens.issued() == []


def test_name_of_the_head_is_taken(head: Identity, door: JoinServer, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="choose a --name"):
        join(token_for(head, door), "head", tmp_path / "twin")


def test_other_version(head: Identity, door: JoinServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = token_for(head, door)
    monkeypatch.setattr(joining, "__version__", "9.9")
    with pytest.raises(ClusterError, match=r"runs Motley 9\.9|install the same"):
        join_from_the_past(token)


def join_from_the_past(token: Token) -> None:
    """The server says 9.9 now, too: a joiner of its own that says otherwise."""
    with connected(token.port) as sock:
        offer = joining._receive(sock, Offer)
        joining._send(sock, Request("0.0.1", token.id, "old", b"", b""))
        answer = joining._receive(sock, joining.Answer)
    assert offer.version == "9.9"
    raise ClusterError(answer.refused + " install the same")


def connected(port: int) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection((HOST, port), 5))


def test_recorded_join_is_useless(
    head: Identity, door: JoinServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever could read a whole join, inside its encryption, and say it again."""
    said: list[Request] = []
    send = joining._send
    monkeypatch.setattr(joining, "_send", lambda sock, m: (said.append(m), send(sock, m)))
    token = token_for(head, door)
    join(token, "first", tmp_path / "first")
    recorded = next(m for m in said if isinstance(m, Request))
    with connected(door.port) as sock:
        joining._receive(sock, Offer)
        send(sock, recorded)
        answer = joining._receive(sock, joining.Answer)
    assert "unknown, expired or revoked" in answer.refused
    assert answer.certificate == b""


def test_links_without_a_certificate(member: Identity, service: Server) -> None:
    """Plain TCP with the right secret, and TLS with no certificate."""
    with pytest.raises(LinkError):
        reach(member, service, None)
    assert not answers_without_certificate(service.listener.port)
    assert reach(member, service, member.tls()) == {"what": "hello"}


def answers_without_certificate(port: int) -> bool:
    try:
        with connected(port) as sock:
            sock.sendall(b"MTLY" + bytes(20))
            return bool(sock.recv(100))
    except OSError:
        return False


def test_links_with_the_certificate_of_another_cluster(member: Identity, service: Server, tmp_path: Path) -> None:
    other = init(tmp_path / "other", "home", "second", HOST)
    with pytest.raises(LinkError, match="certificate"):
        reach(member, service, other.tls())
    mixed = Tls(member.folder / "ca.pem", other.folder / "node.pem", other.folder / "node.key")
    with pytest.raises(LinkError):
        reach(member, service, mixed)


def test_right_certificate_and_wrong_secret(member: Identity, service: Server) -> None:
    with pytest.raises(ClusterError):
        call(HOST, service.listener.port, cluster="home", name="x", token="wrong", tls=member.tls())


def test_large_frames_cross_whole(member: Identity, head: Identity) -> None:
    from motley.cluster.remote import measure

    access = Access.of(head)
    server = Server(access.listen(), Echo(), cluster="home", name="head", token=access.token)  # type: ignore[arg-type]
    secret, tls = access.token, Access.of(member).tls
    link = call(HOST, server.listener.port, cluster="home", name="member", token=secret, tls=tls)
    try:
        speed = measure(link, pings=50, bulk=3)  # checks every byte; 16 KiB and 8 MiB
    finally:
        link.close()
        server.close()
    assert speed.transport == "tcp+tls"


def test_control_plane_keeps_strangers_out(
    head: Identity, member: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from motley.cluster import membership
    from motley.cluster.membership import Inventory, Membership

    tls = head.zenoh_settings()
    with Membership("home", "head", Inventory("0", "head", HOST, 1), tls=tls) as seat:
        with Membership("home", "second", peers=[seat.endpoint], tls=member.zenoh_settings()) as second:
            assert second.wait_for_nodes(["head"], 5)
        stranger = init(tmp_path / "other", "home", "second", HOST)
        monkeypatch.setattr(membership, "CONNECT_S", 1.0)
        for settings in (stranger.zenoh_settings(), None):
            with pytest.raises(ClusterError, match="no member of a cluster answers"):
                Membership("home", "third", peers=[seat.endpoint], tls=settings)


def test_strangers_at_the_door_are_let_go(door: JoinServer, head: Identity, tmp_path: Path) -> None:
    """Garbage, silence and endless messages, more of them than are served at once; then a real machine joins."""
    for i in range(3 * joining.MOST_AT_ONCE):
        with socket.create_connection((HOST, door.port), 5) as sock:
            sock.sendall([b"", b"GET / HTTP/1.0\r\n\r\n", os.urandom(300)][i % 3])
    for size in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x10\x00\x00\x00" + bytes(16)):
        with connected(door.port) as sock:
            joining._receive(sock, Offer)
            sock.sendall(size)
            with pytest.raises(EOFError):
                joining._receive(sock, joining.Answer)
    assert join(token_for(head, door), "patient", tmp_path / "patient").member.name == "patient"
