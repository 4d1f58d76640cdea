"""Messages: there and back without a copy; whatever does not fit together is a LinkError and nothing else."""

import contextlib
import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.cluster import messages
from motley.cluster.assignment import Assignment
from motley.cluster.link import HEADER, MAGIC, Frame, pack_header, unpack_header
from motley.cluster.messages import Kind
from motley.errors import CapacityError, ClusterError, LinkError, MotleyError, UsageError
from motley.ops.protocol import Batch
from motley.predict.workload import STEP_TOKENS


def joined(parts: messages.Parts) -> memoryview:
    return memoryview(bytearray(b"".join(parts)))


READERS = {
    "experts call": messages.read_experts_call,
    "experts reply": messages.read_experts_reply,
    "stage call": messages.read_stage_call,
    "stage reply": messages.read_stage_reply,
    "progress": messages.read_progress,
    "object": messages.read_object,
    "failure": messages.raise_failure,
    "assignment": Assignment.from_json,
    "pong": lambda payload: messages.check_pong(payload, b"abc"),
}


def experts_call(t: int = 3, d: int = 8, a: int = 2) -> messages.Parts:
    x = np.arange(t * d, dtype=np.float32).reshape(t, d)
    ids = np.arange(t * a, dtype=np.int32).reshape(t, a)
    return messages.experts_call(5, x, ids, ids.astype(np.float32) / 7)


def stage_call(t: int = 3, d: int = 8, rows: tuple[int, ...] = (2,)) -> messages.Parts:
    batch = Batch(range(t), range(10, 10 + t), [1] * t, rows)
    return messages.stage_call(batch, np.ones((t, d), np.float32) if d else None)


def valid_messages() -> list[messages.Parts]:
    y = np.ones((2, 4))
    return [
        experts_call(),
        messages.experts_reply(y, 0.25),
        stage_call(),
        stage_call(d=0, rows=()),
        messages.stage_reply(messages.StageReply(y.astype(np.float32), 0.5, {"attention": 0.1})),
        messages.as_json(messages.Progress("half", 0.5)),
        messages.failure(CapacityError("too big"), "small"),
        messages.ping(b"abc"),
        [assignment().to_json()],
    ]


def assignment(**changes: object) -> Assignment:
    fields: dict[str, object] = {"device": "cpu0", "model": "m.gguf", "hash": "x", "context": 8, "slots": 1}
    return Assignment(**{**fields, **changes})


