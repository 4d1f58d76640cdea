"""How GGUF's blocks become MLX's: codes of a few bits in groups that share a scale and a bias, value = scale * code +
bias; or fours of E2M1 with MLX's own scales (`mxfp4`, `nvfp4`). The device itself turns the one into the other.

Nothing is rounded: scales and biases are float32, and `mx.dequantize` gives the reference decoder's values
(tests/parity/test_mlx_layouts.py). A format whose scales belong to 16 weights gets groups of 32 whose second half is
empty, as MLX multiplies no smaller groups; its activations are spread out likewise. Formats that are not here stay
float32.

Source: the quantisation modes in the documentation of `mx.quantize`; `formats.blocks` for GGUF's side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from motley.formats import blocks
from motley.formats.tensor import QuantTensor
from motley.shape.quant import Quant

Array = Any  # mx.array

GROUP = 32  # weights that share a scale in MLX
_TYPES = {"<f2": mx.float16, "<u2": mx.uint16, "|u1": mx.uint8, "|i1": mx.int8}


class Records:
    """Stored blocks on the device; `records["d"]` is that field of all of them [n, ...]."""

    def __init__(self, tensor: QuantTensor) -> None:
        data = np.ascontiguousarray(tensor.data).reshape(-1, tensor.quant.block_bytes)
        self._fields: Any = blocks.LAYOUT[tensor.quant].fields
        self._bytes = mx.array(data)

    def __getitem__(self, name: str) -> Array:
        kind, offset, *_ = self._fields[name]
        part = mx.contiguous(self._bytes[:, offset : offset + kind.itemsize])
        return part.view(_TYPES[kind.base.str]).reshape(-1, *(kind.shape or (1,)))

    def floats(self, name: str = "d") -> Array:
        return self[name].astype(mx.float32)


Unpacked = tuple[Array, Array, Array | None]  # codes uint8 [n, block], scales and biases [n, block / sub_block]


@dataclass(frozen=True)
class Layout:
    """mode, bits: MLX's. sub_block: weights of one scale; where MLX has no such small groups, each is filled up with
    zeros."""

    mode: str
    bits: int
    sub_block: int
    unpack: Callable[[Records], Unpacked]

    @property
    def spread(self) -> bool:
        """Whether each run of 16 weights takes a group of 32."""
        return self.mode == "affine" and self.sub_block < GROUP

    @property
    def group_size(self) -> int:
        return GROUP if self.mode == "affine" else self.sub_block

    def bytes_of(self, n_weights: int) -> int:
        """On the device."""
        codes = n_weights * self.bits // 8 * (2 if self.spread else 1)
        return codes + n_weights // self.sub_block * (8 if self.mode == "affine" else 1)


def pack(tensor: QuantTensor) -> list[Array]:
    """A matrix [rows, cols] as MLX wants it: words uint32 [rows, cols * bits / 32], scales, and biases where the mode
    has them, [rows, groups]. KeyError for a format without a layout."""
    layout, rows = LAYOUTS[tensor.quant], tensor.dims[0]
    codes, scales, biases = layout.unpack(Records(tensor))
    if layout.spread:
        codes = codes.reshape(-1, layout.sub_block)
        codes = mx.concatenate([codes, mx.zeros_like(codes)], axis=-1)
    words = _words(codes.reshape(rows, -1), layout.bits)
    return [words, *(a.reshape(rows, -1) for a in (scales, biases) if a is not None)]


def _words(codes: Array, bits: int) -> Array:
    """[rows, cols] -> [rows, cols * bits / 32]: one stream of bits, the lowest first."""
    rows = len(codes)
    if bits in (2, 4, 8):
        while bits < 8:
            codes, bits = codes[:, 0::2] | codes[:, 1::2] << bits, 2 * bits
        return mx.contiguous(codes).view(mx.uint32)
    eights = codes.reshape(-1, 8).astype(mx.uint64)  # eight codes fill `bits` bytes
    stream = eights[:, :1]
    for i in range(1, 8):
        stream = stream | eights[:, i : i + 1] << i * bits
    return mx.contiguous(stream.view(mx.uint8)[:, :bits]).reshape(rows, -1).view(mx.uint32)


def _nibbles(qs: Array) -> Array:
    """[n, ..., bytes] -> [n, 2 * all of them]: of each run of bytes the low nibbles, then the high ones."""
    return mx.concatenate([qs & 0x0F, qs >> 4], axis=-1).reshape(len(qs), -1)


def _bits(x: Array, step: int, count: int) -> Array:
    """[n, ..., bytes] -> [n, ..., count, bytes]: shifted by 0, step, ... and cut to `step` bits."""
    shifts = mx.arange(0, step * count, step, dtype=x.dtype)[:, None]
    return x[..., None, :] >> shifts & ((1 << step) - 1)


def _fifth(r: Records) -> Array:
    """Q5_0 and Q5_1: codes [n, 32]; bit i of the 32 belongs to element i."""
    high = mx.swapaxes(_bits(r["qh"], 1, 8), -1, -2).reshape(-1, 32)
    return _nibbles(r["qs"]) | high << 4


def _twos(qs: Array) -> Array:
    """Q2_K and Q3_K: [n, 2, 32] -> [n, 256]"""
    return _bits(qs, 2, 4).reshape(len(qs), -1)


def _q2_k(r: Records) -> Unpacked:
    scales, mins = ((s).astype(mx.float32) for s in (r["scales"] & 0x0F, r["scales"] >> 4))
    return _twos(r["qs"]), r.floats() * scales, -(r.floats("dmin") * mins)


def _q3_k(r: Records) -> Unpacked:
    high = _bits(r["hmask"], 1, 8).reshape(-1, 256)
    packed = r["scales"]  # see blocks.unpack_signed_scales
    low = mx.concatenate([packed[:, :8] & 0x0F, packed[:, :8] >> 4], axis=1)
    top = _bits(packed[:, 8:], 2, 4).reshape(-1, 16)
    scales = r.floats() * ((low | top << 4).astype(mx.float32) - 32)
    return _twos(r["qs"]) | high << 2, scales, -4 * scales


def _k_scales(r: Records) -> tuple[Array, Array]:
    """Of Q4_K and Q5_K: see blocks.unpack_scales."""
    packed = r["scales"]
    low_scales, low_mins, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = mx.concatenate([low_scales & 0x3F, (high & 0x0F) | (low_scales >> 6 << 4)], axis=1)
    mins = mx.concatenate([low_mins & 0x3F, (high >> 4) | (low_mins >> 6 << 4)], axis=1)
    return r.floats() * scales.astype(mx.float32), -(r.floats("dmin") * mins.astype(mx.float32))


def _q4_k(r: Records) -> Unpacked:
    return (_nibbles(r["qs"]), *_k_scales(r))


def _q5_k(r: Records) -> Unpacked:
    return (_nibbles(r["qs"]) | _bits(r["qh"], 1, 8).reshape(-1, 256) << 4, *_k_scales(r))


def _q6_k(r: Records) -> Unpacked:
    scales = r.floats() * r["scales"].astype(mx.float32)
    return _nibbles(r["ql"]) | _twos(r["qh"]) << 4, scales, -32 * scales


def _iq4(codes: Array, scales: Array) -> Unpacked:
    values = mx.array((blocks.IQ4_VALUES.astype(np.int16) + 128).astype(np.uint8))
    return values[codes], scales, -128 * scales


def _iq4_xs(r: Records) -> Unpacked:
    high = _bits(r["scales_h"], 2, 8).reshape(-1, 8).astype(mx.uint8)
    low = mx.stack([r["scales_l"] & 0x0F, r["scales_l"] >> 4], axis=-1).reshape(-1, 8)
    return _iq4(_nibbles(r["qs"]), r.floats() * ((low | high << 4).astype(mx.float32) - 32))


def _nvfp4(r: Records) -> Unpacked:
    """A scale's sign counts for nothing, and 0x7F is 0 (`decode.e4m3_halves`)."""
    scales = r["scales"] & 0x7F
    return _nibbles(r["qs"]), mx.where(scales == 0x7F, mx.zeros_like(scales), scales), None


