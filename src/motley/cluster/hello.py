"""Who may use a link: both ends prove that they know the cluster's token before anything else is read.

The token never travels. Caller: cluster, its name and a nonce; acceptor: its name, its own nonce and an HMAC-SHA256
over all of it; caller: the same under another label, so that neither proof can be played back to its author. Until
then frames are small and the whole exchange has one deadline. The frames that follow are neither encrypted nor signed
unless TLS lies below (`tls_link`), as it does wherever links leave the machine.
"""

import hashlib
import hmac
import secrets
import time
from typing import NoReturn, TypeVar

import msgspec

from motley.cluster.link import Frame, Link
from motley.cluster.tcp_link import TcpLink, connect
from motley.cluster.tls_link import Tls
from motley.errors import ClusterError, LinkError

HELLO, CHALLENGE, PROOF, WELCOME, REFUSED = 1, 2, 3, 4, 5
GREETING_BYTES = 1024
NONCE_BYTES = 32

M = TypeVar("M", bound=msgspec.Struct)


class Hello(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    cluster: str
    name: str
    nonce: bytes


class Challenge(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    name: str
    nonce: bytes
    proof: bytes


def new_token() -> str:
    """256 random bits, printable."""
    return secrets.token_urlsafe(32)


def call(
    host: str,
    port: int,
    *,
    cluster: str,
    name: str,
    token: str,
    tls: Tls | None = None,
    timeout_s: float = 5.0,
    spin_us: float | None = None,
) -> TcpLink:
    """A link to the member that listens there, greeted and ready; the caller closes it. `tls`: encrypted."""
    link = connect(host, port, timeout_s, spin_us=spin_us, wrap=tls.call if tls else None)
    try:
        greet(link, cluster, name, token, timeout_s)
    except BaseException:
        link.close()
        raise
    return link


def greet(link: Link, cluster: str, name: str, token: str, timeout_s: float = 5.0) -> None:
    """The caller's side. Fills in `link.peer`. Raises LinkError, or ClusterError if the other side refuses."""
    deadline, full_size = time.monotonic() + timeout_s, link.max_payload
    link.max_payload = GREETING_BYTES
    hello = Hello(cluster, name, secrets.token_bytes(NONCE_BYTES))
    _send(link, HELLO, hello)
    challenge = _decode(_expect(link, CHALLENGE, deadline), Challenge)
    if not hmac.compare_digest(challenge.proof, _proof(token, b"acceptor", hello, challenge)):
        raise ClusterError(f"{link.peer} does not know the token of cluster {cluster}: it is not one of its nodes")
    link.send(PROOF, 0, [_proof(token, b"caller", hello, challenge)])
    _expect(link, WELCOME, deadline)
    link.peer, link.max_payload = challenge.name, full_size


def admit(link: Link, cluster: str, name: str, token: str, timeout_s: float = 5.0) -> None:
    """The acceptor's side. Raises LinkError or ClusterError for who must not come in; the caller closes the link."""
    deadline, full_size = time.monotonic() + timeout_s, link.max_payload
    link.max_payload = GREETING_BYTES
    hello = _decode(_expect(link, HELLO, deadline), Hello)
    if hello.cluster != cluster or len(hello.nonce) != NONCE_BYTES:
        _refuse(link, f"this node belongs to cluster {cluster}, not {hello.cluster[:80]!r}")
    challenge = Challenge(name, secrets.token_bytes(NONCE_BYTES), b"")
    challenge.proof = _proof(token, b"acceptor", hello, challenge)
    _send(link, CHALLENGE, challenge)
    proof = bytes(_expect(link, PROOF, deadline).payload)
    if not hmac.compare_digest(proof, _proof(token, b"caller", hello, challenge)):
        _refuse(link, f"wrong token for cluster {cluster}")
    link.send(WELCOME, 0, [])
    link.peer, link.max_payload = hello.name, full_size


def _proof(token: str, label: bytes, hello: Hello, challenge: Challenge) -> bytes:
    said = msgspec.msgpack.encode((label, hello.cluster, hello.name, hello.nonce, challenge.name, challenge.nonce))
    return hmac.digest(token.encode(), said, hashlib.sha256)


def _send(link: Link, kind: int, message: msgspec.Struct) -> None:
    link.send(kind, 0, [msgspec.msgpack.encode(message)])


def _refuse(link: Link, sentence: str) -> NoReturn:
    link.send(REFUSED, 0, [sentence.encode()])
    raise ClusterError(f"refused {link.peer}: {sentence}")


def _expect(link: Link, kind: int, deadline: float) -> Frame:
    frame = link.receive(max(0.0, deadline - time.monotonic()))
    if frame.kind == REFUSED and kind in (CHALLENGE, WELCOME):  # strangers who call have nothing to refuse
        said = str(frame.payload[:300], "utf-8", "replace")
        raise ClusterError(f"{link.peer} refused the connection: {''.join(c for c in said if c.isprintable())}")
    if frame.kind != kind:
        raise LinkError(f"malformed greeting from {link.peer}: frame kind {frame.kind} where {kind} was expected")
    return frame


def _decode(frame: Frame, kind: type[M]) -> M:
    try:
        return msgspec.msgpack.decode(frame.payload, type=kind)
    except msgspec.DecodeError as error:
        raise LinkError(f"malformed greeting: {error}") from None
