"""Joining: a machine with a token gets a certificate from the authority's node; everybody else gets nothing.

The joiner connects by TLS 1.3 and reads the authority's certificate: its fingerprint must be the token's, and the
connection's own certificate must be signed by it, so nobody in between can pose as the head. Then it proves its token
by an HMAC over the server's fresh nonce, its request and the server's certificate (a recorded join is useless), and
receives its certificate. Before that the server reads at most 16 KiB, in at most 10 s, from at most 16 at a time.
"""

import contextlib
import hashlib
import hmac
import logging
import secrets
import socket
import ssl
import struct
import threading
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from motley import __version__
from motley.cluster.alone import alone
from motley.cluster.authority import certificate_pem, fingerprint, id_of, is_issued_by, key_pem, new_request
from motley.cluster.identity import JOIN_PORT, Identity, Member
from motley.cluster.membership import check_name
from motley.cluster.tokens import Token
from motley.errors import ClusterError, MotleyError

log = logging.getLogger("motley.joining")

MOST_BYTES = 16 << 10
PATIENCE_S = 10.0
MOST_AT_ONCE = 16

M = TypeVar("M", bound=msgspec.Struct)


class Offer(msgspec.Struct, forbid_unknown_fields=True):
    """The server's first words."""

    version: str
    cluster: str
    authority: bytes  # PEM
    nonce: bytes


class Request(msgspec.Struct, forbid_unknown_fields=True):
    version: str
    token_id: str
    name: str
    request: bytes  # certificate signing request, PEM
    proof: bytes


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    refused: str = ""  # why; then the rest is empty
    certificate: bytes = b""
    secret: str = ""
    control: str = ""


def join(token: Token, name: str, clusters: Path, timeout_s: float = PATIENCE_S) -> Identity:
    """The joiner's side. Raises ClusterError in one sentence; nothing is stored unless all went well."""
    try:
        with socket.create_connection((token.host, token.port), timeout_s) as plain:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the fingerprint decides, below
            with context.wrap_socket(plain) as sock:
                return _join(sock, token, check_name(name, "node"), clusters)
    except (OSError, ssl.SSLError, EOFError, msgspec.DecodeError, ValueError) as error:
        raise ClusterError(
            f"could not join at {token.host}:{token.port}: {error}; does `motley node` run on that machine, and can "
            "this one reach it?"
        ) from None


def _join(sock: ssl.SSLSocket, token: Token, name: str, clusters: Path) -> Identity:
    offer = _receive(sock, Offer)
    served = sock.getpeercert(binary_form=True) or b""
    authority = x509.load_pem_x509_certificate(offer.authority)
    if not hmac.compare_digest(bytes.fromhex(fingerprint(authority)), token.fingerprint) or not is_issued_by(
        x509.load_der_x509_certificate(served), authority
    ):
        raise ClusterError(
            f"{token.host}:{token.port} is not the cluster that made this token: was the cluster made anew? "
            "`motley cluster token` prints a new command"
        )
    if offer.version != __version__:
        raise ClusterError(
            f"this machine runs Motley {__version__}, cluster {offer.cluster} {offer.version}: install the same on both"
        )
    key, request = new_request(name)
    pem = request.public_bytes(Encoding.PEM)
    proof = _proof(token.proof_key, offer.nonce, served, name, pem)
    _send(sock, Request(__version__, token.id, name, pem, proof))
    answer = _receive(sock, Answer)
    if answer.refused:
        raise ClusterError(f"{token.host} refused: {answer.refused}")
    member = Member(offer.cluster, name, sock.getsockname()[0], answer.secret, answer.control)
    return Identity.store(clusters, member, offer.authority, answer.certificate, key_pem(key))


