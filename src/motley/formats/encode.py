"""Quantise float32 values to stored blocks, in numpy.

F16 and BF16 round to nearest even. Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 equal the `gguf` package's quantiser bit for bit.
For K-quants and IQ4, which it does not write, each sub-block's scale (and minimum) is the best of a few candidates
refitted by least squares, an idea known from ggml's quantiser; the code and the candidates are ours, and no importance
is weighed. MXFP4 takes, of ggml's exponent and its two neighbours, the one with the least squared error per block, so
it is never worse than the `gguf` package's and equal to it where the exponents agree. NVFP4 and the IQ1, IQ2 and IQ3
kinds, which want a search in their grids, are refused. `decode` is the inverse, layouts in `blocks`.
About 10 M values/s for K-quants: for models of millions of parameters, not a converter of large ones.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError, UnsupportedError
from motley.formats import blocks
from motley.shape.quant import Quant

_CHUNK_ELEMENTS = 1 << 20
_HALF_MAX = float(np.finfo(np.float16).max)

Floats = NDArray[Any]  # float32 throughout; numpy's stubs cannot follow it
Bytes = NDArray[Any]


def encode(values: NDArray[Any], quant: Quant) -> Bytes:
    """Values [..., cols], cols whole blocks -> stored bytes [n_bytes].

    FormatError if a value (or a block's scale) overflows half precision, or if a quantised block is not finite;
    UnsupportedError for a precision that is not in `ENCODABLE`.
    """
    if quant not in ENCODABLE:
        known = ", ".join(q.name for q in Quant if q in ENCODABLE)
        raise UnsupportedError(f"Motley reads {quant.name} but cannot quantise to it: choose one of {known}")
    values = np.ascontiguousarray(values, dtype=np.float32)
    if values.ndim == 0 or values.shape[-1] % quant.block:
        raise FormatError(f"rows of shape {values.shape} do not fill {quant.name} blocks of {quant.block}; use F16")
    flat = values.reshape(-1)
    if quant is Quant.F32:
        return flat.view(np.uint8).copy()
    if quant is Quant.F16:
        return _halves(flat, quant, np.isfinite(flat)).view(np.uint8)
    if quant is Quant.BF16:
        return _bf16(flat)
    return _encode_records(flat.reshape(-1, quant.block), quant)


def _encode_records(rows: Floats, quant: Quant) -> Bytes:
    if not np.isfinite(rows).all():
        raise FormatError(f"{quant.name} cannot hold NaN or infinity; use F16, BF16 or F32")
    out = np.zeros(len(rows), blocks.LAYOUT[quant])
    step = _CHUNK_ELEMENTS // quant.block
    for start in range(0, len(rows), step):
        _ENCODERS[quant](rows[start : start + step], out[start : start + step])
    return out.view(np.uint8).reshape(-1)


def _halves(values: Floats, quant: Quant, must_fit: Any = True) -> NDArray[np.float16]:
    """Rounded to half precision; a finite value must not become infinite."""
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if np.any(np.isinf(halves) & must_fit):
        raise FormatError(
            f"values up to {np.abs(values).max():.3g} overflow {quant.name}'s half precision "
            f"(at most {_HALF_MAX:.0f}); use BF16 or F32"
        )
    return halves


def _bf16(flat: Floats) -> Bytes:
    """The upper 16 bits, rounded to nearest even; a NaN stays one, made quiet."""
    bits = flat.view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16
    quiet = bits >> 16 | 0x40
    return np.where(np.isnan(flat), quiet, rounded).astype(np.uint16).view(np.uint8)


def _inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 where that is not finite (a zero or vanishing block)."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse: Floats = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def _pack_nibbles(q: Bytes) -> Bytes:
    """[..., 2, bytes], each under 16 -> [..., bytes]: the first in the low nibbles."""
    packed: Bytes = q[..., 0, :] | q[..., 1, :] << 4
    return packed


def _q8_0(rows: Floats, out: Any) -> None:
    d = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    scaled = rows * _inverse(d)
    size = np.abs(scaled)
    whole = np.floor(size)
    out["qs"] = np.copysign(whole + (size - whole >= 0.5), scaled)  # halves away from zero, as ggml rounds here
    out["d"] = _halves(d[:, 0], Quant.Q8_0)


def _q4_0(rows: Floats, out: Any) -> None:
    d = _extreme(rows) / np.float32(-8)  # the largest becomes -8: the range is -8 ... 7
    q = np.trunc(rows * _inverse(d) + np.float32(8.5)).clip(0, 15).astype(np.uint8)
    out["qs"] = _pack_nibbles(q.reshape(-1, 2, 16))
    out["d"] = _halves(d[:, 0], Quant.Q4_0)


def _q4_1(rows: Floats, out: Any) -> None:
    out["qs"] = _pack_nibbles(_between_ends(rows, out, Quant.Q4_1, 15).reshape(-1, 2, 16))


def _q5_0(rows: Floats, out: Any) -> None:
    d = _extreme(rows) / np.float32(-16)
    _put_five_bits(np.trunc(rows * _inverse(d) + np.float32(16.5)).clip(0, 31).astype(np.uint8), out)
    out["d"] = _halves(d[:, 0], Quant.Q5_0)


def _q5_1(rows: Floats, out: Any) -> None:
    _put_five_bits(_between_ends(rows, out, Quant.Q5_1, 31), out)


def _between_ends(rows: Floats, out: Any, quant: Quant, top: int) -> Bytes:
    """Smallest and step into `out`; levels [n, 32]: the smallest becomes 0, the largest `top`."""
    low = rows.min(axis=1, keepdims=True)
    d = (rows.max(axis=1, keepdims=True) - low) / np.float32(top)
    out["d"], out["m"] = _halves(d[:, 0], quant), _halves(low[:, 0], quant)
    q: Bytes = np.trunc((rows - low) * _inverse(d) + np.float32(0.5)).clip(0, top).astype(np.uint8)
    return q


def _put_five_bits(q: Bytes, out: Any) -> None:
    out["qs"] = _pack_nibbles((q & 0x0F).reshape(-1, 2, 16))
    out["qh"] = np.packbits(q >> 4, axis=1, bitorder="little")


def _extreme(rows: Floats) -> Floats:
    """The value of largest magnitude along the last axis, with its sign, kept as an axis of 1."""
    at = np.abs(rows).argmax(axis=-1)[..., None]
    return np.take_along_axis(rows, at, axis=-1)


# --- Q2_K, Q4_K and Q5_K: value = scale * q - minimum, minimum >= 0


def _fit_scale_and_min(x: Floats, top: int) -> tuple[Floats, Floats]:
    """Sub-blocks [n, s, 16 or 32] -> (scale, minimum) [n, s, 1] with little squared error for q in 0 ... top."""
    low = np.minimum(x.min(axis=-1, keepdims=True), 0)
    span = x.max(axis=-1, keepdims=True) - low
    best_scale: Floats = span / top
    best_min: Floats = -low
    best_error = _error(x, _levels(x, best_scale, best_min, top), best_scale, best_min)
    for levels in np.linspace(top - 1.5, top + 0.9, 9, dtype=np.float32):
        q = _levels(x, span / levels, -low, top)
        scale, minimum = _least_squares(x, q)
        q = _levels(x, scale, minimum, top)
        error = _error(x, q, scale, minimum)
        better = error < best_error
        best_scale, best_min, best_error = (
            np.where(better, new, old) for new, old in ((scale, best_scale), (minimum, best_min), (error, best_error))
        )
    return best_scale, best_min


def _levels(x: Floats, scale: Floats, minimum: Floats, top: int) -> Floats:
    levels: Floats = np.rint((x + minimum) * _inverse(scale))
    return levels.clip(0, top)


def _error(x: Floats, q: Floats, scale: Floats, minimum: Floats | float = 0.0) -> Floats:
    off: Floats = scale * q - minimum - x
    squared: Floats = np.einsum("nsi,nsi->ns", off, off)
    return squared[..., None]


def _least_squares(x: Floats, q: Floats) -> tuple[Floats, Floats]:
    """The (scale, minimum) that fit x = scale * q - minimum best; the minimum kept at or above 0."""
    count = x.shape[-1]
    sum_q, sum_x = q.sum(-1, keepdims=True), x.sum(-1, keepdims=True)
    sum_qq, sum_qx = (q * q).sum(-1, keepdims=True), (q * x).sum(-1, keepdims=True)
    scale = (count * sum_qx - sum_q * sum_x) * _inverse(count * sum_qq - sum_q * sum_q)
    minimum = (scale * sum_q - sum_x) / count
    through_zero = sum_qx * _inverse(sum_qq)
    scale = np.where(minimum < 0, through_zero, scale)
    return np.maximum(scale, 0), np.maximum(minimum, 0)


def _multiples(values: Floats, quant: Quant, most: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Scales or minima [n, s] -> (half-precision step [n], multiples of it [n, s], `most` at most)."""
    step = _halves(values.max(axis=1) / np.float32(most), quant)
    multiples = np.rint(values * _inverse(step.astype(np.float32))[:, None]).clip(0, most)
    return step, multiples.astype(np.uint8)


def _with_mins(x: Floats, out: Any, quant: Quant, top: int, most: int) -> tuple[Bytes, Bytes, Bytes]:
    """Sub-blocks [n, s, 16 or 32] -> multiples of scale and minimum [n, s], `most` at most, whose steps go into `out`;
    the levels [n, s, 16 or 32] that fit what is stored."""
    scale, minimum = _fit_scale_and_min(x, top)
    out["d"], scales = _multiples(scale[..., 0], quant, most)
    out["dmin"], mins = _multiples(minimum[..., 0], quant, most)
    stored_scale = out["d"].astype(np.float32)[:, None] * scales
    stored_min = out["dmin"].astype(np.float32)[:, None] * mins
    q = _levels(x, stored_scale[..., None], stored_min[..., None], top).astype(np.uint8)
    return scales, mins, q


def _put_pairs_of_bits(q: Bytes, out: Any) -> None:
    """[n, 16, 16], each under 4."""
    pairs = q.reshape(-1, 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    out["qs"] = np.bitwise_or.reduce(pairs, axis=2)


def _q2_k(rows: Floats, out: Any) -> None:
    scales, mins, q = _with_mins(rows.reshape(-1, 16, 16), out, Quant.Q2_K, 3, 15)
    out["scales"] = scales | mins << 4
    _put_pairs_of_bits(q, out)


def _q4_k(rows: Floats, out: Any) -> None:
    scales, mins, q = _with_mins(rows.reshape(-1, 8, 32), out, Quant.Q4_K, 15, 63)
    out["scales"] = blocks.pack_scales(scales, mins)
    out["qs"] = _pack_nibbles(q.reshape(-1, 4, 2, 32))


def _q5_k(rows: Floats, out: Any) -> None:
    scales, mins, q = _with_mins(rows.reshape(-1, 8, 32), out, Quant.Q5_K, 31, 63)
    out["scales"] = blocks.pack_scales(scales, mins)
    out["qs"] = _pack_nibbles((q & 0x0F).reshape(-1, 4, 2, 32))
    fifth = q >> 4 << np.arange(8, dtype=np.uint8)[:, None]
    out["qh"] = np.bitwise_or.reduce(fifth, axis=1)


# --- Q3_K, Q6_K, IQ4_NL and IQ4_XS: value = scale * level, scales of either sign

Levels = Callable[[Floats, Floats], Floats]  # (x, scale) -> the nearest level to each x / scale


def _fit_scale(x: Floats, levels: Levels, ends: Floats) -> Floats:
    """Sub-blocks [n, s, 16 or 32] -> scale [n, s, 1] with little squared error. `ends`: which levels the value of
    largest magnitude is tried as; the first as it is, the others refitted."""
    extreme = _extreme(x)
    best: Floats = extreme / ends[0]
    best_error = _error(x, levels(x, best), best)
    for end in ends[1:]:
        q = levels(x, extreme / end)
        scale = (q * x).sum(-1, keepdims=True) * _inverse((q * q).sum(-1, keepdims=True))
        error = _error(x, levels(x, scale), scale)
        better = error < best_error
        best, best_error = np.where(better, scale, best), np.where(better, error, best_error)
    return best


def _signed_multiples(scale: Floats, quant: Quant, most: int) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
    """Scales [n, s] -> (half-precision step [n], multiples of it [n, s]); the largest becomes -most."""
    step = _halves(_extreme(scale)[:, 0] / np.float32(-most), quant)
    multiples = np.rint(scale * _inverse(step.astype(np.float32))[:, None]).clip(-most, most - 1)
    return step, multiples.astype(np.int8)


def _eight_levels(x: Floats, scale: Floats) -> Floats:
    levels: Floats = np.rint(x * _inverse(scale))
    return levels.clip(-4, 3)


_EIGHT_ENDS = np.array([-4, *np.linspace(-4.8, -2.8, 9)], np.float32)


def _q3_k(rows: Floats, out: Any) -> None:
    x = rows.reshape(-1, 16, 16)
    out["d"], scales = _signed_multiples(_fit_scale(x, _eight_levels, _EIGHT_ENDS)[..., 0], Quant.Q3_K, 32)
    out["scales"] = blocks.pack_signed_scales(scales)
    stored = out["d"].astype(np.float32)[:, None] * scales
    q = (_eight_levels(x, stored[..., None]) + 4).astype(np.uint8)
    _put_pairs_of_bits(q & 3, out)
    high = (q >> 2).reshape(-1, 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
    out["hmask"] = np.bitwise_or.reduce(high, axis=1)


def _six_bit_levels(x: Floats, scale: Floats) -> Floats:
    levels: Floats = np.rint(x * _inverse(scale))
    return levels.clip(-32, 31)


_SIX_BIT_ENDS = np.array([-32, *np.linspace(-33, -29.5, 8)], np.float32)


def _q6_k(rows: Floats, out: Any) -> None:
    x = rows.reshape(-1, 16, 16)
    out["d"], out["scales"] = _signed_multiples(_fit_scale(x, _six_bit_levels, _SIX_BIT_ENDS)[..., 0], Quant.Q6_K, 128)
    stored = out["d"].astype(np.float32)[:, None] * out["scales"]
    q = (_six_bit_levels(x, stored[..., None]) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    out["ql"] = _pack_nibbles((q & 0x0F).reshape(-1, 2, 2, 64))
    top_two = q >> 4 << np.array([0, 2, 4, 6], np.uint8)[:, None]
    out["qh"] = np.bitwise_or.reduce(top_two, axis=2)


_IQ4_MIDDLES = (blocks.IQ4_VALUES[1:].astype(np.float32) + blocks.IQ4_VALUES[:-1]) / 2
_IQ4_ENDS = np.array([-127, *np.linspace(-140, -112, 9), *np.linspace(104, 122, 5)], np.float32)


def _iq4_indices(x: Floats, scale: Floats) -> Bytes:
    indices: Bytes = np.searchsorted(_IQ4_MIDDLES, x * _inverse(scale)).astype(np.uint8)
    return indices


def _iq4_levels(x: Floats, scale: Floats) -> Floats:
    levels: Floats = blocks.IQ4_VALUES[_iq4_indices(x, scale)].astype(np.float32)
    return levels


def _iq4_nl(rows: Floats, out: Any) -> None:
    x = rows[:, None]
    out["d"] = _halves(_fit_scale(x, _iq4_levels, _IQ4_ENDS)[:, 0, 0], Quant.IQ4_NL)
    q = _iq4_indices(x, out["d"].astype(np.float32)[:, None, None])
    out["qs"] = _pack_nibbles(q.reshape(-1, 2, 16))


def _iq4_xs(rows: Floats, out: Any) -> None:
    x = rows.reshape(-1, 8, 32)
    out["d"], scales = _signed_multiples(_fit_scale(x, _iq4_levels, _IQ4_ENDS)[..., 0], Quant.IQ4_XS, 32)
    six_bits = (scales + np.int8(32)).view(np.uint8)
    out["scales_l"] = six_bits[:, ::2] & 0x0F | (six_bits[:, 1::2] & 0x0F) << 4
    high = (six_bits >> 4).astype(np.uint16) << np.arange(0, 16, 2, dtype=np.uint16)
    out["scales_h"] = np.bitwise_or.reduce(high, axis=1)
    stored = out["d"].astype(np.float32)[:, None] * scales
    out["qs"] = _pack_nibbles(_iq4_indices(x, stored[..., None]).reshape(-1, 8, 2, 16))


# --- MXFP4: value = 2^(e - 127) * one of eight magnitudes, of either sign

_MXFP4_MIDDLES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)  # between neighbouring magnitudes
_MXFP4_LARGEST = 252  # exponent of the largest float32: beyond it, 6 times the scale would be infinite


def _mxfp4(rows: Floats, out: Any) -> None:
    largest = np.abs(rows).max(axis=1)
    _, power = np.frexp(largest)  # largest = [0.5, 1) * 2^power
    usual = np.where(largest == 0, 0, power + (127 - 3)).clip(0)  # ggml's: the largest becomes 4 ... 8, 6 at the most
    x = np.ldexp(rows, 127 - usual[:, None])  # under 8, so that no square overflows
    best_error = np.full(len(rows), np.inf, np.float32)
    for exponent in (usual, (usual + 1).clip(max=_MXFP4_LARGEST), (usual - 1).clip(0)):
        step = np.ldexp(np.float32(1), exponent - usual)[:, None]
        q = _mxfp4_levels(x / step)
        off = blocks.MXFP4_VALUES[q] * (step / 2) - x
        error = np.einsum("ni,ni->n", off, off)
        better = error < best_error
        best_error[better] = error[better]
        out["e"][better] = exponent[better]
        out["qs"][better] = _pack_nibbles(q[better].reshape(-1, 2, 16))


def _mxfp4_levels(x: Floats) -> Bytes:
    """The nearest of the values; halfway, the smaller one, as in ggml. Zero has no sign."""
    q = np.searchsorted(_MXFP4_MIDDLES, np.abs(x)).astype(np.uint8)
    return np.where((x < 0) & (q > 0), q | 8, q)


_ENCODERS: dict[Quant, Callable[[Floats, Any], None]] = {
    Quant.Q8_0: _q8_0,
    Quant.Q4_0: _q4_0,
    Quant.Q4_1: _q4_1,
    Quant.Q5_0: _q5_0,
    Quant.Q5_1: _q5_1,
    Quant.Q2_K: _q2_k,
    Quant.Q3_K: _q3_k,
    Quant.Q4_K: _q4_k,
    Quant.Q5_K: _q5_k,
    Quant.Q6_K: _q6_k,
    Quant.IQ4_NL: _iq4_nl,
    Quant.IQ4_XS: _iq4_xs,
    Quant.MXFP4: _mxfp4,
}
ENCODABLE = frozenset({Quant.F32, Quant.F16, Quant.BF16, *_ENCODERS})
