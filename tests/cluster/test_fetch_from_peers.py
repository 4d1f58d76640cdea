"""Pieces of a model from nodes that have them, beside the head: less of the head's link, and nothing that is not the
model's."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.sources import Source, source_of
from motley.cluster import fetching, weights
from motley.cluster.fetching import Fetched, fetch
from motley.cluster.kept import Kept
from motley.cluster.link import Link
from motley.cluster.ranges import Range, Ranges, total
from motley.cluster.weights import FileFacts, Layout, Served
from motley.errors import ClusterError, LinkError

HASH = "cd" * 16
PIECE = 1 << 16
SIZE = 40 * PIECE + 123
DATA = np.random.default_rng(9).bytes(SIZE)
LAYOUT = Layout([FileFacts("a.gguf", 15 * PIECE + 7, 0), FileFacts("b.gguf", SIZE - 15 * PIECE - 7, 0)])


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(fetching, "SLOW_S", 0.3)
    monkeypatch.setattr(fetching, "LOOK_AGAIN_S", 0.02)


class Holder:
    """Serves the model, or what of it is `there`; `before` may do worse. `until`: the head sends five pieces, and no
    more before this holds: so that a peer is tried, however fast the head is."""

    def __init__(
        self,
        there: Ranges | None = None,
        until: Callable[[], object] = lambda: True,
        before: Callable[[Range], bytes | None] = lambda _: None,
    ) -> None:
        first = LAYOUT.files[0].size
        self.served = Served(LAYOUT, [memoryview(DATA)[:first], memoryview(DATA)[first:]], there)
        self.until, self.before = until, before
        self.pieces: list[Range] = []
        self.patient_until = time.monotonic() + 20

    def fetch(self, file_hash: str, start: int, end: int) -> memoryview:
        assert file_hash == HASH
        while len(self.pieces) >= 5 and not self.until() and time.monotonic() < self.patient_until:
            time.sleep(0.002)
        if (instead := self.before((start, end))) is not None:
            return memoryview(instead)
        self.pieces.append((start, end))
        return self.served.piece(start, end)

    def ask(self, what: str, arguments: dict[str, Any], progress: object) -> dict[str, Any]:
        assert arguments["hash"] == HASH
        if what == "file":
            return self.served.facts()
        return {"digest": self.served.digest(arguments["start"], arguments["end"])}


def fetched(folder: Path, head: Source, *peers: Callable[[], Link], seed: str = "") -> Fetched:
    kept = Kept.open(folder, HASH, LAYOUT)
    found = fetch(kept, [(0, SIZE)], head.connect, peers, seed=seed)
    files = [(kept.folder / file.name).read_bytes() for file in LAYOUT.files]
    assert b"".join(files) == DATA
    assert Kept.open(folder, HASH, LAYOUT).there.all() == [(0, SIZE)]
    assert found.n_bytes == SIZE
    return found


def test_a_peer_that_has_all_takes_from_the_heads_load(tmp_path: Path) -> None:
    peer = Holder()
    head = Holder(until=lambda: len(peer.pieces) >= 20)
    with source_of(head) as a, source_of(peer) as b:
        found = fetched(tmp_path, a, b.connect)
    assert found.from_peers >= 15 * PIECE  # four may be on their way, and the last piece is small
    assert total(head.pieces) < SIZE - 14 * PIECE
    assert found.said == ()


def test_a_peer_is_asked_only_for_what_it_has(tmp_path: Path) -> None:
    there = Ranges([(3 * PIECE, 9 * PIECE + 5), (20 * PIECE, 21 * PIECE)])
    peer = Holder(there)
    with source_of(Holder(until=lambda: peer.pieces)) as a, source_of(peer) as b:
        found = fetched(tmp_path, a, b.connect)
    assert found.said == ()
    assert all(there.covers(*piece) for piece in peer.pieces)
    assert 0 < found.from_peers <= total(there.all())


@pytest.mark.parametrize("wrong", ["one bit", "zeros", "another piece"])
def test_a_hostile_peer_is_found_at_once_and_named(
    tmp_path: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checksums are right: the bytes are not the model's."""
    asked: list[Range] = []

    def instead(piece: Range) -> bytes | None:
        asked.append(piece)
        if len(asked) < 3:
            return None
        true = bytearray(DATA[piece[0] : piece[1]])
        true[-1] ^= 1
        n = len(true)
        return {"one bit": bytes(true), "zeros": bytes(n), "another piece": DATA[5 * PIECE + 9 :][:n]}[wrong]

    with source_of(Holder(until=lambda: caplog.records)) as a, source_of(Holder(before=instead)) as b:
        found = fetched(tmp_path, a, b.connect)
    assert len(found.said) == 1
    assert "sent other bytes than the model has; it is not asked again" in found.said[0]
    assert 0 < found.from_peers <= 2 * PIECE
    assert len(asked) <= 3 + fetching.PEER_AHEAD


