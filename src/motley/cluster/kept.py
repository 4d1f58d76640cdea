"""Kept: what a node has of a model that it fetched, for the next time.

A folder of sparse files with the model's own layout, holes where nothing is needed, so that it is opened and mapped
like any other; beside it an index of the ranges that are there. A range enters the index after its bytes have reached
the disk: a node that is killed in the middle goes on where the index ends. Several processes of a machine may keep the
same model: each adds to the index.
"""

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from motley.cluster.alone import alone
from motley.cluster.ranges import Range, Ranges
from motley.cluster.weights import FileFacts, Layout
from motley.errors import CapacityError, LinkError
from motley.formats.mapping import map_file

CONFIG = "config.json"  # whose folder is a model
INDEX_BYTES, RANGE_BYTES = 64 << 10, 64  # room that is held for the index: for itself, and for a range


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    files: tuple[FileFacts, ...]
    there: tuple[Range, ...]  # ascending, apart


@dataclass
class Kept:
    folder: Path
    hash: str
    layout: Layout
    there: Ranges = field(default_factory=Ranges)
    _noting: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _ballast: IO[bytes] | None = field(default=None, repr=False)

    @classmethod
    def open(cls, store: Path, file_hash: str, layout: Layout) -> "Kept":
        """What an earlier run left, or an empty one. A damaged index counts as none. Raises LinkError for what is no
        hash: it came from another machine, and becomes a folder's name. CapacityError where nothing can be kept."""
        if not re.fullmatch(r"[0-9a-f]{32}", file_hash):
            raise LinkError(f"malformed load: {file_hash[:40]!r} is no file's hash")
        kept = cls(store / file_hash, file_hash, layout)
        with kept.writing():
            kept.folder.mkdir(parents=True, exist_ok=True)
            with alone(kept.folder):
                is_new = [_laid_out(kept.folder / file.name, file.size) for file in layout.files]
                if any(is_new):
                    kept.forget()  # somebody deleted files: what the index says was in them, too
                kept.there = Ranges(kept._indexed())
        return kept

    @property
    def path(self) -> Path:
        """What to open, once the headers are there."""
        first = self.layout.files[0].name
        return self.folder if any(file.name == CONFIG for file in self.layout.files) else self.folder / first

    def mapped(self) -> list[memoryview]:
        """Its files, as they are and will be."""
        return [memoryview(map_file(self.folder / file.name)) for file in self.layout.files]

    def forget(self) -> None:
        """What is there is not what it should be."""
        self._index.unlink(missing_ok=True)

    def note(self, written: Iterable[int]) -> None:
        """All that is there: onto the disk with it (`written`: the files' descriptors), then into the index."""
        with self._noting:
            there = self.there.all()
            for file in written:
                os.fsync(file)
            with alone(self.folder):
                text = msgspec.json.encode(_Index(self.layout.files, tuple(Ranges([*there, *self._indexed()]).all())))
                beside = self._index.with_suffix(".new")
                self.release_room()  # where the disk is full, it is the index's
                try:
                    beside.write_bytes(text)
                    beside.replace(self._index)
                finally:
                    beside.unlink(missing_ok=True)

    def hold_room(self, n_ranges: int) -> None:
        """For an index of so many ranges more, even on a disk that is full by then."""
        n_bytes = INDEX_BYTES + RANGE_BYTES * (n_ranges + len(self.there.all()))
        self._ballast = tempfile.TemporaryFile(dir=self.folder.parent, buffering=0)  # noqa: SIM115 `release_room` closes it; it has no name, so it ends with this process
        self._ballast.write(os.urandom(n_bytes))  # no file system makes less of it

    def release_room(self) -> None:
        ballast, self._ballast = self._ballast, None
        if ballast:
            ballast.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """An error of the disk within becomes a sentence."""
        try:
            yield
        except OSError as error:
            raise CapacityError(
                f"weights can't be written to {self.folder.parent}: {error.strerror or error}; {self.remedy()}; what "
                "came is kept"
            ) from error

    def remedy(self) -> str:
        """What makes room."""
        others = bytes_of(self.folder.parent, but=self.hash)
        known = f" (delete what is there of other models, {others / 1e9:.2f} GB)" if others else ""
        return f"make room{known}, or set MOTLEY_CACHE to another disk, and load again"

    def _indexed(self) -> tuple[Range, ...]:
        try:
            index = msgspec.json.decode(self._index.read_bytes(), type=_Index)
        except (OSError, msgspec.DecodeError):
            return ()
        return index.there if index.files == self.layout.files else ()

    @property
    def _index(self) -> Path:
        return self.folder.with_suffix(".json")


def bytes_of(store: Path, but: str = "") -> int:
    """What the kept weights take of the disk, those of one model left out."""
    total = 0
    for path in store.glob("*/*"):
        with suppress(OSError):  # gone in this moment
            total += path.stat().st_blocks * 512 if path.parent.name != but else 0
    return total


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _laid_out(path: Path, size: int) -> bool:
    """Make it a file of that size, whether it was none. One of another size is replaced, not cut: it may be mapped."""
    with suppress(FileNotFoundError):
        if path.stat().st_size == size:
            return False
        path.unlink()
    with path.open("xb") as file:
        file.truncate(size)
    return True
