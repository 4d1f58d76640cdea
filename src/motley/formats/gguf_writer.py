"""Write a GGUF version 3 file: streaming, atomic, in bounded memory.

Tensor bytes come as iterators of chunks, so a file may be larger than memory. The file appears under its name only
when it is whole: until then it has a temporary name beside it. Source of the grammar: the GGUF specification.
"""

import errno
import os
import shutil
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from motley.errors import CapacityError, FormatError, UsageError
from motley.formats.gguf_reader import ALIGNMENT, DTYPES, MAGIC, MAX_DIMS, VERSION, ValueType
from motley.shape.quant import Quant

WRITE_BYTES = 4 << 20  # measured: larger single writes reach a fifth of the speed on Linux's page cache
Bytes = bytes | bytearray | memoryview | NDArray[Any]


class TensorLike(Protocol):
    """What a header needs to know of a tensor: TensorShape and QuantTensor have it."""

    @property
    def name(self) -> str: ...
    @property
    def dims(self) -> tuple[int, ...]: ...
    @property
    def quant(self) -> Quant: ...


@dataclass(frozen=True)
class Typed:
    """A metadata value with its GGUF type said, where the inferred one would be wrong; for a list, its elements'."""

    value: Any
    kind: ValueType


def write_gguf(
    path: str | PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Iterable[tuple[TensorLike, Bytes | Iterable[Bytes]]],
) -> None:
    """Write `metadata` and `tensors`, in their order.

    Each tensor comes with its stored bytes: one buffer, or an iterable of buffers that is consumed while writing.
    Metadata types: bool; int as uint32, else int32, uint64, int64, the first that holds it; float as float32; str;
    lists of one of these (ints as int32, else int64, uint64; an empty list as int32). Numpy values keep their type,
    and `Typed` says any other. CapacityError when the disk is full, FormatError when a tensor's bytes don't match.
    """
    target = Path(path)
    entries = list(tensors)
    header = _header(metadata, [tensor for tensor, _ in entries])
    total = len(header) + sum(_padded(_n_bytes(tensor)) for tensor, _ in entries)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _check_space(target, total)
        with part.open("wb") as file:
            file.write(header)
            for tensor, chunks in entries:
                _write_tensor(file, tensor, chunks)
        part.replace(target)
    except OSError as error:
        raise _explain(error, target, total) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _n_bytes(tensor: TensorLike) -> int:
    return tensor.quant.n_bytes(prod(tensor.dims))


def _check_space(target: Path, total: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < total:
        raise CapacityError(
            f"{target}: needs {total / 1e6:.1f} MB, but only {free / 1e6:.1f} MB are free there; "
            "free some space or choose another folder"
        )


def _explain(error: OSError, target: Path, total: int) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CapacityError(
            f"{target}: the disk is full: the file needs {total / 1e6:.1f} MB; free some space or choose another folder"
        )
    return UsageError(f"{target}: cannot be written: {error.strerror or error}")


def _write_tensor(file: BinaryIO, tensor: TensorLike, chunks: Bytes | Iterable[Bytes]) -> None:
    if isinstance(chunks, bytes | bytearray | memoryview | np.ndarray):
        chunks = [chunks]
    expected, written = _n_bytes(tensor), 0
    for chunk in chunks:
        flat = _flat(chunk)
        written += flat.nbytes
        if written > expected:
            break
        for start in range(0, flat.nbytes, WRITE_BYTES):
            file.write(flat[start : start + WRITE_BYTES])
    if written != expected:
        more = "at least " if written > expected else ""
        raise FormatError(
            f"tensor {tensor.name!r}: {list(tensor.dims)} {tensor.quant.name} takes {expected} bytes, "
            f"but {more}{written} were given"
        )
    file.write(bytes(_padded(expected) - expected))


def _flat(chunk: Bytes) -> memoryview:
    if isinstance(chunk, np.ndarray):
        return np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
    return memoryview(chunk).cast("B")


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _header(metadata: Mapping[str, Any], tensors: Sequence[TensorLike]) -> bytes:
    if metadata.get("general.alignment", ALIGNMENT) != ALIGNMENT:
        metadata = {**metadata, "general.alignment": ALIGNMENT}  # a rewritten file keeps our alignment, not its own
    out = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += _text(key) + _pair_value(key, value)
    offset = 0
    for tensor in tensors:
        out += _info(tensor, offset)
        offset += _padded(_n_bytes(tensor))
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"tensor {twice!r} is given twice")
    return bytes(out.ljust(_padded(len(out)), b"\0"))


