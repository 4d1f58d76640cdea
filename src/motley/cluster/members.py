"""Members: to whom the authority gave certificates, and how one of them is shut out again.

Kept where the authority's key is, in one file of mode 0600: an id of a certificate and the name for which it was asked.
A name that joined several times has several.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from motley.cluster.alone import alone
from motley.cluster.authority import refused_by, write_private
from motley.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from motley.cluster.identity import Identity


class Certified(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    id: str
    made: float  # seconds since 1970


@dataclass(frozen=True)
class MemberBook:
    path: Path

    def certified(self) -> list[Certified]:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=list[Certified])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise ClusterError(f"the list of members {self.path} can't be read: {error}") from None

    def note(self, name: str, certificate_id: str) -> None:
        write_private(self.path, msgspec.json.encode([*self.certified(), Certified(name, certificate_id, time.time())]))


def expel(identity: "Identity", name: str) -> tuple[int, list[str]]:
    """No certificate that was made for `name` holds any more, and no token that was issued so far: it may know them.
    Returns how many of those were valid, and who else joined with one that `name` used: perhaps the same machine. The
    other members have to be told (`Membership.spread`)."""
    identity.require_authority()
    if name == identity.member.name:
        raise UsageError(f"{name} made the cluster and decides who is in it: `motley cluster init --anew` ends it")
    with alone(identity.folder):  # who is joining in this moment is in the list below, or has no token any more
        authority = identity.authority
        gone = refused_by(authority.certificate)
        there = [one for one in identity.members.certified() if one.id not in gone]
        if not any(one.name == name for one in there):
            known = ", ".join(sorted({one.name for one in there} - {identity.member.name})) or "nobody"
            raise UsageError(f"no member {name!r} joined here: {known}")
        issued = identity.tokens.issued()
        tokens = [t for t in issued if t.state(time.time()) == "valid"]
        for token in tokens:
            identity.tokens.revoke(token.id)
        authority.without([one.id for one in there if one.name == name]).save(identity.folder)
    beside = {other for token in issued if name in token.joined for other in token.joined} - {name}
    return len(tokens), sorted(beside & {one.name for one in there})
