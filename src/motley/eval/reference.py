"""A reference run: the scored logits of a text, kept in a file to compare other runs with.

    "MOTLEY-LOGITS 1\\n", then a header of JSON and one newline, padded with spaces to 4096 bytes in all;
    then for each window: tokens int32 [context], logits float32 [scored, n_vocab]; little-endian.

The logits are the model's own, unrounded: the same model placed otherwise differs from it by exactly nothing. The price
is 4 bytes * vocabulary * scored tokens: 1 MB a window of 512 for every 1000 tokens of the vocabulary.
"""

import os
import shutil
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError, UsageError
from motley.eval.windows import SHORTEST, Windows
from motley.formats.tokenizer import Tokenizer

MAGIC = b"MOTLEY-LOGITS 1\n"
HEADER_BYTES = 4096


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    model_file: str  # its name
    model_hash: str
    text: str  # its file's name
    vocabulary: str  # `vocabulary_hash`
    n_vocab: int  # of the logits: at least the vocabulary's tokens
    context: int
    windows: int

    @property
    def scored(self) -> int:
        return self.context - self.context // 2 - 1

    @property
    def window_bytes(self) -> int:
        return 4 * (self.context + self.scored * self.n_vocab)

    @property
    def file_bytes(self) -> int:
        return HEADER_BYTES + self.windows * self.window_bytes


def vocabulary_hash(tokenizer: Tokenizer) -> str:
    """Equal where every id stands for the same token."""
    digest = blake2b(digest_size=16)
    for i in range(tokenizer.vocab_size):
        text = tokenizer.token_text(i).encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(4, "little") + text)
    return digest.hexdigest()


class Writer:
    """Window by window: `tokens`, then `rows` until all its logits are there. Leaving it early, by an error or by
    Ctrl-C, leaves a file of the windows that are whole."""

    def __init__(self, path: Path, header: Header) -> None:
        free = shutil.disk_usage(path.parent).free + (path.stat().st_size if path.is_file() else 0)
        if header.file_bytes > free:
            raise UsageError(
                f"the logits take {header.file_bytes / 1e9:.1f} GB, and where {path} is to be {free / 1e9:.1f} GB are "
                "free: give fewer --chunks, or another folder"
            )
        self._header = header
        self._file = path.open("wb")
        self._file.write(_encoded(header))

    def tokens(self, tokens: NDArray[np.int32]) -> None:
        self._file.write(np.ascontiguousarray(tokens, "<i4").data)

    def rows(self, logits: NDArray[np.float32]) -> None:
        self._file.write(np.ascontiguousarray(logits, "<f4").data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file as file:
            whole = (file.tell() - HEADER_BYTES) // self._header.window_bytes
            if whole < self._header.windows:
                file.truncate(HEADER_BYTES + whole * self._header.window_bytes)
                file.seek(0)
                file.write(_encoded(msgspec.structs.replace(self._header, windows=whole)))


def _encoded(header: Header) -> bytes:
    short = {name: getattr(header, name)[:200] for name in ("model", "model_file", "text")}
    cut = msgspec.structs.replace(header, **short)
    return (MAGIC + msgspec.json.encode(cut)).ljust(HEADER_BYTES - 1) + b"\n"


class Reference:
    """A file, opened: nothing but the header is read until it is asked for."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError where it can't be read, FormatError where it is no such file, or not all of one."""
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(HEADER_BYTES)
        except OSError as error:
            raise UsageError(f"cannot read the reference {path}: {error.strerror or error}") from None
        if not head.startswith(MAGIC):
            raise FormatError(f"{path} is no reference: `motley eval perplexity --save-logits` writes one")
        self.path, self.header = path, _decoded(path, head)
        if size != self.header.file_bytes:
            h = self.header
            there = max(0, size - HEADER_BYTES) // h.window_bytes
            what = "is truncated" if size < h.file_bytes else "is longer than its header says"
            raise FormatError(f"{path} {what}: it holds {there} windows, {h.windows} were written; write it again")

    @property
    def windows(self) -> Windows:
        h = self.header
        tokens = [self._array(i, "<i4", 0, h.context) for i in range(h.windows)]
        found = np.stack(tokens).astype(np.int32, copy=False)
        if found.min() < 0 or found.max() >= h.n_vocab:
            raise FormatError(f"{self.path} names tokens outside its vocabulary of {h.n_vocab}: write it again")
        return Windows(found)

    def logits(self, i: int) -> NDArray[np.float32]:
        """[scored, V] of window i, mapped from the file."""
        h = self.header
        return self._array(i, "<f4", 4 * h.context, h.scored * h.n_vocab).reshape(h.scored, h.n_vocab)

    def require_vocabulary(self, tokenizer: Tokenizer, n_vocab: int, name: str) -> None:
        """Raises UsageError where another model's ids would mean other tokens."""
        if (self.header.vocabulary, self.header.n_vocab) != (vocabulary_hash(tokenizer), n_vocab):
            raise UsageError(
                f"{self.path} was written by {self.header.model}, whose vocabulary of {self.header.n_vocab} is another "
                f"than the {n_vocab} of {name}: probabilities of different tokens can't be compared"
            )

    def require_text(self, windows: Windows) -> None:
        """Raises UsageError where it was made of another text, or cut otherwise."""
        if windows.context != self.header.context:
            raise UsageError(
                f"{self.path} has windows of {self.header.context} tokens, not {windows.context}: leave out --context"
            )
        own = self.windows.tokens
        if len(own) > len(windows) or (own != windows.tokens[: len(own)]).any():
            raise UsageError(f"{self.path} was made of another text ({self.header.text}): write it again with this one")

    def _array(self, i: int, kind: str, offset: int, count: int) -> NDArray[Any]:
        at = HEADER_BYTES + i * self.header.window_bytes + offset
        return np.memmap(self.path, kind, "r", at, (count,))


def _decoded(path: Path, head: bytes) -> Header:
    try:
        header = msgspec.json.decode(head[len(MAGIC) :], type=Header)
    except msgspec.MsgspecError as error:
        raise FormatError(f"{path}: its header is damaged ({error}): write it again") from None
    if header.context < SHORTEST or header.n_vocab < 1 or header.windows < 1:
        raise FormatError(f"{path} holds nothing to compare with: it was interrupted in its first window")
    return header


def saved_size(path: Path) -> str:
    return f"{os.path.getsize(path) / 1e6:,.0f} MB"
