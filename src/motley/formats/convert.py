"""Write any opened checkpoint, GGUF or Hugging Face directory, as one GGUF file that llama.cpp loads too.

Streaming: the largest thing in memory is one matrix of the source as it is stored (one expert's, where experts are put
together; nothing of what is mapped), and beside it some 30 MB a thread for values on their way to their blocks. Norms,
router and vectors are F32. What already has the wanted precision is copied, not decoded. Measured on 2 shared cores of
a Sapphire Rapids VM, one thread: 60 M values/s to Q8_0 or BF16, 5 M to K-quants (see `encode`).
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from os import PathLike
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError, MotleyError, UnsupportedError
from motley.formats.encode import encode
from motley.formats.gguf_writer import write_gguf
from motley.formats.hf_tokenizer import WHOLE, with_pre_tokenizer
from motley.formats.shape_of import shape_of
from motley.formats.synth import file_type
from motley.formats.tensor import AssembledTensor, Checkpoint, QuantTensor
from motley.progress import Progress, silent
from motley.shape.labels import mix_named
from motley.shape.llama_cpp import KEPT
from motley.shape.mix import Facts, Mix, Place, unknown_mix
from motley.shape.model import ModelShape
from motley.shape.quant import Quant, require_quant
from motley.shape.role import Role
from motley.shape.tensors import TensorShape

T = TypeVar("T")
R = TypeVar("R")
PIECE = 1 << 20  # values that are decoded and encoded at a time
_FLOATS = (Quant.F32, Quant.F16, Quant.BF16)
_NOT_KEPT = (WHOLE, "general.file_type", "general.quantization_version", "general.alignment")


@dataclass(frozen=True)
class Target:
    """A tensor as it will be written."""

    name: str
    dims: tuple[int, ...]
    quant: Quant

    @property
    def n_bytes(self) -> int:
        return self.quant.n_bytes(prod(self.dims))


def convert(
    source: Checkpoint,
    path: str | PathLike[str],
    quant: str | None = None,
    progress: Progress = silent,
    threads: int = 1,
) -> list[str]:
    """Write `source` to `path`; returns what the user should know of it, a sentence each.

    `quant`: a mix as people name it (`q8_0`, `q4_k_m`, `bf16`); without one, matrices stay as they are. The file
    appears under its name only when it is whole. UnsupportedError for what cannot be written, before anything is.
    """
    shape = shape_of(source)
    targets, notes = _targets(shape, quant)
    total, done = sum(t.n_bytes for t in targets), 0
    metadata = _metadata(source.metadata, targets)
    with ThreadPoolExecutor(threads) as pool:

        def counted(target: Target) -> Iterator[NDArray[np.uint8]]:
            nonlocal done
            for chunk in _chunks(source.tensors[target.name], target, pool, threads):
                yield chunk
                done += chunk.nbytes
                progress(f"writing: {done / 1e6:.0f} of {total / 1e6:.0f} MB", done / total)

        write_gguf(path, metadata, [(target, counted(target)) for target in targets])
    return [*source.notes, *notes]


def _metadata(given: Mapping[str, Any], targets: list[Target]) -> dict[str, Any]:
    kept = {key: value for key, value in given.items() if key not in _NOT_KEPT and not key.startswith("split.")}
    if WHOLE in given:
        kept |= with_pre_tokenizer(given)
    sizes = Counter[Quant]()
    for target in targets:
        sizes[target.quant] += target.n_bytes
    return {
        "general.architecture": kept.pop("general.architecture"),
        **kept,
        "general.file_type": file_type(sizes),
        "general.quantization_version": 2,
    }


# --- which precision each tensor gets


def _targets(shape: ModelShape, quant: str | None) -> tuple[list[Target], list[str]]:
    mix = None if quant is None else _mix(shape, quant)
    targets, narrow, twice = [], [], []
    for t in shape.tensors:
        now = require_quant(t.quant, t.name)
        if mix is None:
            wanted = Quant.F32 if _stays_f32(t) else now
        else:
            place = Place(t.name, t.role, t.layer, t.dims)
            wanted = require_quant(mix.precision(place), f"{quant}, tensor {t.name}")
            full = replace(place, dims=(*t.dims[:-1], 256))
            narrow += [(t, wanted)] if mix.precision(full) is not wanted else []
        twice += [t] if now not in _FLOATS and wanted not in (now, *_FLOATS) else []
        targets.append(Target(t.name, t.dims, wanted))
    for used in {target.quant for target in targets}:
        _require_writable(used, {require_quant(t.quant, t.name) for t in shape.tensors})
    return targets, [*_narrow_note(narrow, quant), *_twice_note(twice)]


def _stays_f32(t: TensorShape) -> bool:
    return len(t.dims) == 1 or t.name.endswith((".bias", *KEPT)) or t.role in (Role.NORM, Role.ROUTER)


def _mix(shape: ModelShape, quant: str) -> Mix:
    name = mix_named(quant)
    if name is None:
        raise unknown_mix(quant)
    facts = Facts(
        n_layers=shape.n_layers,
        architecture=shape.architecture,
        n_experts=shape.n_experts,
        group=shape.n_heads // max(shape.n_kv_heads, 1),
        tied=shape.has_tied_head,
        is_70b=shape.architecture == "llama" and shape.n_layers == 80,
        value_order={layer: layer for layer in range(shape.n_layers)},
    )
    return Mix(name, facts)


def _require_writable(quant: Quant, there: set[Quant]) -> None:
    """`there`: the source's precisions, which may be copied."""
    if quant in there:
        return
    try:
        encode(np.zeros(quant.block, np.float32), quant)
    except (KeyError, MotleyError):
        raise UnsupportedError(f"Motley reads {quant.name} but does not write it: choose another --quant") from None


