"""The `tcp` link under TLS 1.3, both sides with a certificate of the cluster's authority: encrypted and signed.

OpenSSL does the work (AES-GCM: 2-5 GB/s a core), a record of at most 16 KiB at a time. A frame's parts are joined as
far as they fit one record: a second record costs more than the copy.

Where activations may cross in the clear, both sides prove themselves by the same handshake, end the encryption in good
order (close_notify), and go on over the socket below. So certificates decide everywhere, and the cluster's secret,
which a member that was expelled still knows, opens nothing by itself.
"""

import contextlib
import socket
import ssl
import threading
import weakref
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from motley.cluster.link import Buffer, size_of
from motley.cluster.tcp_link import TcpLink
from motley.errors import ClusterError, LinkError

RECORD_BYTES = 16 << 10
EXCLUDED_VIOLATION = 48  # OpenSSL's X509_V_ERR_EXCLUDED_VIOLATION
EXPELLED = "it was expelled from this cluster"


class Tls:
    """What one member shows and demands, from PEM files: `accepting` for its listener, `calling` for its connections.
    Raises ClusterError where they are missing or don't belong together. `clear`: the handshake only is encrypted."""

    def __init__(self, authority: Path, certificate: Path, key: Path, *, clear: bool = False) -> None:
        self._files, self.clear = (authority, certificate, key), clear
        self._refused: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._links: weakref.WeakSet[ProvenLink] = weakref.WeakSet()
        self._read()

    def accept(self, sock: socket.socket) -> "ProvenLink":
        return (ClearLink if self.clear else TlsLink)(sock, self, accepted=True)

    def call(self, sock: socket.socket) -> "ProvenLink":
        return (ClearLink if self.clear else TlsLink)(sock, self, accepted=False)

    def reload(self, refused: frozenset[str]) -> None:
        """The authority's certificate changed: it refuses members with these ids. Links to them are cut."""
        with self._lock:
            self._read()
            self._refused = refused
            cut = [link for link in self._links if link.member_id in refused]
        for link in cut:
            link.interrupt()

    def note(self, link: "ProvenLink") -> bool:
        """A link that is proven; whether its other side is still accepted, now that the handshake is over."""
        with self._lock:
            self._links.add(link)
            return link.member_id not in self._refused

    def _read(self) -> None:
        self.accepting, self.calling = (_context(side, *self._files) for side in (True, False))


def _context(accepts: bool, authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if accepts else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a certificate names a member, not an address: addresses change
    context.verify_mode = ssl.CERT_REQUIRED
    if accepts:
        context.num_tickets = 0  # no resumption: every connection shows its certificate
    try:
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ClusterError(f"the certificate in {certificate.parent} can't be used ({error}): join again") from None
    return context


class ProvenLink(TcpLink):
    """Ready after `handshake`, which either side does in its own time: then it is known whose certificate that is."""

    member_id = ""

    def __init__(self, sock: socket.socket, tls: Tls, *, accepted: bool) -> None:
        context = tls.accepting if accepted else tls.calling
        self._tls = tls
        self._secure = context.wrap_socket(
            sock, server_side=accepted, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        super().__init__(self._secure)

    def handshake(self, timeout_s: float) -> None:
        self._secure.settimeout(timeout_s)
        try:
            self._secure.do_handshake()
            self.member_id = _member_id(self._secure)
            if not self._tls.note(self):
                self._break(f"no link to {self.peer}: {EXPELLED}")
            self._proven()
        except (OSError, ValueError) as error:
            self._break(f"no encrypted link to {self.peer}: {_reason(error)}")

    @abstractmethod
    def _proven(self) -> None:
        """What comes after the handshake."""

    def interrupt(self) -> None:
        self._broken = self._broken or f"the link to {self.peer} was closed"
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # SSLSocket's own would go on in the clear


class ClearLink(ProvenLink):
    transport = "tcp"

    def _proven(self) -> None:
        """Waits for the other side's end of the encryption: who refuses our certificate says so instead."""
        self._secure.unwrap()
        self._sock = socket.socket(fileno=self._secure.detach())
        self._sock.setblocking(False)


class TlsLink(ProvenLink):
    transport = "tcp+tls"

    def _proven(self) -> None:
        self._secure.setblocking(False)

    def _push(self, parts: Sequence[Buffer]) -> int:
        first = parts[0]
        if size_of(first) < RECORD_BYTES and len(parts) > 1:
            joined, room = [], RECORD_BYTES
            for part in parts:
                joined.append(memoryview(part).cast("B")[:room])
                room -= joined[-1].nbytes
                if not room:
                    break
            first = b"".join(joined)
        try:
            return self._secure.send(first)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            raise BlockingIOError from None

    def _pull(self, room: memoryview) -> int:
        try:
            return self._secure.recv_into(room)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except ssl.SSLError as error:
            raise LinkError(f"the link to {self.peer} broke: {_reason(error)}") from None


def _member_id(sock: ssl.SSLSocket) -> str:
    """The DNS name of the other side's certificate (`authority.id_of`)."""
    names: Any = (sock.getpeercert() or {}).get("subjectAltName", ())
    return next((str(value) for kind, value in names if kind == "DNS"), "")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code == EXCLUDED_VIOLATION:
        return EXPELLED
    text = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
    told = {
        "CERTIFICATE_VERIFY_FAILED": "its certificate is not of this cluster",
        "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of its cluster",
        "TLSV1_ALERT_UNKNOWN_CA": "it does not accept this cluster's certificates",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept this machine's certificate: was it expelled?",
        "WRONG_VERSION_NUMBER": "it does not speak TLS: was it started with --trusted-lan?",
    }
    return told.get(text, text or type(error).__name__)
