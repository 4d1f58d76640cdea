"""The `tcp` link under TLS 1.3, both sides with a certificate of the cluster's authority: encrypted and signed.

OpenSSL does the work (AES-GCM: 2-5 GB/s a core), a record of at most 16 KiB at a time. A frame's parts are joined as
far as they fit one record: a second record costs more than the copy.
"""

import contextlib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from motley.cluster.link import Buffer, size_of
from motley.cluster.tcp_link import TcpLink
from motley.errors import ClusterError, LinkError

RECORD_BYTES = 16 << 10


@dataclass(frozen=True)
class Tls:
    """What one member shows and demands: `accepting` for its listener, `calling` for its connections."""

    accepting: ssl.SSLContext
    calling: ssl.SSLContext

    @classmethod
    def load(cls, authority: Path, certificate: Path, key: Path) -> "Tls":
        """Of PEM files. Raises ClusterError where they are missing or don't belong together."""
        return cls(*(_context(side, authority, certificate, key) for side in (True, False)))

    def accept(self, sock: socket.socket) -> "TlsLink":
        return TlsLink(sock, self, accepted=True)

    def call(self, sock: socket.socket) -> "TlsLink":
        return TlsLink(sock, self, accepted=False)


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


class TlsLink(TcpLink):
    """Ready after `handshake`, which either side does in its own time."""

    transport = "tcp+tls"

    def __init__(self, sock: socket.socket, tls: Tls, *, accepted: bool) -> None:
        context = tls.accepting if accepted else tls.calling
        self._secure = context.wrap_socket(
            sock, server_side=accepted, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        super().__init__(self._secure)

    def handshake(self, timeout_s: float) -> None:
        self._secure.settimeout(timeout_s)
        try:
            self._secure.do_handshake()
            self._secure.setblocking(False)
        except (OSError, ValueError) as error:
            self._break(f"no encrypted link to {self.peer}: {_reason(error)}")

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

    def interrupt(self) -> None:
        self._broken = self._broken or f"the link to {self.peer} was closed"
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._secure, socket.SHUT_RDWR)  # SSLSocket's own would go on in the clear


def _reason(error: Exception) -> str:
    text = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
    told = {
        "CERTIFICATE_VERIFY_FAILED": "its certificate is not of this cluster",
        "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of its cluster",
        "TLSV1_ALERT_UNKNOWN_CA": "it does not accept this cluster's certificates",
        "WRONG_VERSION_NUMBER": "it does not speak TLS: was it started with --trusted-lan?",
    }
    return told.get(text, text or type(error).__name__)
