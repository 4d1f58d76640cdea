"""safetensors files, one or many: memory-mapped entries, nothing read until used.

Owns the grammar (8 bytes with the header's length, a JSON header, the data; source: the format's description in
github.com/huggingface/safetensors) and its distrust: whatever is wrong becomes one FormatError that names file and
tensor. What the entries of quantised checkpoints mean is `packed`'s work.
"""

import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError, UsageError
from motley.formats.mapping import AGAIN, map_file
from motley.formats.metadata import shown

MAX_HEADER = 100_000_000  # bytes: the limit of the format's own reader
MAX_DIMS = 8
INDEX = "model.safetensors.index.json"

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A tensor as a file has it: row-major, little-endian."""

    name: str
    dtype: str  # the format's name: BF16, F8_E4M3, I32, ...
    dims: tuple[int, ...]
    data: NDArray[np.uint8]  # [n_bytes], a view into the mapped file


@dataclass(frozen=True)
class SafetensorsFile:
    path: Path
    entries: Mapping[str, Entry]
    bytes: mmap.mmap
    data_offset: int  # where the header ends


def read_safetensors(path: Path) -> SafetensorsFile:
    """Map a file and read its header. FormatError says what is wrong with it, UsageError that it can't be opened."""
    mapped = map_file(path)
    if len(mapped) < 8:
        raise FormatError(f"{path}: {len(mapped)} bytes are no safetensors file; {AGAIN}")
    length = int.from_bytes(mapped[:8], "little")
    if length > min(MAX_HEADER, len(mapped) - 8):
        raise FormatError(
            f"{path}: the header would be {length} bytes long, but {len(mapped) - 8} follow (and {MAX_HEADER} are the "
            f"most): the file is cut short, or no safetensors file; {AGAIN}"
        )
    start = 8 + length
    described = _header(path, mapped[8:start])
    raw = np.frombuffer(mapped, np.uint8)[start:]
    entries = {name: _entry(path, name, what, raw) for name, what in described.items() if name != "__metadata__"}
    _check_apart(path, entries, described)
    return SafetensorsFile(path, entries, mapped, start)


def read_folder(folder: Path) -> list[SafetensorsFile]:
    """The files of a checkpoint: those that `model.safetensors.index.json` names, else `model.safetensors`, else all
    `*.safetensors`. Their tensors are distinct, and every one that the index names is there."""
    index = folder / INDEX
    where = weight_map(index) if index.is_file() else {}
    paths = [folder / name for name in sorted(set(where.values()))] or _without_index(folder)
    for path in paths:
        if not path.is_file():
            raise FormatError(f"{path}: is missing, but {INDEX} names it; download it too")
    files = [read_safetensors(path) for path in paths]
    seen: dict[str, Path] = {}
    for file in files:
        for name in file.entries:
            if name in seen:
                raise FormatError(f"{file.path}: tensor {shown(name)} is in {seen[name].name} too; {AGAIN}")
            seen[name] = file.path
    for name, file_name in where.items():
        if name not in seen or seen[name].name != file_name:
            raise FormatError(f"{folder / file_name}: tensor {shown(name)} is missing, but {INDEX} names it; {AGAIN}")
    return files


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file that came from elsewhere; every way in which it can be wrong is a FormatError."""
    try:
        return _object(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be opened: {error.strerror or error}") from error


def _without_index(folder: Path) -> list[Path]:
    whole = folder / "model.safetensors"
    found = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    if not found:
        raise FormatError(f"{folder}: holds no .safetensors file; Motley reads no other weights beside GGUF")
    return found


def weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file beside the index."""
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise FormatError(f"{index}: has no weight_map; {AGAIN}")
    good: set[str] = set()  # a hundred thousand tensors are in some hundred files
    for name, file in where.items():
        if isinstance(file, str) and file in good:
            continue
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise FormatError(f"{index}: {shown(name)} is said to be in {shown(file)}, which is no .safetensors file")
        good.add(file)
    return where


def _header(path: Path, text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise FormatError(f"{path}: its header is no JSON object: this is not a safetensors file")
    return _object(text, f"{path}: the header")


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text, object_pairs_hook=_distinct)
    except _Twice as error:
        raise FormatError(f"{what} names {shown(str(error))} twice; {AGAIN}") from None
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise FormatError(f"{what} is not valid JSON: {str(error)[:100]}; {AGAIN}") from None
    if not isinstance(found, dict):
        raise FormatError(f"{what} is no JSON object; {AGAIN}")
    return found


class _Twice(Exception):
    pass


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(key for i, key in enumerate(keys) if key in keys[:i]))
    return found


def _entry(path: Path, name: str, what: Any, raw: NDArray[np.uint8]) -> Entry:
    told = f"{path}: tensor {shown(name)}"
    if not isinstance(what, dict):
        raise FormatError(f"{told} is described by {shown(what)}, not by an object; {AGAIN}")
    dtype, dims, offsets = what.get("dtype"), what.get("shape"), what.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise FormatError(f"{told} has the type {shown(dtype)}, but Motley knows {', '.join(BITS)}")
    if not (_whole_numbers(dims) and len(dims) <= MAX_DIMS):
        raise FormatError(f"{told} has the shape {shown(dims)}, not up to {MAX_DIMS} whole numbers; {AGAIN}")
    if not (_whole_numbers(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1] <= len(raw)):
        raise FormatError(f"{told} has the offsets {shown(offsets)}, but the data are {len(raw)} bytes; {AGAIN}")
    if (offsets[1] - offsets[0]) * 8 != prod(dims) * BITS[dtype]:
        size = prod(dims) * BITS[dtype] // 8
        raise FormatError(f"{told} {dims} {dtype} takes {size} bytes, not {offsets[1] - offsets[0]}; {AGAIN}")
    return Entry(name, dtype, tuple(dims), raw[offsets[0] : offsets[1]])


def _whole_numbers(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 62 for v in values)


def _check_apart(path: Path, entries: Mapping[str, Entry], described: Mapping[str, Any]) -> None:
    def places() -> Iterator[tuple[int, int, str]]:
        for name, entry in entries.items():
            if entry.data.size:
                start, end = described[name]["data_offsets"]
                yield start, end, name

    for (_, end, before), (start, _, after) in pairwise(sorted(places())):
        if end > start:
            raise FormatError(f"{path}: tensor {shown(after)} overlaps tensor {shown(before)}; {AGAIN}")
