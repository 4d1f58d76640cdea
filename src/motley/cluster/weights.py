"""Weights: what crosses when a node fetches its part of a model: which files there are, and pieces of their bytes.

All files of a model stand one behind the other in one space of bytes (`Layout`), so that a file, a split set and a
folder are one thing to whoever fetches. A piece lies in one file. It comes with a checksum, which finds damage on the
way; and whoever has the right bytes (the head) tells the digest of any piece, which finds what a peer sends that is
not the model's. Only a model that this process itself opened can be asked for, by its hash: no path ever comes from
the wire, and the names that do are names in a folder of the node's own.
"""

import hashlib
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import msgspec

from motley.cluster.messages import Parts
from motley.cluster.ranges import Range, Ranges, merged
from motley.errors import ClusterError, LinkError
from motley.formats.checkpoint import sampled
from motley.formats.tensor import Checkpoint

PIECE_BYTES = 4 << 20
MAX_FILES = 4096
MAX_TOLD = 100_000  # ranges in one answer: who has more tells the first ones
MAX_DIGESTS = 1 << 17

_FETCH = struct.Struct("<32sQI")  # hash in hex, offset, bytes
_FETCHED = struct.Struct("<I")  # crc32 of the bytes that follow
_NAME = re.compile(r"[^\x00-\x1f\x7f/\\:.][^\x00-\x1f\x7f/\\:]{0,199}\.(gguf|safetensors|json|jinja)")


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


def digest_of(piece: memoryview) -> str:
    """Of what a peer sends: SHA-256, which nobody can aim at."""
    return hashlib.sha256(piece).hexdigest()


class FileFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str  # of a copy, in a folder of its own
    size: int
    header_bytes: int


class Layout:
    """The files of a model as one space of bytes."""

    def __init__(self, files: Sequence[FileFacts]) -> None:
        self.files = tuple(files)
        self.starts = [0, *accumulate(file.size for file in files)]
        self.size = self.starts[-1]

    @classmethod
    def read(cls, told: Any) -> "Layout":
        """As another machine tells it: names become file names here. LinkError for what can't be."""
        try:
            files = msgspec.convert(told, tuple[FileFacts, ...])
        except msgspec.ValidationError as error:
            raise LinkError(f"malformed list of a model's files: {error}") from None
        names = {file.name.casefold() for file in files}
        for file in files:
            if not (_NAME.fullmatch(file.name) and 0 <= file.header_bytes <= file.size and 0 < file.size < 1 << 50):
                raise LinkError(f"malformed list of a model's files: {str(file)[:300]!r}")
        if not 0 < len(files) <= MAX_FILES or len(names) < len(files):
            raise LinkError(f"malformed list of a model's files: {len(files)} with {len(names)} names")
        return cls(files)

    def find(self, start: int, end: int) -> tuple[int, int]:
        """(which file, where in it); ClusterError where these bytes are not one file's."""
        file = bisect_right(self.starts, start) - 1
        if not 0 <= start < end <= self.size or end > self.starts[file + 1]:
            raise ClusterError(
                f"bytes {start} to {end} were asked of a model of {self.size}, across two files or beyond"
            )
        return file, start - self.starts[file]

    def pieces(self, ranges: Iterable[Range]) -> list[Range]:
        """Cut where files end and at multiples of the largest size, so that nodes cut alike."""
        found = []
        for start, end in merged(ranges):
            while start < end:
                stop = min(end, (start // PIECE_BYTES + 1) * PIECE_BYTES, self.starts[bisect_right(self.starts, start)])
                found.append((start, stop))
                start = stop
        return found

    def identity(self) -> list[Range]:
        """The headers, and the samples that the model's hash covers."""
        found = []
        for start, file in zip(self.starts, self.files):
            parts = [(0, file.header_bytes), *sampled(file.header_bytes, file.size)]
            found += [(start + first, start + end) for first, end in parts]
        return merged(found)


class Served:
    """A model that others may fetch. `there`: what of it, where that is not all."""

    def __init__(self, layout: Layout, data: Sequence[memoryview], there: Ranges | None = None) -> None:
        self.layout, self._data, self._there = layout, data, there
        self._digests: dict[Range, str] = {}

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Served":
        files = [FileFacts(file.name, file.data.nbytes, file.header_bytes) for file in checkpoint.files]
        return cls(Layout(files), [file.data for file in checkpoint.files])

    def facts(self) -> dict[str, Any]:
        """Files, and what of them is there: null for all."""
        there = None if self._there is None else self._there.all()[:MAX_TOLD]
        return {"files": msgspec.to_builtins(self.layout.files), "there": there}

    def piece(self, start: int, end: int) -> memoryview:
        file, at = self.layout.find(start, end)
        if self._there is not None and not self._there.covers(start, end):
            raise ClusterError(f"bytes {start} to {end} of the model are not here")
        return self._data[file][at : at + end - start]

    def digest(self, start: int, end: int) -> str:
        """Each piece is read once, however many peers it is fetched from."""
        if (found := self._digests.get((start, end))) is None:
            if not 0 < end - start <= PIECE_BYTES:
                raise ClusterError(
                    f"the digest of {end - start} bytes was asked for, at most {PIECE_BYTES} are a piece"
                )
            found = digest_of(self.piece(start, end))
            if len(self._digests) >= MAX_DIGESTS:
                self._digests.clear()
            self._digests[start, end] = found
        return found
