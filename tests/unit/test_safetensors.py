"""safetensors files, sound and hostile. The writer is the tests' own (hf_folders), a few lines of numpy and JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_folders import bf16, f16, f32, safetensors_bytes, write_folder
from motley.errors import FormatError, UsageError
from motley.formats.safetensors import read_folder, read_safetensors

A, B = np.arange(6.0).reshape(2, 3), np.arange(4.0)
SOUND = {"a": f32(A), "b": bf16(B), "scalar": f16(np.array(2.5)), "none": f32(np.zeros((0, 4)))}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(SOUND))
    entries = read_safetensors(path).entries
    assert {(e.name, e.dtype, e.dims) for e in entries.values()} == {
        ("a", "F32", (2, 3)),
        ("b", "BF16", (4,)),
        ("scalar", "F16", ()),
        ("none", "F32", (0, 4)),
    }
    assert {name: e.data.tobytes() for name, e in entries.items()} == {n: v.tobytes() for n, (_, v) in SOUND.items()}


def with_header(text: bytes, data: bytes = bytes(40)) -> bytes:
    return len(text).to_bytes(8, "little") + text + data


def changed(**changes: Any) -> bytes:
    return safetensors_bytes({"a": f32(A), "b": bf16(B)}, **changes)


ONE = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "short": (b"1234", "4 bytes are no safetensors file"),
    "huge length": ((1 << 63).to_bytes(8, "little") + b"{}", "the header would be 9223372036854775808 bytes long"),
    "truncated header": (safetensors_bytes(SOUND)[:60], "the file is cut short"),
    "truncated data": (safetensors_bytes(SOUND)[:-1], "but the data are"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(40), "bytes long, but"),
    "no object": (with_header(b"[1, 2]"), "its header is no JSON object"),
    "no JSON": (with_header(b"{nonsense}"), "is not valid JSON"),
    "no UTF-8": (with_header(b'{"\xff": 1}'), "is not valid JSON"),
    "nested": (with_header(b'{"a":' * 100_000), "is not valid JSON"),
    "endless number": (with_header(b'{"a":' + b"9" * 10_000 + b"}"), "is not valid JSON"),
    "twice": (with_header(b'{"a":' + ONE + b',"a":' + ONE + b"}"), "names 'a' twice"),
    "twice inside": (with_header(b'{"a":{"dtype":"F32","dtype":"F16"}}'), "names 'dtype' twice"),
    "no description": (with_header(b'{"a":3}'), "tensor 'a' is described by 3"),
    "unknown type": (changed(a={"dtype": "F99"}), "tensor 'a' has the type 'F99', but Motley knows"),
    "list as type": (changed(a={"dtype": ["F32"]}), "has the type"),
    "wrong type": (changed(a={"dtype": "F64"}), r"\[2, 3\] F64 takes 48 bytes, not 24"),
    "negative": (changed(a={"shape": [-2, -3]}), "has the shape"),
    "huge shape": (changed(a={"shape": [1 << 61, 1 << 61]}), "takes"),
    "many dimensions": (changed(a={"shape": [1] * 9}), "not up to 8 whole numbers"),
    "float shape": (changed(a={"shape": [2.0, 3]}), "has the shape"),
    "true shape": (changed(a={"shape": [True, 6]}), "has the shape"),
    "backwards": (changed(a={"data_offsets": [24, 0]}), r"has the offsets \[24, 0\], but the data are 32 bytes"),
    "beyond": (changed(a={"data_offsets": [1 << 40, (1 << 40) + 24]}), "but the data are 32 bytes"),
    "one offset": (changed(a={"data_offsets": [0]}), "has the offsets"),
    "overlap": (changed(b={"data_offsets": [20, 28]}), "tensor 'b' overlaps tensor 'a'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_one_clear_sentence(tmp_path: Path, case: str) -> None:
    data, sentence = HOSTILE[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=sentence) as caught:
        read_safetensors(path)
    assert "x.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_no_change_of_one_byte_of_the_header_does_worse_than_raise(tmp_path: Path) -> None:
    whole = bytearray(safetensors_bytes({"a": f32(A), "b": bf16(B)}))
    path = tmp_path / "x.safetensors"
    for at in range(len(whole) - 32):
        for byte in (0, 0x20, 0x39, 0x7B, 0xFF):
            path.write_bytes(bytes(whole[:at]) + bytes([byte]) + bytes(whole[at + 1 :]))
            try:
                for entry in read_safetensors(path).entries.values():
                    entry.data.sum()
            except FormatError:
                pass


def test_shards_by_their_index(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", {}, {"a": f32(A)}, {"b": bf16(B)})
    (folder / "consolidated.safetensors").write_bytes(safetensors_bytes({"a": f32(A)}))  # not in the index: not read
    assert [list(file.entries) for file in read_folder(folder)] == [["a"], ["b"]]
    second = folder / "model-00002-of-00002.safetensors"
    kept = second.read_bytes()
    second.write_bytes(safetensors_bytes({"c": bf16(B)}))
    with pytest.raises(FormatError, match=r"tensor 'b' is missing, but model\.safetensors\.index\.json names it"):
        read_folder(folder)
    second.write_bytes(safetensors_bytes({"a": f32(A), "b": bf16(B)}))
    with pytest.raises(FormatError, match=r"tensor 'a' is in model-00001-of-00002\.safetensors too"):
        read_folder(folder)
    second.write_bytes(kept)
    second.unlink()
    with pytest.raises(FormatError, match=r"model-00002-of-00002\.safetensors: is missing"):
        read_folder(folder)


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", 3, "pickle.bin", ".."])
def test_an_index_names_files_beside_it_only(tmp_path: Path, file: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(FormatError, match=r"which is no \.safetensors file"):
        read_folder(tmp_path)


def test_folders_without_weights(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"holds no \.safetensors file"):
        read_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(FormatError, match="has no weight_map"):
        read_folder(tmp_path)
    with pytest.raises(UsageError, match="cannot be opened"):
        read_safetensors(tmp_path / "absent.safetensors")
