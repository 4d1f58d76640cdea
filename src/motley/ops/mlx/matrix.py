"""Matrix: weights on an MLX device, quantised as MLX wants them or float32; one matrix, or many of one size (heads,
experts)."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import mlx.core as mx

from motley.formats.tensor import QuantTensor
from motley.ops.mlx.layouts import LAYOUTS, Layout, pack
from motley.ops.protocol import REPACKED, Upload
from motley.shape.quant import Quant

Array = Any  # mx.array
_PIECE = 1 << 23  # weights that are packed at a time: what numpy needs meanwhile stays small


class Matrix:
    """`dims`: [rows, cols] or [n, rows, cols]. `parts`: which slices of the leading dimension are taken, in this order;
    None: all of it."""

    def __init__(self, tensor: QuantTensor, parts: Sequence[int] | None = None, upload: Upload = REPACKED) -> None:
        tensor = tensor.read(parts)
        self.dims = tensor.dims if parts is None else (len(parts), *tensor.dims[1:])
        self.layout = None if _no_number(tensor, parts) else LAYOUTS.get(tensor.quant)
        pieces, done = [], 0
        for piece in _pieces(tensor, parts):
            pieces.append(pack(piece) if self.layout else [mx.array(piece.decode())])
            mx.eval(pieces[-1])
            done += piece.n_bytes
            if upload.report:
                upload.report(done)
        self._arrays = [mx.concatenate(list(a)).reshape(*self.dims[:-1], -1) for a in zip(*pieces)]
        mx.eval(self._arrays)

    def times(self, x: Array) -> Array:
        """x [..., T, cols] times each matrix transposed: [..., T, rows]"""
        if not self.layout:
            return x @ self._arrays[0].swapaxes(-1, -2)
        words, scales, biases = self._quantised()
        return mx.quantized_matmul(self._spread(x), words, scales, biases, transpose=True, **_settings(self.layout))

    def of_each(self, x: Array, which: Array, ascending: bool) -> Array:
        """x [n, cols], each times the matrix `which` [n] says: [n, rows]. `ascending`: `which` is."""
        x = x[:, None]
        if not self.layout:
            weights = self._arrays[0].swapaxes(-1, -2)
            return mx.gather_mm(x, weights, rhs_indices=which, sorted_indices=ascending)[:, 0]
        words, scales, biases = self._quantised()
        how = {"rhs_indices": which, "transpose": True, "sorted_indices": ascending, **_settings(self.layout)}
        return mx.gather_qmm(self._spread(x), words, scales, biases, **how)[:, 0]

    def values(self) -> Array:
        """float32, decoded by MLX."""
        if not self.layout:
            return self._arrays[0]
        words, scales, biases = self._quantised()
        out = mx.dequantize(words, scales, biases, dtype=mx.float32, **_settings(self.layout))
        if self.layout.spread:
            out = out.reshape(*self.dims[:-1], -1, 32)[..., :16].reshape(self.dims)
        return out

    def _quantised(self) -> tuple[Array, Array, Array | None]:
        words, scales, *biases = self._arrays
        return words, scales, biases[0] if biases else None

    def _spread(self, x: Array) -> Array:
        """Sixteen values and sixteen zeros by turns, where the weights lie so."""
        assert self.layout
        if not self.layout.spread:
            return x
        sixteens = x.reshape(*x.shape[:-1], -1, 16)
        return mx.concatenate([sixteens, mx.zeros_like(sixteens)], axis=-1).reshape(*x.shape[:-1], -1)


def _no_number(tensor: QuantTensor, parts: Sequence[int] | None) -> bool:
    """MXFP4 whose scale is 255 is NaN, and MLX reads it otherwise: such a tensor becomes float32."""
    if tensor.quant is not Quant.MXFP4:
        return False
    wholes = [tensor] if parts is None else [tensor.part(i) for i in parts]
    return any(bool((w.data.reshape(-1, Quant.MXFP4.block_bytes)[:, 0] == 255).any()) for w in wholes)


def _settings(layout: Layout) -> dict[str, Any]:
    return {"group_size": layout.group_size, "bits": layout.bits, "mode": layout.mode}


def _pieces(tensor: QuantTensor, parts: Sequence[int] | None) -> Iterator[QuantTensor]:
    """Runs of rows, as matrices."""
    cols = tensor.dims[-1]
    step = max(1, _PIECE // cols)
    wholes = [tensor] if parts is None else [tensor.part(i) for i in parts]
    for whole in wholes:
        rows = prod(whole.dims[:-1])
        matrix = QuantTensor(whole.name, (rows, cols), whole.quant, whole.data)
        for start in range(0, rows, step):
            yield matrix.rows(start, min(start + step, rows))
