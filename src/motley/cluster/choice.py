"""Choice: over which transport two processes talk: shared memory where they can, unless their socket is clearly better;
another one (`agreed`) where the user names it and it proves itself.

Found out at the first connection to an address: the memory must carry frames of several sizes there and back, with
their checksums, and then both ways are measured. A link whose memory is spoilt breaks, as any link may; what is
connected later to that address stays with the socket. The same goes for what the user named. No call is sent
twice.
"""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from motley.cluster import agreed
from motley.cluster.link import Link
from motley.cluster.neighbour import offer, possible
from motley.cluster.remote import RTT_BYTES, ping_s
from motley.cluster.tcp_link import TcpLink
from motley.errors import ClusterError, LinkError

if TYPE_CHECKING:
    from motley.cluster.local_link import LocalLink

log = logging.getLogger("motley.link")

SIZES = (0, 1, 4095, 65_537, (1 << 18) + 3)  # bytes; what both sides keep for the largest they don't give back
ROUNDS, PINGS, BULK = 5, 40, 5
TRIAL_S, PING_S = 0.2, 2.0  # streams may be waiting: when no more rounds begin, and for one answer
CLEARLY = 3.0  # where other work takes a core, two equal ways were found to differ by up to 2.6
PROOFS, PROOF_S = (*SIZES, 8 << 20), 10.0  # bytes; MPI and MLX do otherwise with other sizes

Address = tuple[str, int]


class Choice:
    """One process's, for all its connections."""

    def __init__(self) -> None:
        self._shares: dict[Address, bool] = {}  # whether memory is shared with who listens there, once that is known
        self._without: set[Address] = set()  # where the named one was tried and did not work

    def connect(self, address: Address, call: Callable[[], TcpLink], *, named: str = "") -> Link:
        """`call` opens an authenticated link to that address; what comes back is it, or what was agreed on over it."""
        if not named:
            return self._near(address, call)
        return self._far(address, named, call(), call) if address not in self._without else call()

    def _near(self, address: Address, call: Callable[[], TcpLink]) -> Link:
        link = call()
        if not possible() or not self._shares.get(address, True):
            return link
        try:
            local = offer(link)
        except LinkError as error:
            log.debug("no memory shared with %s: %s", link.peer, error)
            link.close()
            return call()
        except ClusterError as error:
            log.debug("no memory shared with %s: %s", link.peer, error)
            self._shares[address] = False
            return link
        local.on_spoilt = lambda: self._shares.update({address: False})
        return local if address in self._shares else self._better(address, local, call)

    def _better(self, address: Address, local: "LocalLink", call: Callable[[], TcpLink]) -> Link:
        """Where it can't be measured, a connection anew, and the next one measures again."""
        try:
            with ExitStack() as stack:
                stack.callback(local.close)
                other = call()
                stack.callback(other.close)
                shares = _is_proven(local) and _is_better(local, other)
                stack.pop_all()
        except LinkError as error:
            log.debug("the transports to %s were not measured: %s", local.peer, error)
            return call()
        self._shares[address] = shares
        kept, dropped = (local, other) if shares else (other, local)
        dropped.close()
        return kept

    def _far(self, address: Address, named: str, link: TcpLink, call: Callable[[], TcpLink]) -> Link:
        """It need not be the faster one; it is proven at every connection."""
        try:
            far = agreed.offer(link, named)
        except LinkError as error:  # what went wrong between the two would go wrong again
            return self._anew(address, named, error, link, call)
        except ClusterError as error:
            self._give_up(address, named, error, link)
            return link
        try:
            for n_bytes in PROOFS:
                ping_s(far, n_bytes, PROOF_S)
        except LinkError as error:
            return self._anew(address, named, error, far, call)
        far.on_spoilt = lambda: self._without.add(address)
        return far

    def _give_up(self, address: Address, named: str, error: ClusterError, link: Link) -> None:
        log.warning("no %s link with %s: %s", named, link.peer, error)
        self._without.add(address)

    def _anew(self, address: Address, named: str, error: LinkError, broken: Link, call: Callable[[], TcpLink]) -> Link:
        self._give_up(address, named, error, broken)
        broken.close()
        return call()


def _is_proven(local: Link) -> bool:
    try:
        for n_bytes in SIZES:
            ping_s(local, n_bytes, PING_S)
    except LinkError as error:
        log.warning("the memory shared with %s is not used: %s", local.peer, error)
        return False
    return True


def _is_better(a: Link, b: Link) -> bool:
    """Half the round trip weighs as much as twice the bandwidth. Of each the fastest of some rounds in turn, and a in
    doubt: what else the machine does at the moment makes either slower, and shall not decide."""
    stop = time.monotonic() + TRIAL_S
    fastest = {a: Speed(1e9, 1e9), b: Speed(1e9, 1e9)}
    for turn in range(ROUNDS):
        if turn and time.monotonic() > stop:
            break
        for link, before in fastest.items():
            fastest[link] = Speed(*map(min, before, speed_of(link)))
    log.info("%s: %s", a.peer, ", ".join(f"{x.transport} {1e6 * v.small_s:.0f} us" for x, v in fastest.items()))
    return prod(fastest[a]) < CLEARLY * prod(fastest[b])


class Speed(NamedTuple):
    small_s: float  # there and back
    large_s: float


def speed_of(link: Link) -> Speed:
    small, large = (
        min(ping_s(link, n_bytes, PING_S) for _ in range(count))
        for n_bytes, count in ((RTT_BYTES, PINGS), (SIZES[-1], BULK))
    )
    return Speed(small, large)
