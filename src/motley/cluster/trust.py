"""Trust: which certificates a member accepts. One certificate says so, the authority's, in the newest form known here.

A newer one may come from whoever: it counts if the authority's key signed it and its number is higher. Then it is
stored, new connections are judged by it, and those to members that it refuses are cut.
"""

import logging
import threading
from pathlib import Path

from cryptography import x509

from motley.cluster.authority import certificate_pem, id_of, is_newer, refused_by, write_private
from motley.cluster.tls_link import Tls
from motley.errors import ClusterError

log = logging.getLogger("motley.membership")

MOST_BYTES = 1 << 20  # of a certificate: some twenty thousand expelled


class Trust:
    """Of the member whose files are in `folder`."""

    def __init__(self, folder: Path, tls: Tls) -> None:
        self._path, self._tls = folder / "ca.pem", tls
        self._lock = threading.Lock()
        try:
            self._authority = x509.load_pem_x509_certificate(self._path.read_bytes())
            self._own = id_of(x509.load_pem_x509_certificate((folder / "node.pem").read_bytes()))
        except (OSError, ValueError) as error:
            raise ClusterError(f"the certificates in {folder} can't be used ({error}): join again") from None

    @property
    def number(self) -> int:
        """Grows with every change."""
        return self._authority.serial_number

    @property
    def pem(self) -> bytes:
        return certificate_pem(self._authority)

    @property
    def is_expelled(self) -> bool:
        """Whether this very member is refused."""
        return self._own in refused_by(self._authority)

    def adopt(self, pem: bytes) -> bool:
        """Whether that is newer than what was known here."""
        if len(pem) > MOST_BYTES:
            return False
        try:
            offered = x509.load_pem_x509_certificate(pem)
            with self._lock:
                if not is_newer(offered, self._authority):
                    return False
                stored = x509.load_pem_x509_certificate(self._path.read_bytes())  # another process may know more
                if is_newer(offered, stored):
                    write_private(self._path, certificate_pem(offered))
                self._authority = stored if is_newer(stored, offered) else offered
                self._tls.reload(refused_by(self._authority))
        except (ValueError, OSError) as error:
            log.warning("what another member says of who is expelled can't be used: %s", error)
            return False
        return True