def _narrow_note(narrow: list[tuple[TensorShape, Quant]], quant: str | None) -> Iterator[str]:
    if narrow:
        first, _ = narrow[0]
        yield (
            f"{len(narrow)} tensors have rows that do not fill the blocks of {quant}, and are stored as "
            f"{' or '.join(sorted({q.name for _, q in narrow}))} (first: {first.name}, rows of {first.dims[-1]})"
        )


def _twice_note(twice: list[TensorShape]) -> Iterator[str]:
    if twice:
        yield (
            f"{len(twice)} tensors were quantised before ({twice[0].name}: {twice[0].quant.name}) and are quantised "
            "again, which loses more than doing it once from the original"
        )


# --- the bytes


def _chunks(tensor: QuantTensor, target: Target, pool: Executor, ahead: int) -> Iterator[NDArray[np.uint8]]:
    if tensor.dims != target.dims:
        raise FormatError(f"tensor {tensor.name} has dimensions {list(tensor.dims)}, expected {list(target.dims)}")
    if tensor.quant is not target.quant:
        yield from _in_order(pool, ahead, lambda piece: _encoded(piece, target), _pieces(tensor))
        return
    for part in _parts(tensor) if isinstance(tensor, AssembledTensor) else (tensor,):
        yield part.read().data


def _parts(tensor: QuantTensor) -> Iterator[QuantTensor]:
    """Experts one by one; anything else whole."""
    if len(tensor.dims) < 3:
        yield tensor
        return
    for i in range(tensor.dims[0]):
        yield tensor.part(i)


def _pieces(tensor: QuantTensor) -> Iterator[QuantTensor]:
    """Some rows at a time."""
    for part in map(QuantTensor.read, _parts(tensor)):
        rows = max(1, PIECE // prod(part.dims[1:]))
        for first in range(0, part.dims[0], rows):
            yield part.rows(first, min(first + rows, part.dims[0]))


def _in_order(pool: Executor, ahead: int, work: Callable[[T], R], given: Iterable[T]) -> Iterator[R]:
    """`work` of each, in order; at most `ahead` are under way, so that no more are in memory."""
    waiting: deque[Future[R]] = deque()
    for each in given:
        waiting.append(pool.submit(work, each))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _encoded(piece: QuantTensor, target: Target) -> NDArray[np.uint8]:
    try:
        return encode(piece.decode(), target.quant)
    except FormatError as error:
        raise FormatError(f"tensor {target.name}: {error}") from None
