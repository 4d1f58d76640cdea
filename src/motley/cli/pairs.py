"""Each pair of a session's nodes, measured for the doctor: the link both ways, and what both ends say of themselves."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from itertools import combinations

import msgspec

from motley.cli.session import Session
from motley.cluster.link import Link
from motley.cluster.remote import BULK_BYTES, LEAST_TURNS, ask
from motley.doctor import rdma
from motley.doctor.pairs import End, Pair, Way, end
from motley.doctor.system import System
from motley.engine.trace import offset_of
from motley.errors import ClusterError

MEASURE_S = 60.0


def pairs_of(session: Session) -> list[Pair]:
    own = session.own.name
    links: dict[str, Link] = {}
    ends = {own: end(System(), own, session.cluster.access.host)}
    clocks, mute = {own: (0.0, 0.0)}, dict[str, str]()  # name -> why it can't be asked
    with ExitStack() as stack:
        for name in session.cluster.nodes:
            try:
                link = links[name] = stack.enter_context(closing(session.link(name)))
                ends[name] = msgspec.convert(ask(link, "end", MEASURE_S), End)
                clocks[name] = offset_of(lambda link=link: float(ask(link, "clock")["wall"]), time.time)  # type: ignore[misc]
            except ClusterError as error:
                ends[name], clocks[name], mute[name] = End(name), (0.0, 0.0), str(error)
        return [
            Pair(
                ends[a],
                ends[b],
                _way(session, links, mute, a, b),
                _way(session, links, mute, b, a),
                clocks[b][0] - clocks[a][0],
                clocks[a][1] + clocks[b][1],
            )
            for a, b in combinations(ends, 2)
        ]


def _way(session: Session, links: Mapping[str, Link], mute: Mapping[str, str], a: str, b: str) -> Way:
    if reason := mute.get(a) or mute.get(b):
        return Way(failed=reason)
    before = rdma.counters(System())
    try:
        speed = session.speed(links, session.site.addresses, a, b)
    except ClusterError as error:
        return Way(failed=str(error))
    carried = None
    if before and speed.transport == "mpi" and session.own.name in (a, b):
        carried = rdma.carried(before, rdma.counters(System()), LEAST_TURNS * BULK_BYTES)
    return Way(**asdict(speed), carried=carried)
