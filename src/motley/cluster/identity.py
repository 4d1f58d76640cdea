"""Identity: who this machine is in a cluster: its name, its certificate, whom it trusts, where the others are found.

One folder a cluster: `member.json` (with the cluster's secret for its links), `ca.pem` (which says who was expelled,
too), `node.pem`, `node.key`; on the authority's machine `ca.key`, `tokens.json` and `members.json` too. The folder has
mode 0700, what is secret or decides who is trusted 0600.
"""

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from motley.cluster.alone import alone
from motley.cluster.authority import (
    Authority,
    certificate_pem,
    fingerprint,
    id_of,
    key_pem,
    new_request,
    write_private,
)
from motley.cluster.members import MemberBook
from motley.cluster.membership import DEFAULT_PORT, check_name
from motley.cluster.tls_link import Tls
from motley.cluster.tokens import TokenBook
from motley.cluster.trust import Trust
from motley.errors import ClusterError, UsageError

JOIN_PORT = 7446


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cluster: str
    name: str
    host: str  # this machine's address, as others reach it
    secret: str  # the whole cluster's, for proving membership where links are not encrypted
    control: str  # "host:port" of the authority's control plane


@dataclass(frozen=True)
class Identity:
    folder: Path
    member: Member

    @classmethod
    def load(cls, clusters: Path, cluster: str) -> "Identity":
        """ClusterError with a remedy where this machine does not belong to the cluster."""
        folder = clusters / check_name(cluster, "cluster")
        try:
            return cls(folder, msgspec.json.decode((folder / "member.json").read_bytes(), type=Member))
        except FileNotFoundError:
            raise ClusterError(
                f"this machine does not belong to a cluster named {cluster}: `motley cluster init` makes one, "
                "`motley node --join TOKEN` joins one"
            ) from None
        except (OSError, msgspec.DecodeError) as error:
            raise ClusterError(f"{folder / 'member.json'} can't be read: {error}; join again") from None

    @classmethod
    def store(cls, clusters: Path, member: Member, authority: bytes, certificate: bytes, key: bytes) -> "Identity":
        """From PEM; replaces what this machine was in that cluster before."""
        folder = clusters / check_name(member.cluster, "cluster")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        write_private(folder / "ca.pem", authority)
        (folder / "node.pem").write_bytes(certificate)
        write_private(folder / "node.key", key)
        write_private(folder / "member.json", msgspec.json.encode(member))
        return cls(folder, member)

    @property
    def is_authority(self) -> bool:
        return (self.folder / "ca.key").is_file()

    @property
    def authority(self) -> Authority:
        return Authority.load(self.folder)

    @property
    def tokens(self) -> TokenBook:
        return TokenBook(self.folder / "tokens.json")

    @property
    def members(self) -> MemberBook:
        return MemberBook(self.folder / "members.json")

    def require_authority(self) -> None:
        if not self.is_authority:
            raise UsageError(
                f"who may be in cluster {self.member.cluster} is decided where it was made, on {self.member.control}"
            )

    def tls(self, *, clear: bool = False) -> Tls:
        """`clear`: members prove themselves as ever, then nothing is encrypted."""
        return Tls(self.folder / "ca.pem", self.folder / "node.pem", self.folder / "node.key", clear=clear)

    def trust(self, tls: Tls) -> Trust:
        """What keeps `tls` up to date."""
        return Trust(self.folder, tls)

    def zenoh_settings(self) -> dict[str, object]:
        """TLS of the control plane, both ways. Members are known by certificate: names and addresses may change."""
        files = {
            "root_ca_certificate": "ca.pem",
            "listen_certificate": "node.pem",
            "listen_private_key": "node.key",
            "connect_certificate": "node.pem",
            "connect_private_key": "node.key",
        }
        settings: dict[str, object] = {f"transport/link/tls/{k}": str(self.folder / name) for k, name in files.items()}
        return settings | {"transport/link/tls/enable_mtls": True, "transport/link/tls/verify_name_on_connect": False}


def init(clusters: Path, cluster: str, name: str, host: str, *, anew: bool = False) -> Identity:
    """A new cluster with its authority and its first member on this machine."""
    folder = clusters / check_name(cluster, "cluster")
    if folder.exists() and not anew:
        raise UsageError(
            f"this machine already belongs to a cluster named {cluster}: `motley cluster token` prints a command to "
            "join it; --anew makes it over, and shuts out all who joined"
        )
    shutil.rmtree(folder, ignore_errors=True)
    authority = Authority.create(cluster)
    key, request = new_request(check_name(name, "node"))
    certificate = authority.issue(request, name)
    member = Member(cluster, name, host, secrets.token_urlsafe(32), _at(host, DEFAULT_PORT))
    identity = Identity.store(
        clusters, member, certificate_pem(authority.certificate), certificate_pem(certificate), key_pem(key)
    )
    authority.save(folder)
    identity.members.note(name, id_of(certificate))
    return identity


def new_token_text(identity: Identity, valid_s: float) -> str:
    identity.require_authority()
    digest = bytes.fromhex(fingerprint(identity.authority.certificate))
    with alone(identity.folder):
        return identity.tokens.issue(identity.member.host, JOIN_PORT, digest, valid_s).to_text()


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
