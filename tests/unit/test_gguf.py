"""Reader and writer: round trips, the `gguf` package as a second reader and writer, split files, the hash."""

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from motley.errors import CapacityError, FormatError, UnsupportedError, UsageError
from motley.formats import gguf_writer
from motley.formats.checkpoint import SAMPLE_BYTES, SAMPLES, open_checkpoint
from motley.formats.gguf_reader import ValueType
from motley.formats.gguf_writer import Typed, write_gguf
from motley.formats.metadata import get_bool, get_float, get_int, get_list, get_str
from motley.formats.tensor import QuantTensor
from motley.shape.quant import Quant


def tensor(name: str, dims: tuple[int, ...], quant: Quant, seed: int = 0) -> QuantTensor:
    size = quant.n_bytes(int(np.prod(dims)))
    return QuantTensor(name, dims, quant, np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))


def write(path: Path, metadata: dict, tensors: list[QuantTensor]) -> Path:
    write_gguf(path, metadata, [(t, [t.data]) for t in tensors])
    return path


METADATA = {
    "general.architecture": "olmoe",
    "zero": 0,
    "uint32": 2**32 - 1,
    "int32": -5,
    "uint64": 2**40,
    "int64": -(2**40),
    "float": 1.5,
    "yes": True,
    "text": "héllo \U0001f600 \x00",
    "ints": [1, -2, 3],
    "big": [2**40, -1],
    "huge": [2**63],
    "floats": [0.5, -0.25],
    "bools": [True, False],
    "texts": ["", "a", "ł" * 300],
    "nothing": [],
    "typed": Typed(7, ValueType.UINT16),
    "typed list": Typed([1, 2], ValueType.UINT8),
    "float64": Typed(0.1, ValueType.FLOAT64),
    "numpy": np.int8(-3),
    "array": np.array([1, 2], np.uint16),
}
TENSORS = [tensor(f"t.{quant.name}", (3, 2, 256), quant, quant.ggml_type) for quant in Quant]
TENSORS += [tensor("one", (5,), Quant.F32), tensor("four", (2, 3, 1, 32), Quant.Q4_0)]


def plain(value: object) -> object:
    value = value.value if isinstance(value, Typed) else value
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def test_round_trip(tmp_path: Path) -> None:
    opened = open_checkpoint(write(tmp_path / "a.gguf", METADATA, TENSORS))
    assert dict(opened.metadata) == {key: plain(value) for key, value in METADATA.items()}
    assert [type(v) for v in opened.metadata["bools"]] == [bool, bool]
    assert opened.architecture == "olmoe"
    assert list(opened.tensors) == [t.name for t in TENSORS]
    for want in TENSORS:
        got = opened.tensors[want.name]
        assert (got.dims, got.quant) == (want.dims, want.quant)
        np.testing.assert_array_equal(got.data, want.data)
        assert not got.data.flags.owndata
        assert not got.data.flags.writeable
        assert got.decode().shape == want.dims
    assert os.listdir(tmp_path) == ["a.gguf"]


def test_gguf_package_reads_ours(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(write(tmp_path / "a.gguf", METADATA, TENSORS))
    for key, value in METADATA.items():
        assert reader.fields[key].contents() == plain(value)
    kinds = {key: reader.fields[key].types for key in METADATA}
    assert kinds["uint32"] == [gguf.GGUFValueType.UINT32]
    assert kinds["int32"] == [gguf.GGUFValueType.INT32]
    assert kinds["uint64"] == [gguf.GGUFValueType.UINT64]
    assert kinds["float"] == [gguf.GGUFValueType.FLOAT32]
    assert kinds["ints"] == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32]
    assert kinds["typed"] == [gguf.GGUFValueType.UINT16]
    assert len(reader.tensors) == len(TENSORS)
    for got, want in zip(reader.tensors, TENSORS):
        assert (got.name, tuple(got.shape)) == (want.name, want.dims[::-1])
        assert got.data_offset % 32 == 0
        np.testing.assert_array_equal(np.ascontiguousarray(got.data).view(np.uint8).reshape(-1), want.data)


