"""Weights: a node fetches the byte ranges of a model file that it needs, and keeps them for the next time.

What is kept is a sparse file with the model file's own layout, holes where nothing is needed, so that it is opened and
mapped like any other; beside it an index of the ranges that are there. A range enters the index after its bytes have
reached the disk: a node that is killed in the middle goes on where the index ends. Every piece comes with its checksum,
which finds damage on the way; that the head sends the right file is taken on trust, but for what its hash covers.
Only files that this process itself serves can be asked for, by their hash: no path ever comes from the wire.
"""

import os
import queue
import re
import shutil
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from motley.cluster import messages
from motley.cluster.link import Link
from motley.cluster.messages import Kind, Parts
from motley.errors import CapacityError, ClusterError, LinkError
from motley.progress import Progress

PIECE_BYTES = 4 << 20
CONNECTIONS = 3
AHEAD = 2  # requests on the way on each: a piece crosses while the last one is written
INDEX_EVERY_BYTES = 256 << 20

_FETCH = struct.Struct("<32sQI")  # hash in hex, offset, bytes
_FETCHED = struct.Struct("<I")  # crc32 of the bytes that follow

Range = tuple[int, int]  # [start, end)


def fetch_call(file_hash: str, start: int, end: int) -> Parts:
    return [_FETCH.pack(file_hash.encode(), start, end - start)]


def read_fetch(payload: memoryview) -> tuple[str, int, int]:
    """(hash, start, end)"""
    if payload.nbytes != _FETCH.size:
        raise LinkError(f"malformed fetch: {payload.nbytes} bytes where {_FETCH.size} are expected")
    name, start, size = _FETCH.unpack(payload)
    if size > PIECE_BYTES:
        raise LinkError(f"malformed fetch: {size} bytes asked for at once, at most {PIECE_BYTES} are sent")
    return name.decode("ascii", "replace"), start, start + size


def fetch_reply(piece: memoryview) -> Parts:
    return [_FETCHED.pack(zlib.crc32(piece)), piece]


def read_fetched(payload: memoryview, size: int) -> memoryview:
    body = payload[_FETCHED.size :]
    if body.nbytes != size or zlib.crc32(body) != _FETCHED.unpack_from(payload)[0]:
        raise LinkError(f"a piece of the weights came damaged ({body.nbytes} of {size} bytes): this link corrupts data")
    return body


@dataclass(frozen=True)
class Served:
    """A file that others may fetch, by its hash."""

    data: memoryview
    header_bytes: int

    def piece(self, start: int, end: int) -> memoryview:
        if end > self.data.nbytes:
            raise ClusterError(f"bytes {start} to {end} were asked of a file of {self.data.nbytes}")
        return self.data[start:end]


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int
    there: tuple[Range, ...]  # ascending, apart


@dataclass
class Kept:
    """What this node has of one file: `path` can be opened once its header is there."""

    path: Path
    size: int
    there: list[Range] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, file_hash: str, size: int) -> "Kept":
        """What an earlier run left, or an empty one. A damaged index counts as none. Raises LinkError for what is no
        hash: it came from another machine, and becomes a file's name."""
        if not re.fullmatch(r"[0-9a-f]{32}", file_hash):
            raise LinkError(f"malformed load: {file_hash[:40]!r} is no file's hash")
        folder.mkdir(parents=True, exist_ok=True)
        kept = cls(folder / f"{file_hash}.gguf", size)
        try:
            index = msgspec.json.decode(kept._index.read_bytes(), type=_Index)
            if index.size == size == kept.path.stat().st_size:
                kept.there = list(index.there)
        except (OSError, msgspec.DecodeError):
            kept.there = []
        with kept.path.open("ab") as file:
            file.truncate(size)
        return kept

    def forget(self) -> None:
        """What is there is not what it should be."""
        self._index.unlink(missing_ok=True)

    def missing(self, wanted: Sequence[Range]) -> list[Range]:
        found = []
        for start, end in merged(wanted):
            for have_start, have_end in self.there:
                if have_end <= start or have_start >= end:
                    continue
                if have_start > start:
                    found.append((start, have_start))
                start = max(start, have_end)
            if start < end:
                found.append((start, end))
        return found

    def note(self, ranges: Sequence[Range], file: int) -> None:
        """They are written: onto the disk with them, then into the index."""
        os.fsync(file)
        self.there = merged([*self.there, *ranges])
        beside = self._index.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(_Index(self.size, tuple(self.there))))
        beside.replace(self._index)

    @property
    def _index(self) -> Path:
        return self.path.with_suffix(".json")


