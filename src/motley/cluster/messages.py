"""Messages: what nodes say to each other, as frame payloads and back.

The hot path (experts, stages) is a fixed header of little-endian numbers followed by raw arrays: nothing is copied,
neither way. A decoded array is a view into the frame, valid until the link's next `receive`. The rest is JSON, read
into typed structs. Whatever does not fit together exactly is a LinkError; ids, slots and layers that are well-formed
but unknown are for the handler to refuse, which knows the model.

T tokens, D model width, A active experts, R rows that want logits.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

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
    ASK = 25  # JSON {"what": ...}: memory used, times, ...; answered by ANSWER
    ANSWER = 26
    FAILURE = 27  # instead of any answer: the error's name and sentence


@dataclass(frozen=True, slots=True)
class ExpertsCall:
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


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    done: float  # 0..1
    text: str


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    error: str  # class name in motley.errors
    sentence: str


_PING = struct.Struct("<II")  # crc32 of what follows, 0
_EXPERTS_CALL = struct.Struct("<IIII")  # layer, T, D, A; then x, weights, ids
_EXPERTS_REPLY = struct.Struct("<IId")  # T, D, busy_s; then y float64
_STAGE_CALL = struct.Struct("<IIII")  # T, R, D or 0, 0; then tokens, positions, slots, rows, x
_STAGE_REPLY = struct.Struct("<IIIId")  # rows, columns, bytes of times, 0, busy_s; then y float32, times as JSON


# -- ping


def ping(data: Buffer) -> Parts:
    return [_PING.pack(zlib.crc32(data), 0), data]


def check_pong(payload: memoryview, sent: Buffer) -> None:
    """That the checksum and the bytes came back as they went."""
    (crc, _), body = _split(_PING, payload, "ping")
    if body.nbytes != len(sent) or zlib.crc32(body) != crc or crc != zlib.crc32(sent):
        raise LinkError("a ping came back with other bytes than were sent: this link corrupts data")


# -- experts


def experts_call(layer: int, x: F32, ids: I32, weights: F32) -> Parts:
    (n, d), (m, a) = x.shape, ids.shape
    if n != m or ids.shape != weights.shape or n * d * a == 0:
        raise ValueError(f"experts call with x {x.shape}, ids {ids.shape}, weights {weights.shape}")
    arrays = _raw(x, np.float32), _raw(weights, np.float32), _raw(ids, np.int32)
    return [_EXPERTS_CALL.pack(layer, n, d, a), *arrays]


def read_experts_call(payload: memoryview) -> ExpertsCall:
    (layer, n, d, a), body = _split(_EXPERTS_CALL, payload, "experts call")
    _fits(body, 4 * n * (d + 2 * a), n * d * a != 0, f"experts call of T={n} D={d} A={a}")
    x = _view(body, 0, np.float32, n, d)
    weights = _view(body, 4 * n * d, np.float32, n, a)
    ids = _view(body, 4 * n * (d + a), np.int32, n, a)
    return ExpertsCall(layer, x, ids, weights)


def experts_reply(y: F64, busy_s: float) -> Parts:
    return [_EXPERTS_REPLY.pack(*y.shape, busy_s), _raw(y, np.float64)]


def read_experts_reply(payload: memoryview) -> tuple[F64, float]:
    """y [T, D] and the seconds between the call's arrival and the answer."""
    (n, d, busy_s), body = _split(_EXPERTS_REPLY, payload, "experts reply")
    _fits(body, 8 * n * d, n * d != 0, f"experts reply of T={n} D={d}")
    return _view(body, 0, np.float64, n, d), busy_s


# -- stages


def stage_call(batch: Batch, x: F32 | None) -> Parts:
    n, d = len(batch), 0 if x is None else x.shape[1]
    if n == 0 or (x is not None and x.shape != (n, d)) or (x is not None and d == 0):
        raise ValueError(f"stage call with {n} tokens and x {None if x is None else x.shape}")
    integers = [batch.tokens, batch.positions, batch.slots, batch.rows]
    arrays = [_raw(a, np.int32) for a in integers] + ([] if x is None else [_raw(x, np.float32)])
    return [_STAGE_CALL.pack(n, len(batch.rows), d, 0), *arrays]


def read_stage_call(payload: memoryview) -> StageCall:
    (n, r, d, _), body = _split(_STAGE_CALL, payload, "stage call")
    _fits(body, 4 * (3 * n + r + n * d), n != 0, f"stage call of T={n} R={r} D={d}")
    tokens, positions, slots = _view(body, 0, np.int32, 3, n)
    rows = _view(body, 12 * n, np.int32, r)
    if min(tokens.min(), positions.min(), slots.min()) < 0 or (r and not 0 <= rows.min() <= rows.max() < n):
        raise LinkError("malformed stage call: a negative token, position or slot, or a row outside the batch")
    x = _view(body, 4 * (3 * n + r), np.float32, n, d) if d else None
    return StageCall(Batch(tokens, positions, slots, rows), x)


def stage_reply(reply: StageReply) -> Parts:
    times = msgspec.json.encode(reply.times)
    rows, columns = reply.y.shape
    return [_STAGE_REPLY.pack(rows, columns, len(times), 0, reply.busy_s), _raw(reply.y, np.float32), times]


def read_stage_reply(payload: memoryview) -> StageReply:
    """y may have no rows: a chunk of a prefill that wants no logits."""
    (rows, columns, n_times, _, busy_s), body = _split(_STAGE_REPLY, payload, "stage reply")
    n_bytes = 4 * rows * columns
    _fits(body, n_bytes + n_times, columns != 0, f"stage reply of {rows} x {columns}")
    times = _from_json(body[n_bytes:], dict[str, float], "stage reply")
    return StageReply(_view(body, 0, np.float32, rows, columns), busy_s, times)


# -- the rest: JSON


def as_json(message: Any) -> Parts:
    return [msgspec.json.encode(message)]


def read_progress(payload: memoryview) -> Progress:
    return _from_json(payload, Progress, "progress")


def read_object(payload: memoryview) -> dict[str, Any]:
    return _from_json(payload, dict[str, Any], "message")


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
    if frame.request != request:
        raise LinkError(f"an answer to request {frame.request} came where {request} was asked")
    if frame.kind == Kind.FAILURE:
        raise_failure(frame.payload)
    if frame.kind != kind:
        raise LinkError(f"malformed answer: frame kind {frame.kind} where {kind.name} was expected")
    return frame.payload


# -- pieces

S = TypeVar("S")


def _split(header: struct.Struct, payload: memoryview, what: str) -> tuple[tuple[Any, ...], memoryview]:
    if payload.nbytes < header.size:
        raise LinkError(f"malformed {what}: {payload.nbytes} bytes, its header alone has {header.size}")
    return header.unpack_from(payload), payload[header.size :]


def _fits(body: memoryview, n_bytes: int, sound: bool, what: str) -> None:
    if body.nbytes != n_bytes or not sound:
        raise LinkError(f"malformed {what}: needs {n_bytes} bytes and no empty side, carries {body.nbytes}")


def _view(body: memoryview, offset: int, dtype: Any, *shape: int) -> NDArray[Any]:
    return np.ndarray(shape, dtype, body, offset)


def _raw(array: NDArray[Any], dtype: Any) -> memoryview:
    return np.ascontiguousarray(array, dtype).data


def _from_json(data: memoryview, kind: type[S], what: str) -> S:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LinkError(f"malformed {what}: {error}") from None


def total_bytes(parts: Sequence[Buffer]) -> int:
    return sum(p.nbytes if isinstance(p, memoryview) else len(p) for p in parts)
