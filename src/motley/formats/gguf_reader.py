"""One GGUF file, versions 2 and 3, little-endian: memory-mapped metadata and tensors, nothing read until used.

Owns the file's grammar and its distrust: every count, length and offset is checked against the bytes that are there
before anything is allocated, and whatever is wrong becomes one FormatError that names the field or tensor.
Split files and the content hash are `checkpoint`'s work. Source of the grammar: ggml's docs/gguf.md.
A file that is cut short while it is mapped ends the process with SIGBUS, as with any memory-mapped file.
"""

import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from motley.errors import FormatError, UnsupportedError
from motley.formats.mapping import AGAIN, map_file
from motley.formats.metadata import shown
from motley.formats.tensor import QuantTensor
from motley.shape.quant import Quant

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32  # unless general.alignment says otherwise
MAX_DIMS = 4  # ggml's limit
MAX_DEPTH = 4  # of arrays within arrays; no known file nests them at all
MAX_NAME = 65535  # bytes of a key (the specification's limit) or tensor name
# Elements of all metadata arrays together. The largest vocabularies need about 1 M; without a limit, one byte of a
# hostile file could cost 8 bytes of Python list.
MAX_ELEMENTS = 1 << 24
_MIN_PAIR = 8 + 4 + 1  # bytes of the shortest key-value pair: key length, type, one-byte value
_MIN_INFO = 8 + 4 + 8 + 4 + 8  # bytes of the shortest tensor info: name length, n_dims, one dim, type, offset

RECONVERT = "convert the model again with a current converter"


