"""Tokens: what a machine is given, by hand, so that it may join: where to go, whom to trust, a secret that expires.

The authority keeps only a digest of each secret; that digest is the key by which a joiner proves itself, so it is kept
as one (mode 0600). A token may be used by several machines until it expires or is revoked.
"""

import base64
import hashlib
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from motley.cluster.authority import write_private
from motley.errors import ClusterError, UsageError

PREFIX = "motley1-"


class Token(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    host: str  # where the authority's node answers
    port: int
    fingerprint: bytes  # SHA-256 of the authority's certificate
    id: str
    secret: bytes

    def to_text(self) -> str:
        return PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")

    @classmethod
    def from_text(cls, text: str) -> "Token":
        """Raises UsageError, without repeating the text: it may hold most of a secret."""
        body = text.strip().removeprefix(PREFIX)
        try:
            if body == text.strip():
                raise ValueError
            token = msgspec.msgpack.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=cls)
        except (ValueError, msgspec.DecodeError):
            raise UsageError(
                f"this is no token: it begins with {PREFIX} and is printed whole by `motley cluster init` or "
                "`motley cluster token`; was it cut?"
            ) from None
        if not (token.host and 0 < token.port < 1 << 16 and len(token.fingerprint) == 32):
            raise UsageError("this token names no address to go to: make another with `motley cluster token`")
        return token

    @property
    def proof_key(self) -> bytes:
        return hashlib.sha256(self.secret).digest()


class Issued(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token as its authority remembers it."""

    id: str
    key: bytes
    made: float  # seconds since 1970
    expires: float
    revoked: bool = False
    joined: tuple[str, ...] = ()  # names of who used it

    def state(self, now: float) -> str:
        return "revoked" if self.revoked else "expired" if now >= self.expires else "valid"


@dataclass(frozen=True)
class TokenBook:
    """The issued tokens, in one file; read anew at every use, so that a revocation counts at once."""

    path: Path

    def issued(self) -> list[Issued]:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=list[Issued])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise ClusterError(f"the list of tokens {self.path} can't be read: {error}") from None

    def issue(self, host: str, port: int, fingerprint: bytes, valid_s: float) -> Token:
        token = Token(host, port, fingerprint, secrets.token_hex(4), secrets.token_bytes(32))
        now = time.time()
        self._write([*self.issued(), Issued(token.id, token.proof_key, now, now + valid_s)])
        return token

    def valid(self, token_id: str) -> Issued | None:
        now = time.time()
        return next((t for t in self.issued() if t.id == token_id and t.state(now) == "valid"), None)

    def note_joined(self, token_id: str, name: str) -> None:
        self._write(
            [
                msgspec.structs.replace(t, joined=(*t.joined, name)) if t.id == token_id and name not in t.joined else t
                for t in self.issued()
            ]
        )

    def revoke(self, token_id: str) -> None:
        tokens = self.issued()
        if all(t.id != token_id for t in tokens):
            known = ", ".join(t.id for t in tokens) or "there are none"
            raise UsageError(f"no token {token_id!r} was issued here: {known}")
        self._write([msgspec.structs.replace(t, revoked=True) if t.id == token_id else t for t in tokens])

    def _write(self, tokens: list[Issued]) -> None:
        write_private(self.path, msgspec.json.encode(tokens))
