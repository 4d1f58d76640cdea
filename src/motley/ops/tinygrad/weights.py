"""Weights and what sequences leave behind, on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from math import prod

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, dtypes

from motley.formats import blocks
from motley.formats.tensor import QuantTensor
from motley.ops.protocol import Activation, DeltaNet, ExpertBiases, Span
from motley.ops.tinygrad import adapter
from motley.ops.tinygrad.planes import Kept, Planes, planes_of, values_of
from motley.shape.quant import Quant


class TinygradWeight:
    """A vector [cols], a matrix [rows, cols], one a head [H, rows, cols], or experts' [owned, rows, cols]."""

    def __init__(self, dims: tuple[int, ...], quant: Quant, planes: Planes, device: str) -> None:
        self.dims, self.quant = dims, quant
        self.kept: Kept = {name: adapter.upload(a, device) for name, a in planes.items()}

    def values(self) -> Tensor:
        """float32 [*dims], as an expression of the stored bytes."""
        return values_of(self.quant, self.kept)

    def chosen(self, parts: Tensor) -> Tensor:
        """Of parts [n] of the leading dimension: float32 [n, rows, cols]."""
        return values_of(self.quant, {name: plane[parts] for name, plane in self.kept.items()})

    @property
    def is_float(self) -> bool:
        return self.quant in (Quant.F32, Quant.F16, Quant.BF16)

    @property
    def n_bytes(self) -> int:
        return sum(prod(p.shape) * p.dtype.itemsize for p in self.kept.values())


def uploaded(tensor: QuantTensor, device: str) -> TinygradWeight:
    quant, planes = planes_of(tensor.read())
    return TinygradWeight(tensor.dims, quant, planes, device)


@dataclass(frozen=True)
class TinygradExperts:
    """The owned experts of one layer, in the order of `owned` int32 [owned]; `local` int32 [E]: an expert's place
    there, or -1."""

    gate: TinygradWeight
    up: TinygradWeight
    down: TinygradWeight
    owned: Tensor
    local: Tensor
    biases: tuple[Tensor, ...] | None  # [E, F], [E, F], [E, D]
    activation: Activation
    turns: Iterator[int] = field(default_factory=count)  # of `overwrite`

    @cached_property
    def records(self) -> "tuple[Records, ...]":
        return tuple(Records(weight, self.owned.device) for weight in (self.gate, self.up, self.down))


def uploaded_experts(
    gate: QuantTensor,
    up: QuantTensor,
    down: QuantTensor,
    owned: Sequence[int],
    activation: Activation,
    biases: ExpertBiases | None,
    device: str,
) -> TinygradExperts:
    ids = [int(e) for e in owned]
    g, u, d = (_parts(tensor.read(ids), ids, device) for tensor in (gate, up, down))
    added = tuple(adapter.upload(values, device) for values in _decoded(biases)) if biases else None
    order = np.array(ids or [0], np.int32)
    local = adapter.upload(_places(ids, gate.dims[0]), device)
    return TinygradExperts(g, u, d, adapter.upload(order, device), local, added, activation)


def overwrite(
    kept: TinygradExperts,
    tensors: Sequence[QuantTensor],
    owned: Sequence[int],
    biases: ExpertBiases | None,
    device: str,
) -> None:
    """Other experts in the memory of these, of a kind with them and no more than they were. The device does it behind
    what it was given before; the host is at most two such calls ahead."""
    ids = [int(e) for e in owned]
    if next(kept.turns) % 2 == 0:
        adapter.wait(device)  # CUDA keeps a copy of all that it has not yet been sent
    for records, tensor in zip(kept.records, tensors):
        records.write(tensor, ids)
    for bias, values in zip(kept.biases or (), _decoded(biases) if biases else ()):
        adapter.write(bias, values)
    adapter.write_first(kept.owned, np.array(ids, np.int32))
    adapter.write(kept.local, _places(ids, tensors[0].dims[0]))