def test_we_read_the_gguf_packages(tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "qwen3moe")
    writer.add_custom_alignment(64)
    writer.add_array("tokens", ["a", "b", "é"])
    writer.add_float64("f64", 0.1)
    values = np.random.default_rng(0).standard_normal((4, 64), np.float32)
    packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("w", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("v", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = open_checkpoint(path)
    assert opened.metadata["tokens"] == ["a", "b", "é"]
    assert opened.metadata["f64"] == 0.1
    np.testing.assert_array_equal(opened.tensors["v"].decode(), values)
    np.testing.assert_array_equal(
        opened.tensors["w"].decode(), gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
    )


def test_version_2_reads_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", {"k": 1}, TENSORS[:1])
    raw = bytearray(path.read_bytes())
    raw[4] = 2
    path.write_bytes(raw)
    assert open_checkpoint(path).metadata == {"k": 1}


# --- split files


def write_split(folder: Path, count: int = 3) -> Path:
    for no in range(count):
        split = {
            "split.no": Typed(no, ValueType.UINT16),
            "split.count": Typed(count, ValueType.UINT16),
            "split.tensors.count": Typed(count, ValueType.INT32),
        }
        metadata = {"general.architecture": "olmoe", **split} if no == 0 else split
        write(folder / f"m-{no + 1:05}-of-{count:05}.gguf", metadata, [tensor(f"t{no}", (2, 32), Quant.Q8_0, no)])
    return folder / f"m-00001-of-{count:05}.gguf"


def test_split_files(tmp_path: Path) -> None:
    opened = open_checkpoint(write_split(tmp_path))
    assert list(opened.tensors) == ["t0", "t1", "t2"]
    np.testing.assert_array_equal(opened.tensors["t2"].data, tensor("", (2, 32), Quant.Q8_0, 2).data)


def test_split_part_missing(tmp_path: Path) -> None:
    first = write_split(tmp_path)
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(FormatError, match=r"m-00002-of-00003.gguf: part 2 of 3 is missing"):
        open_checkpoint(first)


def test_split_opened_at_a_later_part(tmp_path: Path) -> None:
    write_split(tmp_path)
    with pytest.raises(FormatError, match=r"later part of a split; open m-00001-of-00003.gguf"):
        open_checkpoint(tmp_path / "m-00002-of-00003.gguf")


def test_split_parts_swapped(tmp_path: Path) -> None:
    first = write_split(tmp_path)
    (tmp_path / "m-00003-of-00003.gguf").replace(tmp_path / "m-00002-of-00003.gguf")
    with pytest.raises(FormatError, match="belongs to another set"):
        open_checkpoint(first)


def test_split_tensor_twice_or_too_few(tmp_path: Path) -> None:
    first = write_split(tmp_path)
    split = {"split.no": 1, "split.count": 3}
    write(tmp_path / "m-00002-of-00003.gguf", split, [tensor("t0", (2, 32), Quant.Q8_0)])
    with pytest.raises(FormatError, match="'t0' is in an earlier part"):
        open_checkpoint(first)
    write(tmp_path / "m-00002-of-00003.gguf", split, [])
    with pytest.raises(FormatError, match=r"split.tensors.count' is 3, but the 3 parts hold 2"):
        open_checkpoint(first)


def test_split_renamed(tmp_path: Path) -> None:
    renamed = write_split(tmp_path).replace(tmp_path / "model.gguf")
    with pytest.raises(FormatError, match=r"must end in -00001-of-00003.gguf"):
        open_checkpoint(renamed)


# --- the hash


def test_hash_is_of_content_not_name(tmp_path: Path) -> None:
    one = open_checkpoint(write(tmp_path / "a.gguf", METADATA, TENSORS)).hash
    two = open_checkpoint(write(tmp_path / "b.gguf", METADATA, TENSORS)).hash
    assert one == two
    assert len(one) == 32


def test_hash_covers_header_size_and_samples(tmp_path: Path) -> None:
    big = tensor("w", (SAMPLES * SAMPLE_BYTES * 4,), Quant.F32)
    path = write(tmp_path / "a.gguf", {"k": 1}, [big])
    raw = bytearray(path.read_bytes())
    hashes = {open_checkpoint(path).hash}
    for flipped in (len(raw) - 1, len(raw) - big.data.nbytes, raw.index(b"k") + 5):
        changed = bytearray(raw)
        changed[flipped] ^= 0x40
        path.write_bytes(changed)
        hashes.add(open_checkpoint(path).hash)
    path.write_bytes(raw + bytes(32))
    hashes.add(open_checkpoint(path).hash)
    assert len(hashes) == 5


def test_hash_of_a_small_file_covers_every_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", {}, [tensor("w", (1000,), Quant.F32)])
    raw = path.read_bytes()
    seen = {open_checkpoint(path).hash}
    for at in range(len(raw) - 4000, len(raw), 199):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        seen.add(open_checkpoint(path).hash)
    assert len(seen) == 1 + len(range(0, 4000, 199))


# --- what the reader refuses: each message names the field or tensor


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def info(name: bytes = b"w", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf_bytes(
    pairs: list[bytes] = (), infos: list[bytes] = (), data: int = 256, version: int = 3, counts: tuple | None = None
) -> bytes:
    counts = counts or (len(infos), len(pairs))
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*pairs, *infos])
    return header + bytes(-len(header) % 32) + bytes(data)


U8, BOOL, STRING, ARRAY = 0, 7, 8, 9
deep = b"".join(struct.pack("<IQ", ARRAY, 1) for _ in range(8)) + struct.pack("<IQ", U8, 1) + b"\0"
REFUSED = {
    "empty": (b"", "the file is empty"),
    "magic": (b"PK\3\4" + bytes(40), r"magic: is b'PK\\x03\\x04'"),
    "short magic": (b"GG", "magic"),
    "version 1": (gguf_bytes(version=1), "version: 1 is too old"),
    "version 9": (gguf_bytes(version=9), "version: 9 is unknown"),
    "big-endian": (gguf_bytes(version=3 << 24), "big-endian"),
    "cut in version": (b"GGUF\3\0", "version: needs 4 bytes at offset 4"),
    "tensor count": (gguf_bytes(counts=(2**60, 0)), "tensor count: 1152921504606846976 cannot fit in the"),
    "metadata count": (gguf_bytes(counts=(0, 2**63)), "metadata count: 9223372036854775808 cannot fit"),
    "key length": (gguf_bytes([struct.pack("<Q", 2**62) + bytes(32)]), "metadata key 0: is 4611686018427387904 bytes"),
    "key runs out": (gguf_bytes([struct.pack("<Q", 60000) + bytes(32)]), "metadata key 0: needs 60000 bytes"),
    "key UTF-8": (gguf_bytes([pair(b"a\xff", U8, b"\0")]), "metadata key 0: is not valid UTF-8 at byte 1"),
    "key twice": (gguf_bytes([pair(b"k", U8, b"\0")] * 2), "metadata 'k': appears twice"),
    "value type": (gguf_bytes([pair(b"k", 13, b"\0")]), "metadata 'k': has the unknown type 13"),
    "boolean": (gguf_bytes([pair(b"k", BOOL, b"\2")]), "metadata 'k': holds a boolean that is neither"),
    "string length": (gguf_bytes([pair(b"k", STRING, struct.pack("<Q", 2**64 - 1))]), "metadata 'k': needs 18446"),
    "string UTF-8": (gguf_bytes([pair(b"k", STRING, text(b"ab\xc3"))]), "metadata 'k': is not valid UTF-8 at byte 2"),
    "array length": (
        gguf_bytes([pair(b"k", ARRAY, struct.pack("<IQ", 4, 2**61))]),
        "length of metadata 'k': 2305843009213693952 cannot fit",
    ),
    "strings run out": (
        gguf_bytes([pair(b"k", ARRAY, struct.pack("<IQ", STRING, 2) + text(b"a") + struct.pack("<Q", 9999))]),
        r"metadata 'k'\[1\]: runs beyond",
    ),
    "string in array UTF-8": (
        gguf_bytes([pair(b"k", ARRAY, struct.pack("<IQ", STRING, 2) + text(b"a") + text(b"\xff"))]),
        r"metadata 'k'\[1\]: is not valid UTF-8 at byte 0",
    ),
    "too many elements": (
        gguf_bytes([pair(b"k", ARRAY, struct.pack("<IQ", U8, 2**25))], data=2**25),
        "metadata 'k': has 33554432 elements",
    ),
    "nested": (gguf_bytes([pair(b"k", ARRAY, deep)]), "nested more than 4 deep"),
    "alignment 0": (gguf_bytes([pair(b"general.alignment", 4, bytes(4))]), "'general.alignment': is 0, not a power"),
    "alignment 48": (gguf_bytes([pair(b"general.alignment", 4, b"\x30\0\0\0")]), "is 48, not a power of two"),
    "alignment type": (gguf_bytes([pair(b"general.alignment", STRING, text(b"32"))]), "is '32', not a power of two"),
    "name length": (gguf_bytes([], [struct.pack("<Q", 2**40) + bytes(40)]), "name of tensor 0: is 1099511627776"),
    "name UTF-8": (gguf_bytes([], [info(b"\xff")]), "name of tensor 0: is not valid UTF-8"),
    "name twice": (gguf_bytes([], [info(), info(offset=128)]), "tensor 'w': appears twice"),
    "no dims": (gguf_bytes([], [info(dims=()) + bytes(8)]), "tensor 'w': has 0 dimensions, not 1 to 4"),
    "five dims": (gguf_bytes([], [info(dims=(1,) * 5)]), "tensor 'w': has 5 dimensions, not 1 to 4"),
    "n_dims huge": (gguf_bytes([], [text(b"w") + b"\xff" * 4 + bytes(64)]), "has 4294967295 dimensions"),
    "zero dim": (gguf_bytes([], [info(dims=(32, 0))]), r"tensor 'w': has an empty dimension: \[0, 32\]"),
    "overflow": (gguf_bytes([], [info(dims=(2**63, 2**63, 2**63))]), "tensor 'w': .* would end at byte"),
    "type known": (
        gguf_bytes([], [info(kind=34, dims=(256,))]),
        r"tensor 'w' has type 34 \(TQ1_0\), but Motley reads F32",
    ),
    "type of integers": (gguf_bytes([], [info(kind=26)]), r"tensor 'w' has type 26 \(I32\), but Motley reads F32"),
    "type unknown": (gguf_bytes([], [info(kind=999)]), r"tensor 'w' has type 999 \(unknown\)"),
    "part block": (
        gguf_bytes([], [info(kind=8, dims=(33, 32))]),
        "tensor 'w': rows of 33 do not fill Q8_0 blocks of 32",
    ),
    "misaligned": (gguf_bytes([], [info(offset=4)]), "tensor 'w': offset 4 is not a multiple of 32"),
    "outside": (gguf_bytes([], [info(offset=2**50)]), "tensor 'w': .* would end at byte"),
    "past the end": (gguf_bytes([], [info(dims=(65,))]), r"tensor 'w': \[65\] F32 would end at byte \d+ of"),
    "overlap": (gguf_bytes([], [info(b"a"), info(b"b", offset=32)]), "tensor 'b': overlaps tensor 'a'"),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_refused(tmp_path: Path, case: str) -> None:
    raw, message = REFUSED[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=message) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert ";" in str(caught.value) or "Motley reads" in str(caught.value)  # a remedy


def test_unsupported_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "tq1.gguf"
    path.write_bytes(gguf_bytes([], [info(kind=34, dims=(256,))]))
    with pytest.raises(UnsupportedError):
        open_checkpoint(path)


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.gguf", METADATA, TENSORS).read_bytes()
    path = tmp_path / "cut.gguf"
    for end in [*range(0, 2200, 7), *range(2200, len(whole), 997), len(whole) - 33]:
        path.write_bytes(whole[:end])
        with pytest.raises(FormatError):
            open_checkpoint(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be opened: No such file"):
        open_checkpoint(tmp_path / "none.gguf")
    with pytest.raises(UsageError, match="is a folder without"):
        open_checkpoint(tmp_path)


def test_no_room_to_map_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of which that is said is left out, and streams go on without it."""

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    path = write(tmp_path / "a.gguf", METADATA, TENSORS)
    monkeypatch.setattr("mmap.mmap", full)
    with pytest.raises(CapacityError, match="may not map any more memory"):
        open_checkpoint(path)


# --- what the writer refuses


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, "a"], "no one type"),
        ([1, 0.5], "no one type"),
        (object(), "object is no GGUF type"),
        (None, "NoneType is no GGUF type"),
        (2**64, "does not fit 64 bits"),
        (Typed(300, ValueType.UINT8), "does not fit UINT8"),
        (Typed(1.5, ValueType.INT32), "1.5 is no INT32"),
        (Typed("x", ValueType.FLOAT32), "'x' is no FLOAT32"),
        (Typed(3, ValueType.STRING), "3 is no string"),
        ([[1]], "no GGUF type"),
        ("\ud800", "surrogates"),
    ],
)
def test_unwritable_metadata(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(FormatError, match=f"metadata 'k' cannot be written: .*{message}"):
        write_gguf(tmp_path / "a.gguf", {"k": value}, [])
    assert os.listdir(tmp_path) == []


def test_wrong_tensor_bytes(tmp_path: Path) -> None:
    spec = tensor("w", (2, 32), Quant.Q8_0)
    for chunks, message in [([b"x" * 67], "but 67 were given"), ([b"x" * 60] * 2, "at least 120 were given")]:
        with pytest.raises(FormatError, match=f"tensor 'w': .* takes 68 bytes, {message}|{message}"):
            write_gguf(tmp_path / "a.gguf", {}, [(spec, chunks)])
    with pytest.raises(FormatError, match="'w' is given twice"):
        write_gguf(tmp_path / "a.gguf", {}, [(spec, [spec.data])] * 2)
    bad = QuantTensor("w", (32, 2), Quant.Q8_0, spec.data)
    with pytest.raises(FormatError, match="rows of 2 do not fill Q8_0 blocks of 32"):
        write_gguf(tmp_path / "a.gguf", {}, [(bad, [spec.data])])
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", {"k": 1}, TENSORS[:1])
    before = path.read_bytes()

    def broken() -> Iterator[bytes]:
        yield b"x"
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_gguf(path, {}, [(TENSORS[0], broken())])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.gguf"]


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = QuantTensor("w", (1 << 60,), Quant.F32, np.zeros(0, np.uint8))
    with pytest.raises(CapacityError, match=r"a.gguf: needs .* MB, but only .* MB are free there; free some space"):
        write_gguf(tmp_path / "a.gguf", {}, [(huge, [])])

    def full() -> Iterator[bytes]:  # the disk fills while writing
        raise OSError(errno.ENOSPC, "No space left on device")
        yield b""

    monkeypatch.setattr(gguf_writer, "_check_space", lambda *_: None)
    with pytest.raises(CapacityError, match="the disk is full: the file needs"):
        write_gguf(tmp_path / "a.gguf", {}, [(TENSORS[0], full())])
    assert os.listdir(tmp_path) == []


def test_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        write_gguf(tmp_path / "no" / "a.gguf", {}, [])


# --- typed metadata


def test_typed_metadata() -> None:
    metadata = {"i": 3, "f": 0.5, "s": "x", "b": True, "l": ["a", "b"]}
    assert get_int(metadata, "i") == 3
    assert get_float(metadata, "i") == 3.0
    assert get_float(metadata, "f") == 0.5
    assert get_str(metadata, "s") == "x"
    assert get_bool(metadata, "b") is True
    assert get_list(metadata, "l", str) == ["a", "b"]
    assert get_int(metadata, "none", 7) == 7
    assert get_list(metadata, "none", int, []) == []


def test_typed_metadata_errors() -> None:
    with pytest.raises(FormatError, match="key 'k' is missing: it must be an integer"):
        get_int({}, "k")
    for getter, value in [
        (get_int, True),
        (get_int, 1.5),
        (get_str, 1),
        (get_bool, 1),
        (get_float, "1"),
        (get_float, True),
    ]:
        with pytest.raises(FormatError, match=r"key 'k' must be an? .*, not"):
            getter({"k": value}, "k")
    with pytest.raises(FormatError, match=r"'k\[1\]' must be of type int, not str 'a'"):
        get_list({"k": [1, "a"]}, "k", int)
    with pytest.raises(FormatError, match=r"not str 'x{50,60}\.\.\.;"):
        get_int({"k": "x" * 999}, "k")
