"""A Hugging Face model directory as a Checkpoint: config.json, safetensors and tokenizer under GGUF's keys and names.

Which entries make a GGUF tensor is `huggingface.gguf_tensor`'s knowledge. It is asked twice. When the folder is opened:
with ghosts, arrays of the right shapes without memory, which shows what it reads and whether it only moves whole blocks
about; then the tensor keeps the exact precision of its source, else it becomes F32. And when the tensor is used: with
the records themselves (see `packed`), one expert at a time where it is made of experts. An entry that no tensor of the
family reads is an error: without it the answers would be wrong.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError, UnsupportedError
from motley.formats.huggingface import gguf_tensor, is_text, plain_name
from motley.formats.mapping import map_file
from motley.formats.metadata import shown
from motley.formats.packed import Stored, stored
from motley.formats.safetensors import INDEX, Entry, SafetensorsFile, read_folder, read_json
from motley.formats.tensor import AssembledTensor, Checkpoint, ModelFile, QuantTensor
from motley.shape.hf import text_config
from motley.shape.hf_rope import rope_factors
from motley.shape.model import ModelShape
from motley.shape.quant import Quant
from motley.shape.role import Role
from motley.shape.tensors import TensorShape

CONFIG = "config.json"
T = TypeVar("T")
_EXPERT = re.compile(r"\.experts\.(\d{1,6})\.")
_LAYER = re.compile(r"\.layers\.(\d{1,6})\.")
# Entries that change nothing in what Motley computes: what predicts further tokens, tables that are computed anew, and
# how others round activations and caches.
_HARMLESS = re.compile(
    r"(model\.)?mtp[._].*|.*(rotary_emb\.inv_freq|\.(input|activation|k|v|q|kv)_scale|\.attn\.(bias|masked_bias))"
)


def open_folder(folder: Path) -> Checkpoint:
    """See `checkpoint.open_checkpoint`. Raises FormatError or UnsupportedError, naming file and tensor or key."""
    from motley.formats.hf_tokenizer import tokenizer_metadata

    whole = read_json(folder / CONFIG)
    shape, config = ModelShape.from_hf_config(whole, "f32"), text_config(whole)
    files = read_folder(folder)
    entries, notes = _text_entries(files)
    planner = _Planner(shape, stored(entries, _table(config, "quantization_config")))
    made = _made(config, shape)
    tensors = {t.name: made[t.name] if t.name in made else planner.tensor(t) for t in shape.tensors}
    planner.require_all_read(shape.has_tied_head)
    metadata = {
        "general.architecture": shape.architecture,
        "general.name": str(config.get("_name_or_path") or folder.resolve().name)[:200],
        **shape.attrs,
        **tokenizer_metadata(folder, config, shape.vocab_size),
    }
    return Checkpoint(metadata, tensors, _hash(folder, files), (*notes, *planner.notes), _files(folder, files))


def _text_entries(files: Sequence[SafetensorsFile]) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """By the names that text models have, without what only sees or hears; and the sentence that says so."""
    entries: dict[str, Entry] = {}
    left = 0
    for file in files:
        for name, entry in file.entries.items():
            if is_text(name):
                plain = plain_name(name)
                entries[plain] = entry if plain == name else replace(entry, name=plain)
            else:
                left += 1
    return entries, (f"the model's text part: {left} tensors for images or sound are left out",) * bool(left)


def _made(config: Mapping[str, object], shape: ModelShape) -> dict[str, QuantTensor]:
    """Tensors of GGUF's that no checkpoint has: they follow from the config."""
    name = "rope_freqs.weight"
    n = sum(t.n_params for t in shape.tensors if t.name == name)
    if not n:
        return {}
    factors = np.array(rope_factors(config, n), np.float32)
    return {name: QuantTensor(name, factors.shape, Quant.F32, factors.view(np.uint8))}


def _table(config: Mapping[str, object], key: str) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise FormatError(f"{CONFIG}: {key} must be a table, not {shown(value)}")
    return value


# --- views of the state dict, as `gguf_tensor` sees them


class _View(Mapping[str, T]):
    """`make(stored, part)` gives what is seen of a parameter. With `expert`, the model seems to have one expert, which
    is that one: parameters of expert 0 are its own, and of those of all experts its slice. Remembers what was read."""

    def __init__(
        self,
        state: Mapping[str, Stored],
        make: Callable[[Stored, int | None], T],
        expert: int | None = None,
        n_experts: int = 0,
    ) -> None:
        self._state, self._make, self._expert, self._n_experts = state, make, expert, n_experts
        self.read: dict[str, None] = {}

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.own(name) in self._state

    def __getitem__(self, name: str) -> T:
        own = self.own(name)
        found = self._state[own]
        self.read[own] = None
        of_all = self._expert is not None and own == name and _is_stack(found, self._n_experts)
        return self._make(found, self._expert if of_all else None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)

    def own(self, name: str) -> str:
        if self._expert is None:
            return name
        return _EXPERT.sub(lambda m: f".experts.{self._expert}." if m[1] == "0" else m[0], name)


