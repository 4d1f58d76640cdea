"""Decode stored blocks to float32, bit for bit as the GGUF reference does. Slow and obvious: the truth for tests.

The order of the float32 operations is part of the contract: the `gguf` package's `dequantize` is the reference, NaN,
infinities and signed zeros included (`tests/unit/test_decode.py`). One exception: an MXFP4 block whose scale is 255
decodes to NaN, as the OCP specification says, where ggml takes it for 2^128. Layouts are in `blocks`. The IQ formats
have a file of their own, `decode_iq`, which this one reads when it is first asked for one of them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.formats import blocks
from motley.shape.quant import Quant

_CHUNK_ELEMENTS = 1 << 20  # decoded at a time, so that temporaries stay small beside the result

Records = NDArray[np.void]
Floats = NDArray[np.float32]


def decode(data: NDArray[np.uint8], quant: Quant) -> Floats:
    """Stored bytes [n_bytes] -> values [n_elements]; F32 is a view, everything else a new array."""
    flat = blocks.flat_bytes(data, quant)
    if quant is Quant.F32:
        return flat.view("<f4")
    if quant is Quant.F16:
        return flat.view("<f2").astype(np.float32)
    if quant is Quant.BF16:
        return _bf16(flat)
    return _decode_records(flat.view(blocks.LAYOUT[quant]), quant)


def _bf16(flat: NDArray[np.uint8]) -> Floats:
    """A bfloat16 is the upper half of a float32."""
    return (flat.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _decode_records(records: Records, quant: Quant) -> Floats:
    out = np.empty((len(records), quant.block), np.float32)
    step = _CHUNK_ELEMENTS // quant.block
    decoder = _decoder(quant)
    with np.errstate(all="ignore"):  # inf * 0 is NaN here as in the reference
        for start in range(0, len(records), step):
            out[start : start + step] = decoder(records[start : start + step])
    return out.reshape(-1)


def _decoder(quant: Quant) -> Callable[[Records], Any]:
    """Records [n] -> values [n, block]."""
    if own := _DECODERS.get(quant):
        return own
    from motley.formats.decode_iq import DECODERS  # with its grids: few models need them

    return DECODERS[quant]


def _scale(records: Records, field: str = "d") -> Floats:
    """Half-precision field [n] -> float32 [n, 1]."""
    return records[field].astype(np.float32)[:, None]


def _nibbles(qs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[..., bytes] -> [..., 2, bytes]: the low nibbles, then the high ones."""
    return np.stack([qs & 0x0F, qs >> 4], axis=-2)


def _q4_0(records: Records) -> Any:
    q = _nibbles(records["qs"]).reshape(-1, 32).astype(np.float32) - 8
    return _scale(records) * q


def _q8_0(records: Records) -> Any:
    return records["qs"].astype(np.float32) * _scale(records)


def _q4_1(records: Records) -> Any:
    return _scale(records) * _nibbles(records["qs"]).reshape(-1, 32).astype(np.float32) + _scale(records, "m")


def _with_fifth_bits(records: Records) -> NDArray[Any]:
    """Q5_0 and Q5_1: q [n, 32]."""
    fifth = np.unpackbits(records["qh"], axis=1, bitorder="little")
    return _nibbles(records["qs"]).reshape(-1, 32) | fifth << 4


def _q5_0(records: Records) -> Any:
    return _scale(records) * (_with_fifth_bits(records).astype(np.float32) - 16)


def _q5_1(records: Records) -> Any:
    return _scale(records) * _with_fifth_bits(records).astype(np.float32) + _scale(records, "m")


def _pairs_of_bits(qs: NDArray[np.uint8]) -> NDArray[Any]:
    """Q2_K and Q3_K: [n, 2, 32] -> [n, 16, 16], in the elements' order."""
    return (qs[:, :, None, :] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(-1, 16, 16)


def _q2_k(records: Records) -> Any:
    d = _scale(records) * (records["scales"] & 0x0F).astype(np.float32)
    dm = _scale(records, "dmin") * (records["scales"] >> 4).astype(np.float32)
    q = _pairs_of_bits(records["qs"]).astype(np.float32)
    return (d[:, :, None] * q - dm[:, :, None]).reshape(-1, 256)


def _q3_k(records: Records) -> Any:
    high = records["hmask"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    q = (_pairs_of_bits(records["qs"]) | high.reshape(-1, 16, 16) << 2).astype(np.float32) - 4
    d = _scale(records) * blocks.unpack_signed_scales(records["scales"]).astype(np.float32)
    return (d[:, :, None] * q).reshape(-1, 256)


def _scaled_sub_blocks(records: Records, q: NDArray[Any]) -> Any:
    """Q4_K and Q5_K: q [n, 8, 32] -> values [n, 256]."""
    scales, mins = blocks.unpack_scales(records["scales"])
    d = _scale(records) * scales.astype(np.float32)
    dm = _scale(records, "dmin") * mins.astype(np.float32)
    return (d[:, :, None] * q.astype(np.float32) - dm[:, :, None]).reshape(-1, 256)


def _q4_k(records: Records) -> Any:
    return _scaled_sub_blocks(records, _nibbles(records["qs"]).reshape(-1, 8, 32))


def _q5_k(records: Records) -> Any:
    low = _nibbles(records["qs"]).reshape(-1, 8, 32)
    fifth = records["qh"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return _scaled_sub_blocks(records, low | fifth << 4)


def _q6_k(records: Records) -> Any:
    low = _nibbles(records["ql"]).reshape(-1, 2, 4, 32)
    high = records["qh"][:, :, None, :] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    q = (low | high << 4).reshape(-1, 16, 16).astype(np.float32) - 32
    d = _scale(records) * records["scales"].astype(np.float32)
    return (d[:, :, None] * q).reshape(-1, 256)


def _mxfp4(records: Records) -> Any:
    q = blocks.MXFP4_VALUES[_nibbles(records["qs"]).reshape(-1, 32)].astype(np.float32)
    half_scale = np.ldexp(np.float32(1), records["e"].astype(np.int32) - 128)  # 2^-128 ... 2^126: exact
    half_scale[records["e"] == 255] = np.nan
    return half_scale[:, None] * q


def _nvfp4(records: Records) -> Any:
    q = blocks.MXFP4_VALUES[_nibbles(records["qs"]).reshape(-1, 4, 16)].astype(np.float32)
    return (e4m3_halves()[records["scales"]][..., None] * q).reshape(-1, 64)


def e4m3_halves() -> Floats:
    """Half of what each byte means as a scale of NVFP4: E4M3 (bias 7, subnormals), whose sign bit counts for nothing.
    0x7F, the standard's NaN, is 0, as in ggml."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    halves = np.where(exponent == 0, np.ldexp(mantissa, -10), np.ldexp(mantissa + 8.0, exponent - 11))
    halves[0x7F] = 0
    floats: Floats = halves.astype(np.float32)
    return floats


_DECODERS: dict[Quant, Callable[[Records], Any]] = {
    Quant.Q4_0: _q4_0,
    Quant.Q4_1: _q4_1,
    Quant.Q5_0: _q5_0,
    Quant.Q5_1: _q5_1,
    Quant.Q8_0: _q8_0,
    Quant.Q2_K: _q2_k,
    Quant.Q3_K: _q3_k,
    Quant.Q4_K: _q4_k,
    Quant.Q5_K: _q5_k,
    Quant.Q6_K: _q6_k,
    Quant.MXFP4: _mxfp4,
    Quant.NVFP4: _nvfp4,
}
