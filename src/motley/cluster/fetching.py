"""Fetching: have pieces of a model, from the head and from whoever else has them, all at once.

Connections take pieces from one pool, as fast as each can. The head is trusted: it named the model. A peer is not: the
head tells the digest of each piece that a peer sends. Whoever breaks off or stops gives its pieces back to the pool;
who sends wrong bytes is asked no more. The head's connections take first what no peer has, so that nodes that want the
same at the same time fetch different parts of it from the head, and each other's from each other.
Memory: a piece or two a connection.
"""

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from motley.cluster import messages, weights
from motley.cluster.kept import Kept, free_bytes
from motley.cluster.link import Link
from motley.cluster.messages import Kind
from motley.cluster.ranges import Range, Ranges, total
from motley.cluster.remote import Exchange, Traffic
from motley.errors import CapacityError, LinkError, MotleyError
from motley.progress import Progress, silent

log = logging.getLogger("motley.node")

CONNECTIONS = 3  # to the head
PEERS = 4  # at once, with one connection each
AHEAD = 2  # requests on the way to the head on each: a piece crosses while the last one is written
PEER_AHEAD = 4  # and to a peer: the head's word for a piece comes by the head's busy link
FAULTS = 4  # of the head's connections without a piece between them, before it is given up
ANSWER_S = 60.0
SLOW_S = 2.0  # a peer that holds the last pieces for so long no longer has them alone
LOOK_AGAIN_S = 0.25  # what a peer has got meanwhile
INDEX_EVERY_BYTES = 256 << 20
TOGETHER = 4  # pieces that stay in their order where the order is mixed: disks like that

Connect = Callable[[], Link]


@dataclass(frozen=True)
class Fetched:
    n_bytes: int = 0
    from_peers: int = 0  # bytes, of these
    said: tuple[str, ...] = ()  # what went wrong with whom


def fetch(
    kept: Kept,
    wanted: Sequence[Range],
    head: Connect,
    peers: Sequence[Connect] = (),
    progress: Progress = silent,
    seed: str = "",
) -> Fetched:
    """Have all of `wanted`. What came before an error is kept. `seed`: other for each node, so that they begin at
    different places. Raises ClusterError where the head fails, CapacityError where the disk does."""
    missing = kept.there.missing(wanted)
    if not missing:
        return Fetched()
    store = kept.folder.parent
    if (need := total(missing)) > (free := free_bytes(store)):
        sizes = f"{need / 1e9:.2f} GB of weights are to be kept in {store}, and {free / 1e9:.2f} GB are free"
        raise CapacityError(f"{sizes}: {kept.remedy()}")
    pieces = kept.layout.pieces(missing)
    if peers:
        pieces = _mixed(pieces, seed)
    with _Files(kept) as files:
        return _Fetching(kept, files, pieces, progress).run(head, peers[:PEERS])


def _mixed(pieces: Sequence[Range], seed: str) -> list[Range]:
    groups = [pieces[at : at + TOGETHER] for at in range(0, len(pieces), TOGETHER)]
    random.Random(seed).shuffle(groups)
    return [piece for group in groups for piece in group]


class _Files:
    """The kept files, opened as they are written to."""

    def __init__(self, kept: Kept) -> None:
        self._kept, self._stack, self._lock = kept, ExitStack(), threading.Lock()
        self._opened: dict[int, int] = {}

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, body: memoryview, start: int) -> None:
        which, at = self._kept.layout.find(start, start + body.nbytes)
        file = self._file(which)
        while body.nbytes:  # a disk that fills takes a part first, and refuses only the next write
            written = os.pwrite(file, body, at)
            body, at = body[written:], at + written

    def all(self) -> list[int]:
        with self._lock:
            return list(self._opened.values())

    def _file(self, which: int) -> int:
        with self._lock:
            if which not in self._opened:
                path: Path = self._kept.folder / self._kept.layout.files[which].name
                self._opened[which] = self._stack.enter_context(path.open("r+b")).fileno()
            return self._opened[which]


class _Head:
    """A connection's end: `take` gives the oldest piece that was asked for, checked, valid until the next."""

    is_head = True
    ahead = AHEAD

    def __init__(self, link: Link, file_hash: str) -> None:
        link.max_payload = weights.PIECE_BYTES + 4096
        self.name, self._hash = link.peer, file_hash
        self._exchange = Exchange(link, Traffic())

    def ask(self, piece: Range) -> None:
        self._exchange.start(Kind.FETCH, weights.fetch_call(self._hash, *piece))

    def take(self, piece: Range) -> memoryview:
        return weights.read_fetched(self._exchange.finish(Kind.FETCHED, ANSWER_S), piece[1] - piece[0])