def _is_stack(found: Stored, n_experts: int) -> bool:
    """Whether it holds all experts' values of a kind, by its leading dimension."""
    return not _EXPERT.search(found.name) and found.dims[:1] == (n_experts,)


def _ghost(found: Stored, part: int | None) -> NDArray[Any]:
    """The shape of the records, in one byte."""
    dims = found.record_dims if part is None else (1, *found.record_dims[1:])
    return np.broadcast_to(np.zeros((), "V1"), dims)


def _float_ghost(found: Stored, part: int | None) -> NDArray[Any]:
    if found.quant is None:
        found.read(None)  # says why it is no weight
    return np.broadcast_to(np.float32(0), found.dims if part is None else (1, *found.dims[1:]))


def _records(found: Stored, part: int | None) -> NDArray[Any]:
    return found.read(part)


def _values(found: Stored, part: int | None) -> NDArray[Any]:
    return found.values(part)


# --- how each tensor is made


@dataclass(frozen=True)
class _Way:
    """How a GGUF tensor is made of the state; the same for all layers whose entries are of the same kinds."""

    quant: Quant
    moved: bool  # the records are only moved about
    by_expert: bool
    itself: bool  # one parameter, as it is
    read: tuple[str, ...]


class _Planner:
    def __init__(self, shape: ModelShape, state: Mapping[str, Stored]) -> None:
        self._shape, self._state = shape, state
        self._one_expert = replace(shape, n_experts=1, n_experts_used=1) if shape.n_experts else shape
        self._ways: dict[tuple[str, object], _Way] = {}
        self._kinds = _kinds_of_layers(state)
        self._read: set[str] = set()
        self.notes: dict[str, None] = {}

    def tensor(self, t: TensorShape) -> QuantTensor:
        way = self._way(t)
        keys = [key for name in way.read for key in self._everyone(_in_layer(name, t.layer))]
        self._read.update(keys)
        for key in keys:
            if note := self._state[key].note:
                self.notes[note] = None
        if way.itself and (mapped := self._state[keys[0]].mapped) is not None:
            return QuantTensor(t.name, t.dims, way.quant, mapped)

        def sources(part: int | None) -> list[NDArray[np.uint8]]:
            names = keys if part is None else [self._view(_records, part).own(_in_layer(n, t.layer)) for n in way.read]
            return [data for name in names for data in self._state[name].sources(self._slice(self._state[name], part))]

        return AssembledTensor(
            t.name, t.dims, way.quant, lambda part: self._assemble(t, way, part), sources, by_parts=way.by_expert
        )

    def _slice(self, found: Stored, part: int | None) -> int | None:
        """The slice that an expert's tensor takes of it; None: all."""
        return part if part is not None and _is_stack(found, self._shape.n_experts) else None

    def require_all_read(self, tied: bool) -> None:
        for name in self._state.keys() - self._read:
            layer = _LAYER.search(name)
            beyond = layer is not None and int(layer[1]) >= self._shape.n_layers  # they predict further tokens
            if beyond or _HARMLESS.fullmatch(name) or (tied and name.endswith("lm_head.weight")) or self._adds_0(name):
                continue
            raise UnsupportedError(
                f"tensor {shown(name)} is not part of {self._shape.architecture} as Motley computes it, and without it "
                "the answers would be wrong"
            )

    def _adds_0(self, name: str) -> bool:
        """A bias of nothing but zeros: some quantisers write one for every matrix."""
        found = self._state[name]
        return name.endswith(".bias") and found.mapped is not None and not found.mapped.any()

    def _everyone(self, name: str) -> list[str]:
        """The same parameter of all experts, checked to be there and alike."""
        if not _EXPERT.search(name):
            return [name]
        names = [_EXPERT.sub(f".experts.{e}.", name) for e in range(self._shape.n_experts)]
        for other in names:
            if other not in self._state:
                raise FormatError(f"tensor {shown(other)} is missing: the folder is incomplete, or of another model")
            if self._state[other].dims != self._state[name].dims:
                dims = [list(self._state[each].dims) for each in (other, name)]
                raise FormatError(f"tensor {shown(other)} has the dimensions {dims[0]}, but {shown(name)} {dims[1]}")
        return names

    def _way(self, t: TensorShape) -> _Way:
        key = (t.name.replace(f"blk.{t.layer}.", "blk.*."), self._kinds.get(t.layer))
        if key not in self._ways:
            self._ways[key] = self._found_way(t)
        return self._ways[key]

    def _found_way(self, t: TensorShape) -> _Way:
        experts = [0, None] if t.role is Role.EXPERT else [None]
        for expert in experts:
            if way := self._by_moving(t, expert):
                return way
        for expert in experts:
            view = self._view(_float_ghost, expert)
            made = gguf_tensor(t.name, self._shape_for(expert), view)
            if made.shape == _dims_for(t, expert):
                return _Way(Quant.F32, False, expert is not None, False, tuple(view.read))
        raise FormatError(
            f"tensor {t.name} would have the dimensions {list(made.shape)}, but {CONFIG} says {list(t.dims)}"
        )

    def _by_moving(self, t: TensorShape, expert: int | None) -> _Way | None:
        given: list[NDArray[Any]] = []

        def ghost(found: Stored, part: int | None) -> NDArray[Any]:
            given.append(_ghost(found, part))
            return given[-1]

        view = self._view(ghost, expert)
        try:
            made = gguf_tensor(t.name, self._shape_for(expert), view)
        except (TypeError, ValueError):  # arithmetic, or another cut than by rows
            return None
        sources = [self._state[key] for name in view.read for key in self._everyone(name)]
        quant, dims = sources[0].quant, _dims_for(t, expert)
        if quant is None or any(s.quant is not quant for s in sources) or dims[-1] % quant.block:
            return None
        if made.dtype != "V1" or made.shape != (*dims[:-1], dims[-1] // quant.block):
            return None
        itself = len(sources) == 1 and made is given[0] and sources[0].dims == t.dims
        return _Way(quant, True, expert is not None, itself, tuple(view.read))

    def _assemble(self, t: TensorShape, way: _Way, part: int | None) -> NDArray[np.uint8]:
        """Stored bytes of the tensor, or of one expert's slice of it."""
        view = self._view(_records if way.moved else _values, part)
        made = gguf_tensor(t.name, self._shape_for(part), view)
        if way.moved and made.dtype.itemsize != way.quant.block_bytes:
            raise FormatError(f"tensor {t.name} is made of parts of several precisions; convert the model again")
        flat: NDArray[np.uint8] = np.ascontiguousarray(made if way.moved else made.astype(np.float32, copy=False))
        flat = flat.reshape(-1).view(np.uint8)
        expected = way.quant.n_bytes(prod(_dims_for(t, part)))
        if flat.nbytes != expected:
            raise FormatError(f"tensor {t.name} takes {expected} bytes, but {flat.nbytes} were found")
        return flat

    def _view(self, make: Callable[[Stored, int | None], T], expert: int | None) -> _View[T]:
        return _View(self._state, make, expert, self._shape.n_experts)

    def _shape_for(self, expert: int | None) -> ModelShape:
        return self._shape if expert is None else self._one_expert


def _dims_for(t: TensorShape, expert: int | None) -> tuple[int, ...]:
    return t.dims if expert is None else (1, *t.dims[1:])


def _in_layer(name: str, layer: int | None) -> str:
    return name if layer is None else _LAYER.sub(f".layers.{layer}.", name)


def _kinds_of_layers(state: Mapping[str, Stored]) -> dict[int | None, object]:
    """By layer, what its parameters are: equal for layers that are put together in the same way."""
    kinds: dict[int | None, set[object]] = {}
    for name, found in state.items():
        layer = _LAYER.search(name)
        kind = _EXPERT.sub(".experts.*.", name if layer is None else name.replace(layer[0], ".layers.*.", 1))
        of = kinds.setdefault(None if layer is None else int(layer[1]), set())
        of.add((kind, found.dims, found.quant, found.axis))
    return {layer: frozenset(of) for layer, of in kinds.items()}


# --- identity


def _files(folder: Path, files: Sequence[SafetensorsFile]) -> tuple[ModelFile, ...]:
    from motley.formats.hf_tokenizer import FILES

    beside = [folder / name for name in (CONFIG, *FILES, INDEX)]
    whole = [(path.name, memoryview(map_file(path))) for path in beside if path.is_file() and path.stat().st_size]
    weights = (ModelFile(file.path.name, memoryview(file.bytes), file.data_offset) for file in files)
    return (*(ModelFile(name, data, data.nbytes) for name, data in whole), *weights)


def _hash(folder: Path, files: Sequence[SafetensorsFile]) -> str:
    """As a GGUF's (see `open_checkpoint`), with config.json and the tokenizer's files in front."""
    from motley.formats.checkpoint import update_hash
    from motley.formats.hf_tokenizer import FILES

    digest = hashlib.blake2b(digest_size=16)
    for name in (CONFIG, *FILES):
        path = folder / name
        data = path.read_bytes() if path.is_file() else b""
        digest.update(len(data).to_bytes(8, "little") + data)
    for file in files:
        update_hash(digest, file.bytes, file.data_offset)
    return digest.hexdigest()
