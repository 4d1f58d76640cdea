"""The cluster's own certificate authority: makes itself, signs its members. Lives where `cluster init` was said.

A member's key never leaves its machine: it sends a request, and gets a certificate that names it. Keys are on the curve
P-256, files with secrets have mode 0600. Certificates hold ten years: a home cluster has nobody who would renew them.

Whom to refuse before that is written in the authority's own certificate: each member's has a DNS name that no other
has, and the authority's is made anew, by the same key and with a higher serial number, the names of the expelled being
excluded subtrees (name constraints, RFC 5280, 4.2.1.10). Every TLS library looks at those by itself, in the handshake:
OpenSSL's (data links) and rustls's (Zenoh), which offers no revocation list. Whoever knows the key knows a newer one.
"""

import datetime
import hashlib
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from motley.errors import ClusterError

SPKI = PublicFormat.SubjectPublicKeyInfo
ID_END = ".motley"  # after a member's id
VALID = datetime.timedelta(days=3650)
CLOCKS_DIFFER = datetime.timedelta(days=1)  # a member whose clock is behind must not find its certificate too young


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, cluster: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_own_certificate(_name(f"Motley cluster {cluster}"[:64]), key, 1, frozenset()), key)

    def without(self, members: Collection[str]) -> "Authority":
        """The same, that from now on refuses the certificates with these ids, too."""
        before, refused = self.certificate, refused_by(self.certificate) | frozenset(members)
        return Authority(_own_certificate(before.subject, self.key, before.serial_number + 1, refused), self.key)

    @classmethod
    def load(cls, folder: Path) -> "Authority":
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"the authority in {folder} can't be read: {error}; `motley cluster init --anew`"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ClusterError(f"the key in {folder} is not one that Motley made: `motley cluster init --anew`")
        return cls(certificate, key)

    def save(self, folder: Path) -> None:
        write_private(folder / "ca.key", key_pem(self.key))
        write_private(folder / "ca.pem", certificate_pem(self.certificate))

    def issue(self, request: x509.CertificateSigningRequest, member: str) -> x509.Certificate:
        """For the request's key; it names `member`, whatever the request says, and has an id of its own."""
        key = request.public_key()
        if not request.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ClusterError("the request for a certificate is not signed by an elliptic key of its own")
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        built = (
            _builder(_name(member), self.certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(secrets.token_hex(8) + ID_END)]), critical=False)
            .add_extension(usage, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        return built.sign(self.key, hashes.SHA256())


def new_request(member: str) -> tuple[ec.EllipticCurvePrivateKey, x509.CertificateSigningRequest]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, x509.CertificateSigningRequestBuilder().subject_name(_name(member)).sign(key, hashes.SHA256())


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's public key, in hex: the authority's certificate is made anew, its key is not."""
    return hashlib.sha256(certificate.public_key().public_bytes(Encoding.DER, SPKI)).hexdigest()


def id_of(certificate: x509.Certificate) -> str:
    """What tells a member's certificate from all others; "" where it has no such name."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return next((name for name in names.get_values_for_type(x509.DNSName) if name.endswith(ID_END)), "")


def refused_by(authority: x509.Certificate) -> frozenset[str]:
    """The ids of the certificates that it signed once and refuses now."""
    try:
        limits = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name.value for name in limits.excluded_subtrees or () if isinstance(name, x509.DNSName))


def is_newer(other: x509.Certificate, than: x509.Certificate) -> bool:
    """Whether the same authority made it, by the same key, later."""
    same = other.subject == than.subject and fingerprint(other) == fingerprint(than)
    return same and other.serial_number > than.serial_number and is_issued_by(other, than)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_private(path: Path, content: bytes) -> None:
    """Readable by its owner only, from the first moment on; there whole or not at all."""
    beside = path.with_suffix(f".new{os.getpid()}")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    beside.replace(path)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _own_certificate(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, number: int, refused: frozenset[str]
) -> x509.Certificate:
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    built = (
        _builder(name, name, key.public_key(), number)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if refused:
        names = [x509.DNSName(one) for one in sorted(refused)]
        built = built.add_extension(x509.NameConstraints(None, names), critical=True)
    return built.sign(key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, number: int = 0
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(number or x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + VALID)
    )