def _write_all(file: int, body: memoryview, start: int) -> None:
    """A disk that fills takes a part first, and refuses only the next write."""
    while body.nbytes:
        written = os.pwrite(file, body, start)
        body, start = body[written:], start + written


def merged(ranges: Sequence[Range]) -> list[Range]:
    """Ascending, without overlaps; neighbours become one."""
    found: list[Range] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def fetch(kept: Kept, file_hash: str, wanted: Sequence[Range], connect: Callable[[], Link], progress: Progress) -> int:
    """Have all of `wanted`; returns how many bytes were fetched for it. What came before an error is kept."""
    missing = kept.missing(wanted)
    total = sum(end - start for start, end in missing)
    if not total:
        return 0
    free = shutil.disk_usage(kept.path.parent).free
    if total > free:
        raise CapacityError(
            f"{total / 1e9:.2f} GB of weights are to be kept in {kept.path.parent}, and {free / 1e9:.2f} GB are free: "
            "make room, or set MOTLEY_CACHE to another disk"
        )
    pieces = [(at, min(at + PIECE_BYTES, end)) for start, end in missing for at in range(start, end, PIECE_BYTES)]
    with kept.path.open("r+b") as file:
        _Fetching(kept, file_hash, pieces, file.fileno(), progress, total).run(connect)
    return total


class _Fetching:
    """Several connections take pieces from one queue; the first error ends all, and what came is noted."""

    def __init__(
        self, kept: Kept, file_hash: str, pieces: Sequence[Range], file: int, progress: Progress, total: int
    ) -> None:
        self._kept, self._hash, self._file = kept, file_hash, file
        self._progress, self._total, self._done = progress, total, 0
        self._left: queue.SimpleQueue[Range] = queue.SimpleQueue()
        for piece in pieces:
            self._left.put(piece)
        self._connections = min(CONNECTIONS, len(pieces))
        self._written: list[Range] = []
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def run(self, connect: Callable[[], Link]) -> None:
        links: list[Link] = []
        try:
            links += (connect() for _ in range(self._connections))
        except ClusterError:
            for link in links:
                link.close()
            raise
        threads = [threading.Thread(target=self._work, args=(link,), name="fetch", daemon=True) for link in links]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            for link in links:
                link.interrupt()
            for link, thread in zip(links, threads):
                thread.join()
                link.close()
            self._kept.note(self._written, self._file)
        if isinstance(self._error, OSError):
            raise CapacityError(
                f"weights could not be written to {self._kept.path.parent}: {self._error.strerror}; "
                f"{shutil.disk_usage(self._kept.path.parent).free / 1e6:.0f} MB are free there; what came is kept"
            ) from self._error
        if self._error:
            raise self._error

    def _work(self, link: Link) -> None:
        asked: list[Range] = []
        try:
            while self._error is None:
                while len(asked) < AHEAD and (piece := self._next()):
                    link.send(Kind.FETCH, 0, fetch_call(self._hash, *piece))
                    asked.append(piece)
                if not asked:
                    return
                start, end = asked.pop(0)
                body = read_fetched(messages.expect(link.receive(60.0), Kind.FETCHED, 0), end - start)
                _write_all(self._file, body, start)
                self._count((start, end))
        except BaseException as error:
            self._error = self._error or error

    def _next(self) -> Range | None:
        try:
            return self._left.get_nowait()
        except queue.Empty:
            return None

    def _count(self, piece: Range) -> None:
        with self._lock:
            self._written.append(piece)
            self._done += piece[1] - piece[0]
            if sum(end - start for start, end in self._written) > INDEX_EVERY_BYTES:
                self._kept.note(self._written, self._file)
                self._written = []
            what = f"fetching: {self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB"
            self._progress(what, self._done / self._total)
