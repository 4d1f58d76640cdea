"""Access: how one process takes part in its cluster: what it listens on, how it reaches the others, what it proves.

Two kinds. Local: processes of one machine that one head started, on loopback, known by a token that never leaves the
machine. Joined: machines with certificates, everything mutually authenticated and encrypted by TLS 1.3; with
`trusted_lan` activations cross in the clear, once both sides have proven themselves. The transports that a user can
name (`agreed.NAMED`) do not encrypt: `named` is the one that may be used nevertheless.
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from motley.cluster.choice import Choice
from motley.cluster.hello import call
from motley.cluster.link import Link
from motley.cluster.membership import DEFAULT_PORT, Inventory, Membership
from motley.cluster.tcp_link import LOOPBACK, Listener, TcpLink, listen
from motley.cluster.tls_link import Tls
from motley.errors import ClusterError

if TYPE_CHECKING:
    from motley.cluster.identity import Identity  # imports `cryptography`, which a local cluster does not need
    from motley.cluster.trust import Trust


@dataclass(frozen=True)
class Access:
    cluster: str
    name: str
    token: str
    peers: Sequence[str] = ()
    host: str = LOOPBACK
    tls: Tls | None = None
    control_tls: Mapping[str, object] = field(default_factory=dict)
    joined: bool = False
    trust: "Trust | None" = None
    named: str = ""
    choice: Choice = field(default_factory=Choice, compare=False, repr=False)

    @classmethod
    def of(
        cls, identity: "Identity", *, trusted_lan: bool = False, peers: Sequence[str] = (), named: str = ""
    ) -> "Access":
        member, tls = identity.member, identity.tls(clear=trusted_lan)
        trust = identity.trust(tls)
        if trust.is_expelled:
            raise ClusterError(
                f"{member.name} was expelled from cluster {member.cluster}: it takes a new token to join"
            )
        return cls(
            member.cluster,
            member.name,
            member.secret,
            (member.control, *peers),
            member.host,
            tls,
            identity.zenoh_settings(),
            joined=True,
            trust=trust,
            named=named,
        )

    @property
    def encrypted(self) -> bool:
        """Whether activations are, on links between machines."""
        return self.tls is not None and not self.tls.clear

    def listen(self, spin_us: float | None = None) -> Listener:
        return listen(self.host, spin_us=spin_us, wrap=self.tls.accept if self.tls else None)

    def reach(self, host: str, port: int, spin_us: float | None = None, *, timeout_s: float = 5.0) -> Link:
        """A greeted link to whichever member listens there, over the better transport; the caller closes it."""

        def greeted() -> TcpLink:
            return call(
                host,
                port,
                cluster=self.cluster,
                name=self.name,
                token=self.token,
                tls=self.tls,
                timeout_s=timeout_s,
                spin_us=spin_us,
            )

        return self.choice.connect((host, port), greeted, named=self.named)

    def look(self) -> Membership:
        """A membership that sees all, this machine's own node too, and is seen by nobody."""
        return replace(self, name=f"onlooker-{token_hex(4)}").seat()

    def seat(self, inventory: Inventory | None = None, *, head: bool = False, **callbacks: Any) -> Membership:
        """A membership; whoever comes first on the authority's machine listens where the others look for it."""
        port = DEFAULT_PORT if self._is_meeting_point() and _is_free(self.host, DEFAULT_PORT) else 0
        peers = [peer for peer in self.peers if not (port and peer == self.peers[0])]
        return Membership(
            self.cluster,
            self.name,
            inventory,
            peers=peers,
            head=head,
            host=self.host,
            port=port,
            multicast=self.joined,
            tls=self.control_tls,
            patient=self.joined,
            trust=self.trust,
            **callbacks,
        )

    def _is_meeting_point(self) -> bool:
        return self.joined and self.peers[0] in (f"{self.host}:{DEFAULT_PORT}", f"[{self.host}]:{DEFAULT_PORT}")


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True