def test_experts_call_there_and_back_is_a_view() -> None:
    payload = joined(experts_call())
    call = messages.read_experts_call(payload)
    assert call.layer == 5
    np.testing.assert_array_equal(call.x, np.arange(24, dtype=np.float32).reshape(3, 8))
    np.testing.assert_array_equal(call.ids, [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(call.weights, call.ids.astype(np.float32) / 7)
    assert np.shares_memory(call.x, np.asarray(payload))


def test_experts_reply_keeps_every_bit_of_float64() -> None:
    y = np.random.default_rng(0).standard_normal((3, 5)) * 1e-300
    back, busy_s = messages.read_experts_reply(joined(messages.experts_reply(y, 0.125)))
    assert back.dtype == np.float64
    assert busy_s == 0.125
    assert back.tobytes() == y.tobytes()


def test_nan_and_infinity_travel_unchanged() -> None:
    x = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    call = messages.read_experts_call(
        joined(messages.experts_call(0, x, np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32)))
    )
    assert call.x.tobytes() == x.tobytes()


@pytest.mark.parametrize(("d", "rows"), [(8, (2,)), (0, ()), (8, ()), (0, (0, 2))])
def test_stage_call_there_and_back(d: int, rows: tuple[int, ...]) -> None:
    call = messages.read_stage_call(joined(stage_call(d=d, rows=rows)))
    assert call.batch.tokens.tolist() == [0, 1, 2]
    assert call.batch.positions.tolist() == [10, 11, 12]
    assert call.batch.slots.tolist() == [1, 1, 1]
    assert call.batch.rows.tolist() == list(rows)
    assert (call.x is None) == (d == 0)
    assert call.x is None or call.x.shape == (3, d)


@pytest.mark.parametrize("rows", [0, 2])
def test_stage_reply_there_and_back(rows: int) -> None:
    y = np.ones((rows, 7), np.float32)
    reply = messages.read_stage_reply(joined(messages.stage_reply(messages.StageReply(y, 0.5, {"head": 0.25}))))
    assert reply.y.shape == (rows, 7)
    assert (reply.busy_s, reply.times) == (0.5, {"head": 0.25})


def test_a_wrong_call_is_the_callers_mistake() -> None:
    x, ids = np.ones((2, 4), np.float32), np.zeros((3, 1), np.int32)
    with pytest.raises(ValueError, match="experts call"):
        messages.experts_call(0, x, ids, ids.astype(np.float32))
    with pytest.raises(ValueError, match="stage call"):
        messages.stage_call(Batch([], [], [], []), None)


@pytest.mark.parametrize("rows", [(3,), (-1,)])
def test_rows_outside_the_batch_are_refused(rows: tuple[int, ...]) -> None:
    with pytest.raises(LinkError, match="row"):
        messages.read_stage_call(joined(stage_call(rows=rows)))


def test_a_negative_slot_is_refused() -> None:
    with pytest.raises(LinkError, match="slot"):
        messages.read_stage_call(joined(messages.stage_call(Batch([1], [0], [-1], [0]), None)))


def test_sizes_that_overflow_64_bits_are_refused() -> None:
    top = 0xFFFFFFFF
    payload = memoryview(bytearray(messages._EXPERTS_CALL.pack(0, top, top, top) + bytes(64)))
    with pytest.raises(LinkError, match="malformed experts call"):
        messages.read_experts_call(payload)


def test_pong_must_be_what_was_sent() -> None:
    payload = joined(messages.ping(b"abc"))
    messages.check_pong(payload, b"abc")
    payload[-1] ^= 1
    with pytest.raises(LinkError, match="corrupts"):
        messages.check_pong(payload, b"abc")
    resealed = memoryview(bytearray(messages._PING.pack(zlib.crc32(b"abd"), 0) + b"abd"))
    with pytest.raises(LinkError, match="corrupts"):
        messages.check_pong(resealed, b"abc")


def test_failure_keeps_its_class_and_names_the_node() -> None:
    frame = Frame(Kind.FAILURE, 7, joined(messages.failure(CapacityError("3 GB are missing"), "small")))
    with pytest.raises(CapacityError, match="small: 3 GB are missing"):
        messages.expect(frame, Kind.LOADED, 7)
    frame = Frame(Kind.FAILURE, 7, joined(messages.failure(TypeError("oops"), "small")))
    with pytest.raises(ClusterError, match="internal error: TypeError: oops"):
        messages.expect(frame, Kind.LOADED, 7)


def test_the_other_sides_link_error_is_not_this_links() -> None:
    frame = Frame(Kind.FAILURE, 7, joined(messages.failure(LinkError("big is gone"), "small")))
    with pytest.raises(ClusterError) as caught:
        messages.expect(frame, Kind.LOADED, 7)
    assert not isinstance(caught.value, LinkError)


def test_an_answer_must_match_its_question() -> None:
    with pytest.raises(LinkError, match="request 8"):
        messages.expect(Frame(Kind.PONG, 8, memoryview(b"")), Kind.PONG, 7)
    with pytest.raises(LinkError, match="EXPERTS_REPLY"):
        messages.expect(Frame(Kind.PONG, 7, memoryview(b"")), Kind.EXPERTS_REPLY, 7)


def read_with_all(data: bytes) -> None:
    for name, reader in READERS.items():
        with contextlib.suppress(MotleyError if name == "failure" else LinkError):
            reader(memoryview(bytearray(data)))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_link_errors_only(data: bytes) -> None:
    read_with_all(data)


def test_mutated_messages_give_link_errors_only() -> None:
    """20,000 of them, each offered to every reader: bytes changed, cut short or prolonged."""
    rng, valid = random.Random(1), [b"".join(parts) for parts in valid_messages()]
    for _ in range(20_000):
        raw = bytearray(rng.choice(valid))
        for _ in range(rng.randint(0, 4)):
            raw[rng.randrange(len(raw))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        read_with_all(bytes((raw + bytes(3))[: rng.choice([len(raw), rng.randint(0, len(raw) + 3)])]))


@settings(max_examples=500, deadline=None)
@given(st.binary(min_size=HEADER.size, max_size=HEADER.size), st.booleans())
def test_frame_headers(data: bytes, with_magic: bool) -> None:
    if with_magic:
        data = MAGIC + b"\1\0" + data[6:]
    try:
        _, _, n_bytes = unpack_header(data, 1 << 20)
    except LinkError:
        return
    assert n_bytes <= 1 << 20


def test_frame_header_there_and_back() -> None:
    assert unpack_header(pack_header(65535, 0xFFFFFFFF, 1 << 29), 1 << 30) == (65535, 0xFFFFFFFF, 1 << 29)


ASKED: dict[str, object] = {
    "home_layers": (0,),
    "elsewhere": {0: {"cpu1": (1,)}},
    "peers": {"cpu1": ("127.0.0.1", 4000)},
}


def test_assignment_there_and_back() -> None:
    made = assignment(
        home_layers=(0, 1, 3),
        experts={0: (0, 2), 7: (1,)},
        elsewhere={1: {"cpu1": (3, 4)}},
        streams={1: (64, 2, ("cpu1",))},
        peers={"cpu1": ("127.0.0.1", 4000)},
    )
    assert Assignment.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"context": 0},
        {"slots": -1},
        {"home_layers": (1, 1)},
        {"home_layers": (-1,)},
        {"experts": {0: (2, 1)}},
        {"experts": {-1: (0,)}},
        {"home_layers": (0,), "elsewhere": {0: {"cpu1": (1,)}}},
        {"elsewhere": {2: {}}},
        {"peers": {"cpu1": ("", 1)}},
        {"peers": {"cpu1": ("h", 65536)}},
        {"model": ""},
        {"streams": {0: (64, 2, ("cpu1",))}},
        *({"streams": {0: stream}, **ASKED} for stream in ((16, 2, ("cpu1",)), (64, 0, ("cpu1",)), (64, 2, ()))),
        {"streams": {0: (64, 2, ("gpu1",))}, **ASKED},
        {"streams": {0: (64, 2, ("cpu1",))}, **ASKED, "paces": {0: (("d", 0, 1, 1), ("cpu1", 1, 1, 1))}},
    ],
)
def test_impossible_assignments(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="impossible assignment"):
        assignment(**changes)


def test_impossible_and_unknown_fields_are_link_errors_on_the_wire() -> None:
    with pytest.raises(LinkError, match="positive"):
        Assignment.from_json(assignment().to_json().replace(b'"context":8', b'"context":0'))
    with pytest.raises(LinkError, match="surprise"):
        Assignment.from_json(assignment().to_json().replace(b'{"device"', b'{"surprise":1,"device"'))


def test_a_steps_size_is_sent() -> None:
    """The usual one is what `predict.workload` says."""
    assert assignment().step_tokens == STEP_TOKENS
    assert Assignment.from_json(assignment(step_tokens=2048).to_json()).step_tokens == 2048
    for none in (0, -1):
        with pytest.raises(UsageError, match="carry none"):
            assignment(step_tokens=none)
