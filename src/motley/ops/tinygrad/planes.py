"""Stored blocks on the device, and their values in plain tensor expressions.

The bytes are those of the file, bit for bit, but taken apart: each field of the blocks is a *plane*, an array of its
own, [..., blocks, field]. A GPU then reads whole aligned words, where a block of 34 or 210 bytes has none. What has no
planes here is decoded on the host, and stored as half precision where that loses nothing, else as float32.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, dtypes

from motley.formats import blocks
from motley.formats.tensor import QuantTensor
from motley.shape.quant import Quant

Planes = dict[str, NDArray[Any]]
Kept = dict[str, Tensor]


class Layout:
    """`fields`: of a block, by name, with how each is viewed and how many there are. `values`: the planes [..., B, n]
    -> float32 [..., B, block]."""

    def __init__(self, fields: Mapping[str, tuple[Any, int]], values: Callable[[Kept], Tensor]) -> None:
        self.fields, self.values = fields, values


def planes_of(tensor: QuantTensor) -> tuple[Quant, Planes]:
    """How the tensor is kept, and its arrays [*dims but the last, blocks, field], or [*dims] of floats."""
    quant, dims = tensor.quant, tensor.dims
    if quant is Quant.BF16:
        return quant, {"values": blocks.flat_bytes(tensor.data, quant).view("<u2").reshape(dims)}
    if quant in (Quant.F32, Quant.F16):
        kind = np.float32 if quant is Quant.F32 else np.float16
        return quant, {"values": blocks.flat_bytes(tensor.data, quant).view(kind).reshape(dims)}
    if quant not in LAYOUTS:
        return decoded(tensor.decode())
    records = blocks.flat_bytes(tensor.data, quant).view(blocks.LAYOUT[quant])
    leading = (*dims[:-1], dims[-1] // quant.block)
    return quant, {
        name: np.ascontiguousarray(records[name]).view(kind).reshape(*leading, n)
        for name, (kind, n) in LAYOUTS[quant].fields.items()
    }


def decoded(values: NDArray[np.float32]) -> tuple[Quant, Planes]:
    half = values.astype(np.float16)
    if (half.astype(np.float32) == values).all():
        return Quant.F16, {"values": half}
    return Quant.F32, {"values": values}


def values_of(quant: Quant, kept: Kept) -> Tensor:
    """The planes [..., blocks, field] -> float32 [..., cols]."""
    if quant is Quant.BF16:
        return kept["values"].cast(dtypes.uint32).mul(65536).bitcast(dtypes.float32)
    if quant in (Quant.F32, Quant.F16):
        return kept["values"].cast(dtypes.float32)
    leading = next(iter(kept.values())).shape[:-2]
    values = LAYOUTS[quant].values(kept)
    return values.reshape(*leading, prod(values.shape) // prod(leading))


def _nibbles(qs: Tensor) -> Tensor:
    """[..., n] -> [..., 2, n]: the low ones, then the high ones."""
    return (qs & 15).stack(qs.rshift(4), dim=-2)


def _bits(x: Tensor, each: int, n: int) -> Tensor:
    """[..., m] -> [..., n, m]: `each` bits at a time, the lowest first."""
    return Tensor.stack(*[x.rshift(each * i) & ((1 << each) - 1) for i in range(n)], dim=-2)


def _float(x: Tensor) -> Tensor:
    return x.cast(dtypes.float32)


def _flat(x: Tensor, last: int) -> Tensor:
    """The dimensions behind the blocks as [..., n, last]; `last` divides them."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1] // last, last)


def _q4_0(p: Kept) -> Tensor:
    q = _flat(_nibbles(p["qs"]), 32).squeeze(-2)
    return _float(p["d"]) * (_float(q) - 8)


def _q8_0(p: Kept) -> Tensor:
    return _float(p["qs"]) * _float(p["d"])


def _sub_blocks(p: Kept, q: Tensor) -> Tensor:
    """Q4_K and Q5_K: q [..., 8, 32], scales and mins as `blocks.unpack_scales` has them."""
    s = p["scales"]
    low_scales, low_mins, high = s[..., 0:4], s[..., 4:8], s[..., 8:12]
    scales = (low_scales & 63).cat((high & 15) | low_scales.rshift(6).lshift(4), dim=-1)
    mins = (low_mins & 63).cat(high.rshift(4) | low_mins.rshift(6).lshift(4), dim=-1)
    d = (_float(p["d"]) * _float(scales)).unsqueeze(-1)
    dm = (_float(p["dmin"]) * _float(mins)).unsqueeze(-1)
    return d * _float(q) - dm


def _q4_k(p: Kept) -> Tensor:
    qs = p["qs"].reshape(*p["qs"].shape[:-1], 4, 32)
    nibbles = _nibbles(qs)  # [..., 4, 2, 32]
    return _sub_blocks(p, nibbles.reshape(*qs.shape[:-2], 8, 32))


def _q5_k(p: Kept) -> Tensor:
    qs = p["qs"].reshape(*p["qs"].shape[:-1], 4, 32)
    low = _nibbles(qs).reshape(*qs.shape[:-2], 8, 32)
    return _sub_blocks(p, low | _bits(p["qh"], 1, 8).lshift(4))


def _q6_k(p: Kept) -> Tensor:
    lead = p["ql"].shape[:-1]
    low = _nibbles(p["ql"].reshape(*lead, 2, 64)).reshape(*lead, 2, 4, 32)
    high = _bits(p["qh"].reshape(*lead, 2, 32), 2, 4)  # [..., 2, 4, 32]
    q = _float((low | high.lshift(4)).reshape(*lead, 16, 16)) - 32
    d = (_float(p["d"]) * _float(p["scales"])).unsqueeze(-1)
    return d * q


def _mxfp4(p: Kept) -> Tensor:
    q = _flat(_nibbles(p["qs"]), 32).squeeze(-2).cast(dtypes.int32)
    m = q & 7  # 0, 1, 2, 3, 4, 6, 8, 12: halves of E2M1's
    doubled = (m < 4).where(m, ((m & 1) + 2).lshift(((m.rshift(1)) - 1).maximum(0)))
    value = (q < 8).where(doubled, -doubled)
    e = p["e"].cast(dtypes.uint32)
    # half of 2^(e - 127), the two smallest being subnormal
    bits = (e < 2).where((e + 1).mul(0x00200000), (e.maximum(1) - 1).mul(0x00800000))
    bits = (e == 255).where(0x7FC00000, bits).cast(dtypes.uint32)
    return bits.bitcast(dtypes.float32) * _float(value)


_HALF = (np.float16, 1)
LAYOUTS: dict[Quant, Layout] = {
    Quant.Q8_0: Layout({"qs": (np.int8, 32), "d": _HALF}, _q8_0),
    Quant.Q4_0: Layout({"qs": (np.uint8, 16), "d": _HALF}, _q4_0),
    Quant.Q4_K: Layout({"qs": (np.uint8, 128), "scales": (np.uint8, 12), "d": _HALF, "dmin": _HALF}, _q4_k),
    Quant.Q5_K: Layout(
        {"qs": (np.uint8, 128), "qh": (np.uint8, 32), "scales": (np.uint8, 12), "d": _HALF, "dmin": _HALF}, _q5_k
    ),
    Quant.Q6_K: Layout({"ql": (np.uint8, 128), "qh": (np.uint8, 64), "scales": (np.int8, 16), "d": _HALF}, _q6_k),
    Quant.MXFP4: Layout({"qs": (np.uint8, 16), "e": (np.uint8, 1)}, _mxfp4),
}
