"""Open a model file, split or whole, or a Hugging Face directory, and give it an identity.

Owns split sets (`NAME-00001-of-00003.gguf`, keys `split.*`) and the content hash; the grammar is `gguf_reader`'s, and
directories are `folder`'s.
"""

import hashlib
import mmap
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from motley.errors import FormatError, UsageError
from motley.formats.gguf_reader import GGUFFile, read_gguf
from motley.formats.mapping import AGAIN
from motley.formats.metadata import get_int, shown
from motley.formats.tensor import Checkpoint, ModelFile, QuantTensor

_PART = re.compile(r"(?P<stem>.*)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf")
SAMPLES = 16  # per file, evenly spread, the first and the last bytes included; each may cost a disk seek
SAMPLE_BYTES = 4096


def open_checkpoint(path: str | PathLike[str]) -> Checkpoint:
    """Open a GGUF file, the first file of a split set, or a Hugging Face directory (config.json, safetensors), reading
    headers only.

    `hash` is 128 bits of blake2b in hex over, for each file in order: its size; all header bytes (metadata, tensor
    names, dimensions, types, offsets); and 16 blocks of 4 KiB spread evenly over the tensor data, first and last
    bytes included (all of the data where it is no larger). Equal hashes therefore mean the same header and, for
    anything but a deliberately edited file, the same weights; the file's name and folder don't matter.
    A directory's covers the same of its safetensors files, and config and tokenizer whole.
    """
    first = Path(path)
    if first.is_dir():
        return _open_folder(first)
    files = _open_parts(read_gguf(first))
    tensors: dict[str, QuantTensor] = {}
    for file in files:
        for name, tensor in file.tensors.items():
            if name in tensors:
                raise FormatError(f"{file.path}: tensor {shown(name)} is in an earlier part of the split too; {AGAIN}")
            tensors[name] = tensor
    _check_total(files, len(tensors))
    parts = tuple(
        ModelFile(_name(no, len(files)), memoryview(file.bytes), file.data_offset) for no, file in enumerate(files, 1)
    )
    return Checkpoint(files[0].metadata, tensors, content_hash(files), files=parts)


def _open_folder(folder: Path) -> Checkpoint:
    from motley.formats.folder import CONFIG, open_folder

    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder}: is a folder without {CONFIG}; pass a .gguf file or a Hugging Face model's folder")
    return open_folder(folder)


def _open_parts(first: GGUFFile) -> list[GGUFFile]:
    """All files of a split set, checked to belong together; a whole file alone."""
    count = get_int(first.metadata, "split.count", 1)
    if count <= 1:
        return [first]
    match = _PART.fullmatch(first.path.name)
    if match is None or int(match["count"]) != count:
        raise FormatError(
            f"{first.path}: metadata 'split.count' is {count}, so the name must end in -00001-of-{count:05}.gguf; "
            "rename the parts as they were"
        )
    if get_int(first.metadata, "split.no", 0) != 0 or int(match["no"]) != 1:
        raise FormatError(f"{first.path}: is a later part of a split; open {_part_name(match['stem'], 1, count)}")
    return [first, *(_open_part(first, match["stem"], no, count) for no in range(2, count + 1))]


def _name(no: int, count: int) -> str:
    return _part_name("model", no, count) if count > 1 else "model.gguf"


def _part_name(stem: str, no: int, count: int) -> str:
    return f"{stem}-{no:05}-of-{count:05}.gguf"


def _open_part(first: GGUFFile, stem: str, no: int, count: int) -> GGUFFile:
    path = first.path.with_name(_part_name(stem, no, count))
    if not path.exists():
        raise FormatError(f"{path}: part {no} of {count} is missing; put it beside {first.path.name}")
    part = read_gguf(path)
    there = (get_int(part.metadata, "split.no", -1), get_int(part.metadata, "split.count", -1))
    if there != (no - 1, count):
        raise FormatError(
            f"{path}: metadata 'split.no' and 'split.count' are {there}, not {(no - 1, count)}: "
            f"it belongs to another set; {AGAIN}"
        )
    return part


def _check_total(files: Sequence[GGUFFile], found: int) -> None:
    if len(files) > 1:
        expected = get_int(files[0].metadata, "split.tensors.count", found)
        if found != expected:
            raise FormatError(
                f"{files[0].path}: metadata 'split.tensors.count' is {expected}, "
                f"but the {len(files)} parts hold {found} tensors; {AGAIN}"
            )


def content_hash(files: Sequence[GGUFFile]) -> str:
    """See `open_checkpoint` for what it covers."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        update_hash(digest, file.bytes, file.data_offset)
    return digest.hexdigest()


def update_hash(digest: "hashlib.blake2b", data: mmap.mmap, data_offset: int) -> None:
    """Of one file: its size, its header, and samples of the rest."""
    size = len(data)
    digest.update(size.to_bytes(8, "little"))
    digest.update(data[:data_offset])
    for start, end in sampled(min(data_offset, size), size):
        digest.update(data[start:end])


def sampled(start: int, end: int) -> list[tuple[int, int]]:
    """The ranges of a file's tensor data, from `start` to `end`, that its hash covers."""
    if end - start <= SAMPLES * SAMPLE_BYTES:
        return [(start, end)]
    last = end - SAMPLE_BYTES
    begins = [start + (last - start) * i // (SAMPLES - 1) for i in range(SAMPLES)]
    return [(begin, begin + SAMPLE_BYTES) for begin in begins]