class _Peer(_Head):
    """Its bytes, and the head's word for them."""

    is_head = False
    ahead = PEER_AHEAD

    def __init__(self, link: Link, head: Link, file_hash: str) -> None:
        super().__init__(link, file_hash)
        self._told = Exchange(head, Traffic())
        self._queue: deque[Range] = deque()
        self._look_at = 0.0

    def ask(self, piece: Range) -> None:
        super().ask(piece)
        asked = {"what": "digest", "hash": self._hash, "start": piece[0], "end": piece[1]}
        self._told.start(Kind.ASK, messages.as_json(asked))

    def take(self, piece: Range) -> memoryview:
        body = super().take(piece)
        told = messages.read_object(self._told.finish(Kind.ANSWER, ANSWER_S)).get("digest")
        if told != weights.digest_of(body):
            raise _Wrong(f"{self.name} sent other bytes than the model has")
        return body

    def next_of(self, left: dict[Range, None]) -> Range | None:
        while self._queue:
            if (piece := self._queue.popleft()) in left:
                return piece
        return None

    def look(self, left: Sequence[Range]) -> list[Range] | None:
        """What it has of these, if it is time to ask it again; None if not."""
        if time.monotonic() < self._look_at:
            return None
        self._exchange.start(Kind.ASK, messages.as_json({"what": "file", "hash": self._hash}))
        told = messages.read_object(self._exchange.finish(Kind.ANSWER, ANSWER_S))
        started = time.monotonic()
        found = _held(told, left)
        self._queue.extend(found)
        now = time.monotonic()
        self._look_at = now + max(LOOK_AGAIN_S, 10 * (now - started))  # long lists take time from everybody
        return found


class _Wrong(LinkError):
    """Bytes that are not the model's."""


class _Over(Exception):
    """Nothing is left to do."""


def _held(told: dict[str, Any], left: Sequence[Range]) -> list[Range]:
    if not told:  # it has not begun
        return []
    if told.get("there") is None:
        return list(left)
    try:
        there = Ranges(msgspec.convert(told["there"], list[Range]))
    except msgspec.ValidationError as error:
        raise LinkError(f"malformed list of ranges: {error}") from None
    return [piece for piece in left if there.covers(*piece)]


