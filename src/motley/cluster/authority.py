"""The cluster's own certificate authority: makes itself, signs its members. Lives where `cluster init` was said.

A member's key never leaves its machine: it sends a request, and gets a certificate that names it. Keys are on the curve
P-256, files with secrets have mode 0600. Certificates hold ten years: a home cluster has nobody who would renew them;
to shut a member out before that takes a new cluster (`motley cluster init --anew`).
"""

import datetime
import hashlib
import os
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
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from motley.errors import ClusterError

VALID = datetime.timedelta(days=3650)
CLOCKS_DIFFER = datetime.timedelta(days=1)  # a member whose clock is behind must not find its certificate too young


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, cluster: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"Motley cluster {cluster}"[:64])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        built = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(built.sign(key, hashes.SHA256()), key)

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
        (folder / "ca.pem").write_bytes(certificate_pem(self.certificate))

    def issue(self, request: x509.CertificateSigningRequest, member: str) -> x509.Certificate:
        """For the request's key; it names `member`, whatever the request says."""
        key = request.public_key()
        if not request.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ClusterError("the request for a certificate is not signed by an elliptic key of its own")
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        built = (
            _builder(_name(member), self.certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(member)]), critical=False)
            .add_extension(usage, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        return built.sign(self.key, hashes.SHA256())


def new_request(member: str) -> tuple[ec.EllipticCurvePrivateKey, x509.CertificateSigningRequest]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, x509.CertificateSigningRequestBuilder().subject_name(_name(member)).sign(key, hashes.SHA256())


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, in hex."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


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


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + VALID)
    )