class ValueType(IntEnum):
    """GGUF's metadata types, by their ids."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


DTYPES: dict[ValueType, np.dtype[Any]] = {
    ValueType.UINT8: np.dtype("u1"),
    ValueType.INT8: np.dtype("i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("u1"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}

# ggml's tensor types that Motley can name but not read (ggml.h, enum ggml_type).
_OTHER_TYPES = {
    9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 34: "TQ1_0", 35: "TQ2_0", 41: "Q1_0",
}  # fmt: skip
_QUANTS = {quant.ggml_type: quant for quant in Quant}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class GGUFFile:
    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, QuantTensor]  # in the file's order
    bytes: mmap.mmap  # the whole file
    data_offset: int  # where tensor data begins


@dataclass(frozen=True)
class _Info:
    name: str
    dims: tuple[int, ...]
    quant: Quant
    offset: int  # from the start of the data

    @property
    def n_bytes(self) -> int:
        return self.quant.n_bytes(prod(self.dims))


def read_gguf(path: Path) -> GGUFFile:
    """Map a file and read its header. FormatError says what is wrong with it, UsageError that it can't be opened."""
    mapped = map_file(path)
    cursor = _Cursor(mapped, path)
    n_tensors, n_pairs = _read_start(cursor)
    metadata = _read_metadata(cursor, n_pairs)
    infos = _read_infos(cursor, n_tensors)
    alignment = _alignment(cursor, metadata)
    data_offset = -(-cursor.position // alignment) * alignment
    _check_places(cursor, infos, data_offset, alignment)
    raw = np.frombuffer(mapped, np.uint8)
    tensors = {}
    for info in infos:
        start = data_offset + info.offset
        tensors[info.name] = QuantTensor(info.name, info.dims, info.quant, raw[start : start + info.n_bytes])
    return GGUFFile(path, metadata, tensors, mapped, data_offset)


class _Cursor:
    """Reads forward through the header; each read is checked against the file's end and names what it was for."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.position = 0
        self.end = len(data)
        self.elements_left = MAX_ELEMENTS

    def error(self, what: str, problem: str, remedy: str = AGAIN) -> FormatError:
        return FormatError(f"{self.path}: {what}: {problem}; {remedy}")

    def take(self, n_bytes: int, what: str) -> int:
        """Step over `n_bytes`; the position where they begin."""
        start = self.position
        if n_bytes > self.end - start:
            raise self.error(what, f"needs {n_bytes} bytes at offset {start}, but the file ends at {self.end}")
        self.position = start + n_bytes
        return start

    def u32(self, what: str) -> int:
        value: int = _U32.unpack_from(self.data, self.take(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        value: int = _U64.unpack_from(self.data, self.take(8, what))[0]
        return value

    def count(self, what: str, min_bytes: int) -> int:
        """A 64-bit count of things that take at least `min_bytes` each: more than could follow is refused."""
        count = self.u64(what)
        if count > (self.end - self.position) // min_bytes:
            raise self.error(what, f"{count} cannot fit in the {self.end - self.position} bytes that follow")
        return count

    def text(self, what: str, longest: int | None = None) -> str:
        n_bytes = self.u64(f"length of {what}")
        if longest is not None and n_bytes > longest:
            raise self.error(what, f"is {n_bytes} bytes long, more than {longest}", RECONVERT)
        start = self.take(n_bytes, what)
        try:
            return str(self.data[start : start + n_bytes], "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(what, f"is not valid UTF-8 at byte {error.start}", RECONVERT) from None

    def texts(self, count: int, what: str) -> list[str]:
        """`count` strings: one tight loop, since vocabularies have 150,000 of them."""
        data, position, end = self.data, self.position, self.end
        unpack = _U64.unpack_from
        out: list[str] = []
        try:
            for _ in range(count):
                start = position + 8
                position = start + unpack(data, position)[0]
                if position > end:
                    break
                out.append(str(data[start:position], "utf-8"))
        except UnicodeDecodeError as error:
            where = f"{what}[{len(out)}]"
            raise self.error(where, f"is not valid UTF-8 at byte {error.start}", RECONVERT) from None
        except struct.error:
            pass  # the length itself lies beyond the end
        if len(out) < count:
            raise self.error(f"{what}[{len(out)}]", f"runs beyond the file's end at {end}")
        self.position = position
        return out


def _read_start(cursor: _Cursor) -> tuple[int, int]:
    """Magic, version and the two counts: (tensors, metadata pairs)."""
    magic = cursor.data[:4]
    if magic != MAGIC:
        raise cursor.error("magic", f"is {magic!r}, not {MAGIC!r}: this is not a GGUF file", "pass a .gguf file")
    cursor.take(4, "magic")
    version = cursor.u32("version")
    if version == 1:
        raise UnsupportedError(f"{cursor.path}: version: 1 is too old, Motley reads 2 and 3; {RECONVERT}")
    if version not in (2, VERSION):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") <= 0xFFFF
        why = "this is a big-endian file" if swapped and version > 0xFFFF else f"{version} is unknown"
        raise UnsupportedError(f"{cursor.path}: version: {why}, Motley reads little-endian 2 and 3; {RECONVERT}")
    n_tensors = cursor.count("tensor count", _MIN_INFO)
    return n_tensors, cursor.count("metadata count", _MIN_PAIR)


def _read_metadata(cursor: _Cursor, n_pairs: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(n_pairs):
        key = cursor.text(f"metadata key {index}", MAX_NAME)
        what = f"metadata {shown(key)}"
        if key in metadata:
            raise cursor.error(what, "appears twice", RECONVERT)
        metadata[key] = _read_value(cursor, _read_type(cursor, what), what)
    return metadata


def _read_type(cursor: _Cursor, what: str) -> ValueType:
    number = cursor.u32(f"type of {what}")
    try:
        return ValueType(number)
    except ValueError:
        raise cursor.error(what, f"has the unknown type {number}") from None


def _read_value(cursor: _Cursor, kind: ValueType, what: str) -> Any:
    if kind is ValueType.STRING:
        return cursor.text(what)
    if kind is ValueType.ARRAY:
        return _read_array(cursor, what, 1)
    return _read_numbers(cursor, kind, 1, what)[0]


def _read_array(cursor: _Cursor, what: str, depth: int) -> list[Any]:
    if depth > MAX_DEPTH:
        raise cursor.error(what, f"arrays are nested more than {MAX_DEPTH} deep", RECONVERT)
    kind = _read_type(cursor, f"elements of {what}")
    smallest = {ValueType.STRING: 8, ValueType.ARRAY: 12}.get(kind) or DTYPES[kind].itemsize
    count = cursor.count(f"length of {what}", smallest)
    if count > cursor.elements_left:
        raise cursor.error(what, f"has {count} elements: Motley reads {MAX_ELEMENTS} in all", RECONVERT)
    cursor.elements_left -= count
    if kind is ValueType.STRING:
        return cursor.texts(count, what)
    if kind is ValueType.ARRAY:
        return [_read_array(cursor, f"{what}[{i}]", depth + 1) for i in range(count)]
    return _read_numbers(cursor, kind, count, what)


def _read_numbers(cursor: _Cursor, kind: ValueType, count: int, what: str) -> list[Any]:
    dtype = DTYPES[kind]
    start = cursor.take(count * dtype.itemsize, what)
    values: list[Any] = np.frombuffer(cursor.data, dtype, count, start).tolist()
    if kind is ValueType.BOOL:
        if any(value > 1 for value in values):
            raise cursor.error(what, "holds a boolean that is neither 0 nor 1")
        return [bool(value) for value in values]
    return values


def _read_infos(cursor: _Cursor, n_tensors: int) -> list[_Info]:
    infos: dict[str, _Info] = {}
    for index in range(n_tensors):
        info = _read_info(cursor, index)
        if info.name in infos:
            raise cursor.error(f"tensor {shown(info.name)}", "appears twice", RECONVERT)
        infos[info.name] = info
    return list(infos.values())


def _read_info(cursor: _Cursor, index: int) -> _Info:
    name = cursor.text(f"name of tensor {index}", MAX_NAME)
    what = f"tensor {shown(name)}"
    n_dims = cursor.u32(f"number of dimensions of {what}")
    if not 1 <= n_dims <= MAX_DIMS:
        raise cursor.error(what, f"has {n_dims} dimensions, not 1 to {MAX_DIMS}")
    dims = tuple(cursor.u64(f"dimension {i} of {what}") for i in range(n_dims))[::-1]  # the file has the fastest first
    if 0 in dims:
        raise cursor.error(what, f"has an empty dimension: {list(dims)}")
    number = cursor.u32(f"type of {what}")
    quant = _QUANTS.get(number)
    if quant is None:
        known = ", ".join(q.name for q in Quant)
        called = _OTHER_TYPES.get(number, "unknown")
        raise UnsupportedError(f"{cursor.path}: {what} has type {number} ({called}), but Motley reads {known}")
    if dims[-1] % quant.block:
        raise cursor.error(what, f"rows of {dims[-1]} do not fill {quant.name} blocks of {quant.block}", RECONVERT)
    return _Info(name, dims, quant, cursor.u64(f"offset of {what}"))


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    value = metadata.get("general.alignment", ALIGNMENT)
    if type(value) is not int or value < 1 or value & (value - 1):
        raise cursor.error("metadata 'general.alignment'", f"is {shown(value)}, not a power of two", RECONVERT)
    return value


def _check_places(cursor: _Cursor, infos: list[_Info], data_offset: int, alignment: int) -> None:
    """Every tensor lies aligned, inside the file, and apart from the others."""
    for info in infos:
        what = f"tensor {shown(info.name)}"
        if info.offset % alignment:
            raise cursor.error(what, f"offset {info.offset} is not a multiple of {alignment}")
        end = data_offset + info.offset + info.n_bytes
        if end > cursor.end:
            raise cursor.error(what, f"{list(info.dims)} {info.quant.name} would end at byte {end} of {cursor.end}")
    ordered = sorted(infos, key=lambda info: info.offset)
    for before, after in pairwise(ordered):
        if before.offset + before.n_bytes > after.offset:
            raise cursor.error(f"tensor {shown(after.name)}", f"overlaps tensor {shown(before.name)}")
