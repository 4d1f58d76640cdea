"""Messages: what nodes say to each other, as frame payloads and back.

The hot path (experts, stages) is a fixed header of little-endian numbers followed by raw arrays: nothing is copied,
neither way. A decoded array is a view into the frame, valid until the link's next `receive`. The rest is JSON, read
into typed structs. Whatever does not fit together exactly is a LinkError; ids, slots and layers that are well-formed
but unknown are for the handler to refuse, which knows the model.

T tokens, D model width, A active experts, R rows that want logits.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from motley import errors
from motley.cluster.link import Buffer, Frame
from motley.errors import ClusterError, LinkError, MotleyError
from motley.ops.protocol import Batch

Parts = list[Buffer]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
S = TypeVar("S")


class Kind(IntEnum):
    PING = 16  # checksum and bytes; comes back as PONG, byte for byte
    PONG = 17
    EXPERTS_CALL = 18
    EXPERTS_REPLY = 19
    STAGE_CALL = 20
    STAGE_REPLY = 21
    LOAD = 22  # an Assignment; answered by any number of PROGRESS and one LOADED
    PROGRESS = 23
    LOADED = 24
    ASK = 25  # JSON {"what": ...}: memory used, times, ...; answered by any number of PROGRESS and one ANSWER
    ANSWER = 26
    FETCH = 28  # bytes of a model file (`cluster.weights`); answered by FETCHED
    FETCHED = 29
    ROWS_CALL = 30
    ROWS_REPLY = 31
    OFFER = 32  # JSON, an Offer of shared memory (`cluster.neighbour`); answered by OPENED and then SHARED
    OPENED = 33
    SHARED = 34
    CALL = 35  # JSON: a named transport is asked for (`cluster.agreed`); answered by REPLY, then PROOF through it
    REPLY = 36
    PROOF = 37
    FAILURE = 27  # instead of any answer: the error's name and sentence


class ExpertsCall(NamedTuple):
    layer: int
    x: F32  # [T, D]
    ids: I32  # [T, A]
    weights: F32  # [T, A]


@dataclass(frozen=True, slots=True)
class StageCall:
    batch: Batch
    x: F32 | None  # [T, D]; None where the stage embeds the tokens itself


@dataclass(frozen=True, slots=True)
class StageReply:
    y: F32  # [T, D], or logits [R, V]
    busy_s: float  # time between the call's arrival and the answer
    times: dict[str, float]  # seconds by component, the stage's own names


class RowsCall(NamedTuple):
    layer: int | None  # whose projections; None: the output matrix
    h: F32  # [T, D]


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    what: str
    fraction: float  # of the whole that is done, 0..1


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str  # of the caller's UNIX socket: 32 hexadecimal digits
    secret: str  # what its memory begins with, hexadecimal


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    error: str  # class name in motley.errors
    sentence: str


_PING = struct.Struct("<II")  # crc32 of what follows, 0
_EXPERTS_CALL = struct.Struct("<IIII")  # layer, T, D, A; then x, weights, ids
_EXPERTS_REPLY = struct.Struct("<IId")  # T, D, busy_s; then y float64
_ROWS_CALL = struct.Struct("<iII")  # layer or -1, T, D; then h
_ROWS_REPLY = struct.Struct("<IId")  # T, rows, busy_s; then y
_STAGE_CALL = struct.Struct("<IIII")  # T, R, D or 0, 0; then tokens, positions, slots, rows, x
_STAGE_REPLY = struct.Struct("<IIIId")  # rows, columns, bytes of times, 0, busy_s; then y float32, times as JSON


# -- ping


def ping(data: Buffer) -> Parts:
    return [_PING.pack(zlib.crc32(data), 0), data]


def check_pong(payload: memoryview, sent: Buffer) -> None:
    """That the checksum and the bytes came back as they went."""
    crc, _ = _header(_PING, payload, "ping")
    body = payload[_PING.size :]
    if body.nbytes != len(sent) or zlib.crc32(body) != crc or crc != zlib.crc32(sent):
        raise LinkError("a ping came back with other bytes than were sent: this link corrupts data")


# -- experts


def experts_call(layer: int, x: F32, ids: I32, weights: F32) -> Parts:
    (n, d), (m, a) = x.shape, ids.shape
    if n != m or ids.shape != weights.shape or n * d * a == 0:
        raise ValueError(f"experts call with x {x.shape}, ids {ids.shape}, weights {weights.shape}")
    return [_EXPERTS_CALL.pack(layer, n, d, a), _raw(x, _F4), _raw(weights, _F4), _raw(ids, _I4)]


def read_experts_call(payload: memoryview) -> ExpertsCall:
    layer, n, d, a = _header(_EXPERTS_CALL, payload, "experts call")
    at_weights = _EXPERTS_CALL.size + 4 * n * d
    at_ids = at_weights + 4 * n * a
    if payload.nbytes != at_ids + 4 * n * a or n * d * a == 0:
        raise _malformed("experts call", payload, T=n, D=d, A=a)
    x = _view((n, d), _F4, payload, _EXPERTS_CALL.size)
    return ExpertsCall(layer, x, _view((n, a), _I4, payload, at_ids), _view((n, a), _F4, payload, at_weights))


def experts_reply(y: F64, busy_s: float) -> Parts:
    return [_EXPERTS_REPLY.pack(*y.shape, busy_s), _raw(y, _F8)]


def read_experts_reply(payload: memoryview) -> tuple[F64, float]:
    """y [T, D] and the seconds between the call's arrival and the answer."""
    n, d, busy_s = _header(_EXPERTS_REPLY, payload, "experts reply")
    if payload.nbytes != _EXPERTS_REPLY.size + 8 * n * d or n * d == 0:
        raise _malformed("experts reply", payload, T=n, D=d)
    return _view((n, d), _F8, payload, _EXPERTS_REPLY.size), busy_s