def _info(tensor: TensorLike, offset: int) -> bytes:
    if not 1 <= len(tensor.dims) <= MAX_DIMS or min(tensor.dims) < 1:
        raise FormatError(f"tensor {tensor.name!r}: GGUF has 1 to {MAX_DIMS} dimensions above zero, not {tensor.dims}")
    if tensor.dims[-1] % tensor.quant.block:
        raise FormatError(
            f"tensor {tensor.name!r}: rows of {tensor.dims[-1]} do not fill {tensor.quant.name} blocks "
            f"of {tensor.quant.block}; store it as F16 instead"
        )
    dims = struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *reversed(tensor.dims))
    return _text(tensor.name) + dims + struct.pack("<IQ", tensor.quant.ggml_type, offset)


def _text(text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no string")
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _pair_value(key: str, value: Any) -> bytes:
    """Type id(s) and value of a pair."""
    kind: ValueType | None = None
    if isinstance(value, Typed):
        value, kind = value.value, value.kind
    try:
        if isinstance(value, list | tuple | np.ndarray):
            kind = kind if kind is not None else _list_kind(value)
            return struct.pack("<IIQ", ValueType.ARRAY, kind, len(value)) + _values(kind, value)
        kind = kind if kind is not None else _kind(value)
        return struct.pack("<I", kind) + _values(kind, [value])
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as error:
        raise FormatError(f"metadata {key!r} cannot be written: {error}") from None


def _kind(value: Any) -> ValueType:
    if isinstance(value, bool | np.bool_):
        return ValueType.BOOL
    if isinstance(value, np.generic):
        return _dtype_kind(value.dtype)
    if isinstance(value, str):
        return ValueType.STRING
    if isinstance(value, float):
        return ValueType.FLOAT32
    if isinstance(value, int):
        return _int_kind([value], (ValueType.UINT32, ValueType.INT32, ValueType.UINT64, ValueType.INT64))
    raise TypeError(f"{type(value).__name__} is no GGUF type")


def _dtype_kind(dtype: np.dtype[Any]) -> ValueType:
    for kind, known in DTYPES.items():
        if known == dtype and kind is not ValueType.BOOL:
            return kind
    raise TypeError(f"{dtype} is no GGUF type")


def _list_kind(values: Any) -> ValueType:
    if isinstance(values, np.ndarray):
        return ValueType.BOOL if values.dtype == bool else _dtype_kind(values.dtype)
    if not values:
        return ValueType.INT32
    if all(type(value) is int for value in values):
        return _int_kind(values, (ValueType.INT32, ValueType.INT64, ValueType.UINT64))
    kinds = {_kind(value) for value in values}
    if len(kinds) > 1:
        raise TypeError(f"a list of {', '.join(sorted(kind.name for kind in kinds))} has no one type")
    return kinds.pop()


def _int_kind(values: Sequence[int], choices: Sequence[ValueType]) -> ValueType:
    low, high = min(values), max(values)
    for kind in choices:
        info = np.iinfo(DTYPES[kind])
        if info.min <= low and high <= info.max:
            return kind
    raise OverflowError(f"{low if low < 0 else high} does not fit 64 bits")


# numpy kinds that a GGUF type may be made from: 1.5 is no INT32, 3 is a fine FLOAT32
_ACCEPTS = {"f": "iuf", "i": "iu", "u": "iu"}


def _values(kind: ValueType, values: Any) -> bytes:
    if kind is ValueType.ARRAY:
        raise TypeError("arrays in arrays are not written")
    if kind is ValueType.STRING:
        return b"".join(_text(value) for value in values)
    dtype = DTYPES[kind]
    accepted = "b" if kind is ValueType.BOOL else _ACCEPTS[dtype.kind]
    given = np.asarray(values)
    if given.size and given.dtype.kind not in accepted:
        raise TypeError(f"{values[0]!r} is no {kind.name}")
    if (
        dtype.kind in "iu"
        and given.size
        and not (np.iinfo(dtype).min <= given.min() <= given.max() <= np.iinfo(dtype).max)
    ):
        raise OverflowError(f"{given.min()} to {given.max()} does not fit {kind.name}")
    return given.astype(dtype).tobytes()