class Records:
    """A weight's blocks on the device as a file has them, and the graph that takes them apart there, into its planes:
    numpy on the host does 1 to 2 GB/s of that (docs/log.md)."""

    def __init__(self, weight: TinygradWeight, device: str) -> None:
        self._weight, self._graph = weight, adapter.Graph([])
        if weight.is_float:
            self._bytes = weight.kept["values"]
        else:
            quant = weight.quant
            first = {name: at for name, (_, at, *_) in (blocks.LAYOUT[quant].fields or {}).items()}
            shape = *weight.dims[:-1], weight.dims[-1] // quant.block, quant.block_bytes
            self._bytes = adapter.empty(shape, device, dtypes.uint8)
            planes = weight.kept.items()
            self._graph = adapter.Graph([adapter.unpacked(p, self._bytes, first[name]) for name, p in planes])

    def write(self, tensor: QuantTensor, ids: Sequence[int]) -> None:
        weight = self._weight
        if tensor.quant is not weight.quant or len(ids) > weight.dims[0] or tensor.dims[1:] != weight.dims[1:]:
            raise ValueError(f"{len(ids)} experts of {tensor.name} don't fit in where {weight.dims[0]} others were")
        size = tensor.n_bytes // tensor.dims[0]
        for place, first, end in _runs(ids):
            adapter.write_first(self._bytes, tensor.data[first * size : end * size], place * size)
        if ids:
            self._graph.run({})


def _runs(ids: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours together: the place of the first, the first, and behind the last."""
    cuts = [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1] + 1]
    for at, end in zip(cuts, [*cuts[1:], len(ids)]):
        yield at, ids[at], ids[end - 1] + 1


def _places(ids: Sequence[int], n_experts: int) -> NDArray[np.int32]:
    local = np.full(n_experts, -1, np.int32)
    local[list(ids)] = np.arange(len(ids))
    return local


def _decoded(biases: ExpertBiases) -> list[NDArray[np.float32]]:
    return [np.ascontiguousarray(b.decode()) for b in biases]


def _parts(tensor: QuantTensor, ids: Sequence[int], device: str) -> TinygradWeight:
    """One expert at a time, so that the host needs no memory for all of them."""
    each = [planes_of(tensor.part(e).read()) for e in ids] or [planes_of(tensor.part(0).read())]
    quants = {quant for quant, _ in each}
    quant = quants.pop() if len(quants) == 1 else Quant.F32
    planes = [p for _, p in each]
    if quants:  # some of them fit half precision, others don't
        planes = [{"values": p["values"].astype(np.float32)} for p in planes]
    stacked = {name: np.stack([p[name] for p in planes]) for name in planes[0]}
    return TinygradWeight((len(planes), *tensor.dims[1:]), quant, stacked, device)


@dataclass
class TinygradCache:
    """Row slot * context + position; one row more, for tokens that are padding. Read anew from here after each put."""

    keys: Tensor  # [slots * context + 1, K*N]
    values: Tensor | None  # [slots * context + 1, K*M]; None: each head's are the first elements of its keys
    n_slots: int
    context: int
    n_kv_heads: int
    value_dim: int
    span: Span

    @property
    def head_dim(self) -> int:
        return int(self.keys.shape[1]) // self.n_kv_heads

    @property
    def read_values(self) -> Tensor:
        """What values are read from, M of each head's elements."""
        return self.keys if self.values is None else self.values

    @property
    def changing(self) -> tuple[str, ...]:
        return ("keys",) if self.values is None else ("keys", "values")

    @property
    def is_half(self) -> bool:
        return bool(self.keys.dtype == dtypes.float16)


@dataclass
class TinygradDelta:
    """One slot more, for tokens that are padding."""

    net: DeltaNet
    states: Tensor  # [slots + 1, V*N*M]
    inputs: Tensor  # [(slots + 1) * (taps - 1), channels], the latest last
    n_slots: int
