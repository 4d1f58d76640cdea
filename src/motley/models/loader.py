"""Loader: uploads a checkpoint's tensors to a device, checking their dimensions, counting and reporting the bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError, UnsupportedError
from motley.formats.shape_of import role_of
from motley.formats.tensor import AssembledTensor, Checkpoint, QuantTensor
from motley.models.config import Config
from motley.ops.protocol import Array, ExpertBiases, Experts, Ops, Rope, Upload, Weight
from motley.progress import Progress, silent
from motley.shape.quant import Quant

EXPERT_PARTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_down_exps")
OUTSIDE_LAYERS = ("token_embd.weight", "output_norm.weight", "output.weight")


class ExpertTensors(NamedTuple):
    """Of all experts of a layer: gate, up [E, F, D], down [E, D, F]."""

    gate: QuantTensor
    up: QuantTensor
    down: QuantTensor
    biases: ExpertBiases | None


@dataclass
class Loader:
    """`repack`: see `ops.protocol.Upload`."""

    checkpoint: Checkpoint
    ops: Ops
    progress: Progress = silent
    total: int = 0  # bytes that are expected, for `progress`
    repack: bool = True
    projected: Mapping[int, range] = field(default_factory=dict)  # the rows that are here, of layers that are split
    n_bytes: int = field(default=0, init=False)
    _read: set[str] = field(default_factory=set, init=False)

    def has(self, name: str) -> bool:
        return name in self.checkpoint.tensors

    def tensor(self, name: str, dims: tuple[int, ...]) -> QuantTensor:
        tensor = self.checkpoint.tensors.get(name)
        if tensor is None:
            raise FormatError(f"tensor {name} {list(dims)} is missing: the file is incomplete or of another family")
        if tensor.dims != dims:
            raise FormatError(f"tensor {name} has dimensions {list(tensor.dims)}, expected {list(dims)}")
        self._read.add(name)
        return tensor

    def weight(self, name: str, *dims: int) -> Weight:
        tensor = self.tensor(name, dims)
        weight = self.ops.weight(tensor, self._upload)
        self._count(tensor.n_bytes)
        return weight

    def optional(self, name: str, *dims: int) -> Weight | None:
        return self.weight(name, *dims) if self.has(name) else None

    def flat(self, name: str, n: int, *, as_row: bool = False) -> Weight | None:
        """A vector of n where the file has it, as [n] or as [1, n]; `as_row`: uploaded as a matrix of one row."""
        if not self.has(name):
            return None
        is_row = len(self.checkpoint.tensors[name].dims) == 2
        values = self.tensor(name, (1, n) if is_row else (n,)).decode()
        return self.vector(name, values.reshape((1, n) if as_row else (n,)))

    def vector(self, name: str, values: Array) -> Weight:
        """A vector or matrix of float32 values that the file does not have as they are."""
        data = np.ascontiguousarray(values, np.float32)
        return self.ops.weight(QuantTensor(name, data.shape, Quant.F32, data.reshape(-1).view(np.uint8)))

    def rows(self, name: str, rows: range, *dims: int) -> Weight:
        """Some rows of a matrix of `dims`, as a matrix of their own."""
        weight = self.ops.weight(part := self.tensor(name, dims).rows(rows.start, rows.stop), self._upload)
        self._count(part.n_bytes)
        return weight

    def table(self, name: str, *dims: int) -> Weight:
        tensor = self.tensor(name, dims)
        table = self.ops.table(tensor)
        self._count(tensor.n_bytes)
        return table

    def turned(self, rope: Rope | None) -> Rope | None:
        """With the factors that the file has for its pairs, as a tensor: Llama 3's, and of partly turned heads."""
        if rope is None or not self.has("rope_freqs.weight"):
            return rope
        return replace(rope, factors=tuple(self.tensor("rope_freqs.weight", (rope.dim // 2,)).decode().tolist()))

    def experts(self, config: Config, layer: int, owned: Sequence[int]) -> Experts:
        gate, up, down, biases = self.expert_tensors(config, layer)
        experts = self.ops.experts_weight(gate, up, down, owned, self._upload, config.activation, biases)
        self._count((gate.n_bytes + up.n_bytes + down.n_bytes) // config.n_experts * len(owned))
        return experts

    def expert_tensors(self, config: Config, layer: int) -> ExpertTensors:
        """Gate and up may be one tensor, each expert's gate before its up."""
        n, d, f = config.n_experts, config.d_model, config.d_expert
        blk = f"blk.{layer}."
        if self.has(both := blk + "ffn_gate_up_exps.weight"):
            gate, up = _halves(self.tensor(both, (n, 2 * f, d)))
        else:
            gate, up = (self.tensor(f"{blk}ffn_{part}_exps.weight", (n, f, d)) for part in ("gate", "up"))
        down = self.tensor(blk + "ffn_down_exps.weight", (n, d, f))
        biases = None
        if any(self.has(f"{blk}ffn_{part}_exps.bias") for part in ("gate", "up", "down")):
            widths = {"gate": f, "up": f, "down": d}
            biases = ExpertBiases(*(self.tensor(f"{blk}ffn_{p}_exps.bias", (n, w)) for p, w in widths.items()))
        return ExpertTensors(gate, up, down, biases)

    def require_all_read(self, layers: range) -> None:
        """UnsupportedError for a tensor of these layers, or outside all layers, that no part of the model reads: to
        leave it out would change the answer. Experts may be read elsewhere."""
        for name in self.checkpoint.tensors.keys() - self._read - set(OUTSIDE_LAYERS):
            _, layer = role_of(name)
            part = name.removeprefix(f"blk.{layer}.").removesuffix(".weight").removesuffix(".bias")
            if (layer is None or layer in layers) and part not in EXPERT_PARTS:
                raise UnsupportedError(
                    f"tensor {name} is not part of {self.checkpoint.architecture} as Motley computes it, and without "
                    "it the answers would be wrong: use a file that has no such tensor"
                )

    @property
    def _upload(self) -> Upload:
        return Upload(self.repack, self._report)

    def _count(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        self._report(0)

    def _report(self, of_this: int) -> None:
        done = self.n_bytes + of_this
        self.progress(f"loading: {done / 1e6:.0f} MB", done / max(self.total, done, 1))


def _halves(tensor: QuantTensor) -> tuple[QuantTensor, QuantTensor]:
    """[E, 2F, D] -> the first and the last F rows of each expert; only those that are used are copied."""
    n, rows, cols = tensor.dims
    f = rows // 2

    def half(first: int) -> QuantTensor:
        def of(expert: int | None) -> NDArray[np.uint8]:
            assert expert is not None
            return tensor.part(expert).rows(first, first + f).data

        return AssembledTensor(tensor.name, (n, f, cols), tensor.quant, of, tensor.sources, by_parts=True)

    return half(0), half(f)