class JoinServer:
    """Answers joiners on the authority's machine until `close`, in threads of its own."""

    def __init__(self, identity: Identity, host: str, port: int = JOIN_PORT) -> None:
        self._identity = identity
        self._certificate = x509.load_pem_x509_certificate((identity.folder / "node.pem").read_bytes())
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.num_tickets = 0
        self._context.load_cert_chain(identity.folder / "node.pem", identity.folder / "node.key")
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._sock = socket.create_server((host, port), family=family)
        except OSError as error:
            raise ClusterError(
                f"cannot listen for joining machines on {host}:{port}: {error}; does another `motley node` run here?"
            ) from None
        self.port: int = self._sock.getsockname()[1]
        self._room = threading.BoundedSemaphore(MOST_AT_ONCE)
        threading.Thread(target=self._accept, name="joining", daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # macOS refuses it on listeners; there closing wakes `accept`
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _accept(self) -> None:
        while True:
            self._room.acquire()
            try:
                sock, (address, *_) = self._sock.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(sock, address), name="joiner", daemon=True).start()

    def _serve(self, plain: socket.socket, address: str) -> None:
        plain.settimeout(PATIENCE_S)
        try:
            sock = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        except OSError:  # it left already
            plain.close()
            self._room.release()
            return
        ending = threading.Timer(PATIENCE_S, _cut, (sock,))  # of the whole talk: a timeout alone starts with every byte
        ending.daemon = True
        ending.start()
        try:
            sock.do_handshake()
            self._answer(sock, address)
        except (OSError, EOFError, ValueError, msgspec.DecodeError) as error:
            log.debug("%s: %s", address, error)  # came and went, or spoke something else
        finally:
            ending.cancel()
            sock.close()
            self._room.release()

    def _answer(self, sock: ssl.SSLSocket, address: str) -> None:
        nonce = secrets.token_bytes(32)
        member, authority = self._identity.member, self._identity.authority.certificate  # of now: it is made anew
        _send(sock, Offer(__version__, member.cluster, certificate_pem(authority), nonce))
        asked = _receive(sock, Request)
        try:
            certificate = self._admit(asked, nonce)
        except MotleyError as error:
            log.warning("refused %s (%s): %s", asked.name[:64], address, error)
            _send(sock, Answer(refused=str(error)))
            return
        log.info("%s joined from %s", asked.name, address)
        _send(sock, Answer("", certificate_pem(certificate), member.secret, member.control))

    def _admit(self, asked: Request, nonce: bytes) -> x509.Certificate:
        with alone(self._identity.folder):  # `motley cluster` writes the same lists
            issued = self._identity.tokens.valid(asked.token_id)
            served = self._certificate.public_bytes(Encoding.DER)
            key = issued.key if issued else bytes(32)
            proven = hmac.compare_digest(asked.proof, _proof(key, nonce, served, asked.name, asked.request))
            if not (issued and proven):
                raise ClusterError("the token is unknown, expired or revoked: `motley cluster token` makes another")
            if asked.version != __version__:
                raise ClusterError(f"it runs Motley {asked.version[:20]}, this cluster {__version__}: install the same")
            if check_name(asked.name, "node") == self._identity.member.name:
                raise ClusterError(
                    f"the name {asked.name} is taken by the machine that made the cluster: choose a --name"
                )
            certificate = self._identity.authority.issue(x509.load_pem_x509_csr(asked.request), asked.name)
            self._identity.members.note(asked.name, id_of(certificate))
            self._identity.tokens.note_joined(asked.token_id, asked.name)
            return certificate


def _proof(key: bytes, nonce: bytes, served: bytes, name: str, request: bytes) -> bytes:
    said = msgspec.msgpack.encode((b"join", nonce, hashlib.sha256(served).digest(), name, request))
    return hmac.digest(key, said, hashlib.sha256)


def _send(sock: ssl.SSLSocket, message: msgspec.Struct) -> None:
    body = msgspec.msgpack.encode(message)
    sock.sendall(struct.pack("<I", len(body)) + body)


def _receive(sock: ssl.SSLSocket, kind: type[M]) -> M:
    (size,) = struct.unpack("<I", _exactly(sock, 4))
    if size > MOST_BYTES:
        raise ValueError(f"a message of {size} bytes, at most {MOST_BYTES} are read")
    return msgspec.msgpack.decode(_exactly(sock, size), type=kind)


def _exactly(sock: ssl.SSLSocket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        if not (piece := sock.recv(size - len(data))):
            raise EOFError("the other side ended the connection")
        data += piece
    return bytes(data)


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is gone already
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # an SSLSocket's own would go on in the clear
