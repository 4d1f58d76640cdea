"""For the tokenizer tools: vocabulary-only GGUF files in and out, and llama.cpp's ids for them (`peers` extra)."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import llama_cpp

Metadata = Mapping[str, Any]


def read_metadata(path: Path) -> dict[str, Any]:
    """All `tokenizer.*` keys of a GGUF file."""
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}


def write_vocabulary(path: Path, metadata: Metadata) -> None:
    """A GGUF with nothing but `metadata`, of which llama.cpp can load the vocabulary."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """llama.cpp's tokenizer for one vocabulary file."""

    def __init__(self, path: Path) -> None:
        logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
        self._llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)

    def encode(self, text: str, special: bool = False) -> list[int]:
        ids: list[int] = self._llama.tokenize(text.encode(), add_bos=False, special=special)
        return ids

    def piece(self, id: int, special: bool = False) -> bytes:
        buffer = llama_cpp.ctypes.create_string_buffer(1 << 14)
        size = llama_cpp.llama_token_to_piece(self._llama._model.vocab, id, buffer, len(buffer), 0, special)
        return bytes(buffer.raw[:size])

    def ends(self) -> frozenset[int]:
        vocab = self._llama._model.vocab
        return frozenset(id for id in range(self._llama.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocab, id))

    def add_bos(self) -> bool:
        return bool(llama_cpp.llama_vocab_get_add_bos(self._llama._model.vocab))