LAYOUTS: dict[Quant, Layout] = {
    Quant.Q4_0: Layout("affine", 4, 32, lambda r: (_nibbles(r["qs"]), r.floats(), -8 * r.floats())),
    Quant.Q4_1: Layout("affine", 4, 32, lambda r: (_nibbles(r["qs"]), r.floats(), r.floats("m"))),
    Quant.Q5_0: Layout("affine", 5, 32, lambda r: (_fifth(r), r.floats(), -16 * r.floats())),
    Quant.Q5_1: Layout("affine", 5, 32, lambda r: (_fifth(r), r.floats(), r.floats("m"))),
    Quant.Q8_0: Layout("affine", 8, 32, lambda r: (r["qs"].view(mx.uint8) ^ 0x80, r.floats(), -128 * r.floats())),
    Quant.Q2_K: Layout("affine", 2, 16, _q2_k),
    Quant.Q3_K: Layout("affine", 3, 16, _q3_k),
    Quant.Q4_K: Layout("affine", 4, 32, _q4_k),
    Quant.Q5_K: Layout("affine", 5, 32, _q5_k),
    Quant.Q6_K: Layout("affine", 6, 16, _q6_k),
    Quant.IQ4_NL: Layout("affine", 8, 32, lambda r: _iq4(_nibbles(r["qs"]), r.floats())),
    Quant.IQ4_XS: Layout("affine", 8, 32, _iq4_xs),
    Quant.MXFP4: Layout("mxfp4", 4, 32, lambda r: (_nibbles(r["qs"]), r["e"], None)),
    Quant.NVFP4: Layout("nvfp4", 4, 16, _nvfp4),
}


def device_bytes(quant: Quant, n_weights: int) -> int:
    """What so many weights take on the device."""
    return LAYOUTS[quant].bytes_of(n_weights) if quant in LAYOUTS else 4 * n_weights