class _Fetching:
    def __init__(self, kept: Kept, files: _Files, pieces: Sequence[Range], progress: Progress) -> None:
        self._kept, self._files, self._progress = kept, files, progress
        self._total, self._done, self._from_peers, self._not_noted = total(pieces), 0, 0, 0
        self._todo = set(pieces)  # until they are written
        self._left = dict.fromkeys(pieces)  # nobody was asked for them
        self._order, self._later = deque(pieces), deque[Range]()  # the head's: the later ones are with peers
        self._with_peers: set[Range] = set()
        self._asked: dict[Range, tuple[_Head, float]] = {}
        self._changed = threading.Condition()
        self._over = False
        self._links: dict[Link, threading.Thread] = {}
        self._faults, self._said = 0, list[str]()
        self._error: BaseException | None = None

    def run(self, head: Connect, peers: Sequence[Connect]) -> Fetched:
        works = [lambda: self._with_head(head)] * min(CONNECTIONS, len(self._todo))
        works += [lambda peer=peer: self._with_peer(peer, head) for peer in peers]  # type: ignore[misc]
        try:
            with self._kept.writing():
                self._kept.hold_room(len(self._todo))
            for work in works:
                threading.Thread(target=self._guarded, args=(work,), name="fetch", daemon=True).start()
            with self._changed:
                while self._todo and self._error is None:
                    self._changed.wait()
        finally:
            self._end()
            self._note()
            self._kept.release_room()
        if isinstance(self._error, OSError):
            with self._kept.writing():
                raise self._error
        if self._error:
            raise self._error
        return Fetched(self._total, self._from_peers, tuple(self._said))

    def _end(self) -> None:
        """Nobody writes any more when this returns. Who is still connecting finds that it is over, in its own time."""
        with self._changed:
            self._over = True
            links = dict(self._links)
            self._changed.notify_all()
        for link in links:
            link.interrupt()
        for thread in set(links.values()):
            thread.join()

    def _note(self) -> None:
        try:
            self._kept.note(self._files.all())
        except OSError as error:
            self._error = self._error or error

    # -- the threads

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Over:
            pass
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _with_head(self, connect: Connect) -> None:
        """A connection that breaks, or carries damage, is made anew a few times."""
        while True:
            try:
                with self._linked(connect) as link:
                    return self._drain(_Head(link, self._kept.hash))
            except LinkError as error:
                with self._changed:
                    self._faults += 1
                    if self._over or self._faults > FAULTS:
                        raise
                self._say(str(error))
                time.sleep(0.1 * self._faults)

    def _with_peer(self, connect: Connect, head: Connect) -> None:
        """Without it there is still the head."""
        try:
            with self._linked(connect) as link, self._linked(head) as told:
                self._drain(_Peer(link, told, self._kept.hash))
        except MotleyError as error:
            if not self._over:
                self._say(f"{error}; it is not asked again")

    @contextmanager
    def _linked(self, connect: Connect) -> Iterator[Link]:
        link = connect()
        with self._changed:
            over = self._over
            if not over:
                self._links[link] = threading.current_thread()
        if over:
            link.close()
            raise _Over
        try:
            yield link
        finally:
            with self._changed:
                self._links.pop(link, None)
            link.close()

    def _drain(self, source: _Head) -> None:
        asked: deque[Range] = deque()
        try:
            while not self._over:
                while len(asked) < source.ahead and (piece := self._next(source)):
                    asked.append(piece)
                    source.ask(piece)
                if not asked:
                    self._idle(source)
                    continue
                body = source.take(asked[0])
                self._keep(asked.popleft(), body, source)
            raise _Over
        finally:
            self._give_back(asked)

    def _next(self, source: _Head) -> Range | None:
        with self._changed:
            piece = source.next_of(self._left) if isinstance(source, _Peer) else self._next_of_head()
            if piece:
                self._left.pop(piece, None)
                self._asked[piece] = source, time.monotonic()
            return piece

    def _next_of_head(self) -> Range | None:
        """First what no peer has, then anything, at last what a peer is slow to send."""
        while self._order:
            if (piece := self._order.popleft()) in self._with_peers:
                self._later.append(piece)
            elif piece in self._left:
                return piece
        while self._later:
            if (piece := self._later.popleft()) in self._left:
                return piece
        late = time.monotonic() - SLOW_S
        return next((p for p, (source, since) in self._asked.items() if not source.is_head and since < late), None)

    def _idle(self, source: _Head) -> None:
        if isinstance(source, _Peer):
            with self._changed:
                left = list(self._left)
            if (found := source.look(left)) is not None:
                with self._changed:
                    self._with_peers.update(found)
            if found:
                return
        with self._changed:
            if not self._over:
                self._changed.wait(0.1)

    def _give_back(self, pieces: Sequence[Range]) -> None:
        with self._changed:
            for piece in pieces:
                self._asked.pop(piece, None)
                if piece in self._todo:
                    self._left[piece] = None
                    self._with_peers.discard(piece)
                    self._order.appendleft(piece)
            self._changed.notify_all()

    def _keep(self, piece: Range, body: memoryview, source: _Head) -> None:
        self._files.write(body, piece[0])
        self._kept.there.add(*piece)
        n_bytes = piece[1] - piece[0]
        with self._changed:
            self._asked.pop(piece, None)
            if source.is_head:
                self._faults = 0
            if piece not in self._todo:
                return  # another was faster
            self._todo.discard(piece)
            self._done += n_bytes
            self._from_peers += 0 if source.is_head else n_bytes
            self._not_noted += n_bytes
            is_time = self._not_noted > INDEX_EVERY_BYTES
            self._not_noted = 0 if is_time else self._not_noted
            self._tell()
            self._changed.notify_all()
        if is_time:
            self._kept.note(self._files.all())

    # -- what is said

    def _say(self, sentence: str) -> None:
        log.warning("fetching: %s", sentence)
        with self._changed:
            self._said.append(sentence)

    def _tell(self) -> None:
        peers = f", {self._from_peers / 1e6:.0f} of them from other nodes" if self._from_peers else ""
        said = f" ({self._said[-1]})" if self._said else ""
        what = f"fetching: {self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB{peers}{said}"
        try:
            self._progress(what, self._done / self._total)
        except Exception as error:  # whoever watches is gone
            self._error = self._error or error
            raise _Over from None