def test_a_peer_that_dies_in_the_middle_costs_its_pieces_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dying = Source(peer := Holder())
    with source_of(Holder(until=lambda: caplog.records)) as a, source_of(Holder()) as other:
        peer.before = lambda piece: dying.server.close(0) if len(peer.pieces) == 5 else None  # type: ignore[func-returns-value]
        found = fetched(tmp_path, a, dying.connect, other.connect)
    assert len(found.said) == 1
    assert "it is not asked again" in found.said[0]
    assert found.from_peers > 0


def test_a_peer_that_stops_is_not_waited_for(tmp_path: Path) -> None:
    goes_on = threading.Event()
    stopped = Holder(before=lambda piece: goes_on.wait(30) and None)
    with source_of(Holder()) as a, source_of(stopped) as b:
        found = fetched(tmp_path, a, b.connect)
        goes_on.set()
    assert found.from_peers == 0


def test_a_peer_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def nobody() -> Link:
        raise LinkError("no node answers at 10.0.0.9:1")

    with source_of(Holder(until=lambda: caplog.records)) as a:
        found = fetched(tmp_path, a, nobody)
    assert found.said == ("no node answers at 10.0.0.9:1; it is not asked again",)


def test_a_peer_that_tells_nonsense(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Liar(Holder):
        def ask(self, what: str, arguments: dict[str, Any], progress: object) -> dict[str, Any]:
            return {"files": 7, "there": [["x", {}]]}

    with source_of(Holder(until=lambda: caplog.records)) as a, source_of(Liar()) as b:
        found = fetched(tmp_path, a, b.connect)
    assert found.from_peers == 0
    assert "malformed list of ranges" in found.said[0]


def test_a_peer_that_claims_too_much_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An answer larger than a piece is refused before it is held."""

    class Liar(Holder):
        def ask(self, what: str, arguments: dict[str, Any], progress: object) -> dict[str, Any]:
            return {"there": "x" * 10 * PIECE}

    with source_of(Holder(until=lambda: caplog.records)) as a, source_of(Liar()) as b:
        found = fetched(tmp_path, a, b.connect)
    assert "at most" in found.said[0]


def test_two_nodes_that_want_the_same_share_it(tmp_path: Path) -> None:
    """Neither has anything at first. Each serves what it has got so far."""
    nodes = {name: Kept.open(tmp_path / name, HASH, LAYOUT) for name in "bc"}
    holders = {name: Holder() for name in nodes}
    for name, kept in nodes.items():
        holders[name].served = Served(LAYOUT, kept.mapped(), kept.there)
    head = Holder(until=lambda: any(holder.pieces for holder in holders.values()))
    done: dict[str, Fetched] = {}
    with source_of(head) as a, source_of(holders["b"]) as b, source_of(holders["c"]) as c:

        def work(name: str, peer: Source) -> None:
            done[name] = fetch(nodes[name], [(0, SIZE)], a.connect, [peer.connect], seed=name)

        threads = [threading.Thread(target=work, args=each) for each in (("b", c), ("c", b))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name, kept in nodes.items():
        assert kept.there.covers(0, SIZE)
        assert b"".join((kept.folder / file.name).read_bytes() for file in LAYOUT.files) == DATA
        assert done[name].said == ()
    assert sum(one.from_peers for one in done.values()) > 0
    assert total(head.pieces) < 2 * SIZE


def test_the_head_that_ends_ends_it(tmp_path: Path) -> None:
    """A peer's pieces can't be proven without it."""
    with source_of(Holder()) as b:
        a = Source(head := Holder())
        head.before = lambda piece: a.server.close(0) if len(head.pieces) == 2 else None  # type: ignore[func-returns-value]
        with pytest.raises(ClusterError):
            fetch(Kept.open(tmp_path, HASH, LAYOUT), [(0, SIZE)], a.connect, [b.connect])
    kept = Kept.open(tmp_path, HASH, LAYOUT)
    for start, end in kept.there.all():
        for file, first in zip(LAYOUT.files, LAYOUT.starts):
            data = (kept.folder / file.name).read_bytes()
            low, high = max(start, first), min(end, first + file.size)
            assert data[max(0, low - first) : max(0, high - first)] == DATA[low : max(low, high)]


def test_what_somebody_deleted_is_not_there(tmp_path: Path) -> None:
    """Not after the next fetch either, which adds to the index."""
    with source_of(Holder()) as a:
        fetch(Kept.open(tmp_path, HASH, LAYOUT), [(0, SIZE // 2)], a.connect)
        shutil.rmtree(tmp_path / HASH)
        fetch(kept := Kept.open(tmp_path, HASH, LAYOUT), [(SIZE - PIECE, SIZE)], a.connect)
    again = Kept.open(tmp_path, HASH, LAYOUT)
    assert again.there.all() == kept.there.all()
    assert total(again.there.all()) == PIECE
    assert not list(tmp_path.glob("*.room"))


def test_who_watches_is_gone(tmp_path: Path) -> None:
    def gone(what: str, fraction: float) -> None:
        raise LinkError("the head closed the link")

    with source_of(Holder()) as a, source_of(Holder()) as b, pytest.raises(LinkError, match="the head closed"):
        fetch(Kept.open(tmp_path, HASH, LAYOUT), [(0, SIZE)], a.connect, [b.connect], gone)