# -- stages


def stage_call(batch: Batch, x: F32 | None) -> Parts:
    n, d = len(batch), 0 if x is None else x.shape[1]
    if n == 0 or (x is not None and x.shape != (n, d)) or (x is not None and d == 0):
        raise ValueError(f"stage call with {n} tokens and x {None if x is None else x.shape}")
    integers = [batch.tokens, batch.positions, batch.slots, batch.rows]
    arrays = [_raw(a, _I4) for a in integers] + ([] if x is None else [_raw(x, _F4)])
    return [_STAGE_CALL.pack(n, len(batch.rows), d, 0), *arrays]


def read_stage_call(payload: memoryview) -> StageCall:
    n, r, d, _ = _header(_STAGE_CALL, payload, "stage call")
    at_rows = _STAGE_CALL.size + 12 * n
    at_x = at_rows + 4 * r
    if payload.nbytes != at_x + 4 * n * d or n == 0:
        raise _malformed("stage call", payload, T=n, R=r, D=d)
    tokens, positions, slots = _view((3, n), _I4, payload, _STAGE_CALL.size)
    rows = _view((r,), _I4, payload, at_rows)
    if min(tokens.min(), positions.min(), slots.min()) < 0 or (r and not 0 <= rows.min() <= rows.max() < n):
        raise LinkError("malformed stage call: a negative token, position or slot, or a row outside the batch")
    return StageCall(Batch(tokens, positions, slots, rows), _view((n, d), _F4, payload, at_x) if d else None)


def stage_reply(reply: StageReply) -> Parts:
    times = msgspec.json.encode(reply.times)
    rows, columns = reply.y.shape
    return [_STAGE_REPLY.pack(rows, columns, len(times), 0, reply.busy_s), _raw(reply.y, _F4), times]


def read_stage_reply(payload: memoryview) -> StageReply:
    """y may have no rows: a chunk of a prefill that wants no logits."""
    rows, columns, n_times, _, busy_s = _header(_STAGE_REPLY, payload, "stage reply")
    at_times = _STAGE_REPLY.size + 4 * rows * columns
    if payload.nbytes != at_times + n_times or columns == 0:
        raise _malformed("stage reply", payload, rows=rows, columns=columns, times=n_times)
    times = _from_json(payload[at_times:], dict[str, float], "stage reply")
    return StageReply(_view((rows, columns), _F4, payload, _STAGE_REPLY.size), busy_s, times)


# -- rows of matrices


def rows_call(layer: int | None, h: F32) -> Parts:
    return [_ROWS_CALL.pack(-1 if layer is None else layer, *h.shape), _raw(h, _F4)]


def read_rows_call(payload: memoryview) -> RowsCall:
    layer, n, d = _header(_ROWS_CALL, payload, "rows call")
    if payload.nbytes != _ROWS_CALL.size + 4 * n * d or n * d == 0 or layer < -1:
        raise _malformed("rows call", payload, layer=layer, T=n, D=d)
    return RowsCall(None if layer == -1 else layer, _view((n, d), _F4, payload, _ROWS_CALL.size))


def rows_reply(y: F32, busy_s: float) -> Parts:
    return [_ROWS_REPLY.pack(*y.shape, busy_s), _raw(y, _F4)]


def read_rows_reply(payload: memoryview) -> tuple[F32, float]:
    """y [T, rows], and how long it took."""
    n, columns, busy_s = _header(_ROWS_REPLY, payload, "rows reply")
    if payload.nbytes != _ROWS_REPLY.size + 4 * n * columns or n * columns == 0:
        raise _malformed("rows reply", payload, T=n, rows=columns)
    return _view((n, columns), _F4, payload, _ROWS_REPLY.size), busy_s


# -- the rest: JSON


def as_json(message: Any) -> Parts:
    return [msgspec.json.encode(message)]


def read_progress(payload: memoryview) -> Progress:
    return _from_json(payload, Progress, "progress")


def read_offer(payload: memoryview) -> Offer:
    return _from_json(payload, Offer, "offer")


def read_object(payload: memoryview) -> dict[str, Any]:
    return _from_json(payload, dict[str, Any], "message")


def read_json(payload: memoryview, kind: type[S], what: str) -> S:
    """A struct that another module defines."""
    return _from_json(payload, kind, what)


def failure(error: BaseException, node: str) -> Parts:
    """What the other side is told of an error here. Only Motley's own sentences travel unchanged."""
    known = isinstance(error, MotleyError)
    sentence = str(error) if known else f"internal error: {type(error).__name__}: {error}"
    return as_json(Failure(type(error).__name__ if known else "ClusterError", f"{node}: {sentence}"[:4000]))


def raise_failure(payload: memoryview) -> NoReturn:
    """Raise what the other side met, as the same class where it is one of Motley's."""
    told = _from_json(payload, Failure, "failure")
    kind = getattr(errors, told.error, None)
    if isinstance(kind, type) and issubclass(kind, MotleyError) and not issubclass(kind, LinkError):
        raise kind(told.sentence)
    raise ClusterError(told.sentence)


def expect(frame: Frame, kind: Kind, request: int) -> memoryview:
    """The payload of the answer to `request`; a FAILURE is raised as the error that it tells of."""
    if frame.kind == kind and frame.request == request:
        return frame.payload
    if frame.request != request:
        raise LinkError(f"an answer to request {frame.request} came where {request} was asked")
    if frame.kind == Kind.FAILURE:
        raise_failure(frame.payload)
    raise LinkError(f"malformed answer: frame kind {frame.kind} where {kind.name} was expected")


# -- pieces

_F4, _F8, _I4 = np.dtype("<f4"), np.dtype("<f8"), np.dtype("<i4")
_view: Callable[..., NDArray[Any]] = np.ndarray  # (shape, dtype, buffer, offset); half the time of np.frombuffer


def _header(header: struct.Struct, payload: memoryview, what: str) -> tuple[Any, ...]:
    if payload.nbytes < header.size:
        raise LinkError(f"malformed {what}: {payload.nbytes} bytes, its header alone has {header.size}")
    return header.unpack_from(payload)


def _malformed(what: str, payload: memoryview, **sizes: int) -> LinkError:
    told = " ".join(f"{name}={value}" for name, value in sizes.items())
    return LinkError(f"malformed {what}: {payload.nbytes} bytes are not what {told} takes")


def _raw(array: NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    return np.ascontiguousarray(array, dtype).data


def _from_json(data: memoryview, kind: type[S], what: str) -> S:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LinkError(f"malformed {what}: {error}") from None
