"""The byte layout of every quantised block, as numpy record types: the one place that knows where a field lies.

Used by `decode`, `encode` and `synth`. Source: the GGUF specification and ggml's block structs (facts, not code).
Rows of a matrix are whole blocks, so a tensor's bytes are a flat array of these records.
"""

import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError
from motley.shape.quant import Quant

# value = d * (q - 8); byte i holds q of element i (low nibble) and of element i + 16 (high nibble)
Q4_0 = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
# value = d * q + m; nibbles as in Q4_0
Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)])
# as Q4_0 and Q4_1, with each element's fifth bit in qh: bit i of its 32 belongs to element i. Q5_0: d * (q - 16)
Q5_0 = np.dtype([("d", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)])
Q5_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)])
# value = d * q
Q8_0 = np.dtype([("d", "<f2"), ("qs", "i1", 32)])
# Sixteen sub-blocks of 16: value = d * scale * q - dmin * min, a scale and a min in each byte of scales (low and high
# nibble); two halves of 128 elements, each 4 groups of 32: bits 2g of qs are group g's
Q2_K = np.dtype([("scales", "u1", 16), ("qs", "u1", (2, 32)), ("d", "<f2"), ("dmin", "<f2")])
# Sixteen sub-blocks of 16: value = d * scale * q, q from -4 to 3 (scales: see `unpack_signed_scales`). The low two bits
# are in qs as in Q2_K; bit g of hmask[i], for element i of group g of all eight, is 0 where 4 is to be taken off
Q3_K = np.dtype([("hmask", "u1", 32), ("qs", "u1", (2, 32)), ("scales", "u1", 12), ("d", "<f2")])
# Eight sub-blocks of 32: value = d * scale * q - dmin * min; scales and mins are 6 bits each (see `unpack_scales`);
# 32 bytes of qs hold two sub-blocks: the low nibbles, then the high ones
Q4_K = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", (4, 32))])
# as Q4_K, with each element's fifth bit in qh: bit s of qh[i] belongs to element i of sub-block s
Q5_K = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", (4, 32))])
# Sixteen sub-blocks of 16: value = d * scale * (q - 32); two halves of 128 elements, each 4 groups of 32:
# the low four bits of groups 0, 1 are low nibbles of ql, of groups 2, 3 the high ones; bits 2g of qh hold the top two
Q6_K = np.dtype([("ql", "u1", (2, 64)), ("qh", "u1", (2, 32)), ("scales", "i1", 16), ("d", "<f2")])

# value = 2^(e - 127) * (0, 0.5, 1, 1.5, 2, 3, 4 or 6; from 8 on its negative); nibbles as in Q4_0. e = 255: all NaN
MXFP4 = np.dtype([("e", "u1"), ("qs", "u1", 16)])
# The sixteen values doubled, so that they are integers; the scale is halved to match. Source: the OCP Microscaling
# specification 1.0 (E2M1, E8M0); ggml stores no negative zero either
MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)

# Four sub-blocks of 16: value = scales[s] * (as MXFP4); a scale is E4M3 whose sign is not used; nibbles: element i of a
# sub-block and i + 8
NVFP4 = np.dtype([("scales", "u1", 4), ("qs", "u1", (4, 8))])

# value = d * IQ4_VALUES[q]; nibbles as in Q4_0
IQ4_NL = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
# Eight sub-blocks of 32: value = d * (scale - 32) * IQ4_VALUES[q]; a scale's low four bits are nibbles of scales_l, its
# top two are bits 2s of scales_h
IQ4_XS = np.dtype([("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", (8, 16))])
# Closer together near zero, where weights are many. Source: ggml-common.h, kvalues_iq4nl
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)

# The rest: points of a grid (`iq_grids`), 8 values each or 4 (IQ3). An index has its low bits in qs. A byte of signs
# has a bit for each value, 1 for minus; where only seven are stored, the eighth is their parity. Scales of 4 bits lie
# two in a byte, the low one first.
# IQ2_XXS: of 32 values, a word of four indices and one of 4 x 7 signs and the scale: d * (scale + 1/2) / 4 * point
IQ2_XXS = np.dtype([("d", "<f2"), ("groups", [("qs", "u1", 4), ("signs", "<u4")], 8)])
# IQ2_XS: 9 bits of index and 7 signs; scales of 16 values, as above
IQ2_XS = np.dtype([("d", "<f2"), ("qs", "<u2", 32), ("scales", "u1", 8)])
# IQ2_S: bits 8 and 9 of four indices in each byte of qh; scales as in IQ2_XS
IQ2_S = np.dtype([("d", "<f2"), ("qs", "u1", 32), ("signs", "u1", 32), ("qh", "u1", 8), ("scales", "u1", 8)])
# IQ3_XXS: as IQ2_XXS with the words of indices first: d * (scale + 1/2) / 2 * point
IQ3_XXS = np.dtype([("d", "<f2"), ("qs", "u1", 64), ("signs", "<u4", 8)])
# IQ3_S: bit 8 of eight indices in each byte of qh; scales of 32 values: d * (2 * scale + 1) * point
IQ3_S = np.dtype([("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)])
# IQ1_S: of 32 values: bits 8 to 10 of four indices, a scale of 3 bits, and a sign: d * (2 * scale + 1) * (point -+ 1/8)
IQ1_S = np.dtype([("d", "<f2"), ("qs", "u1", 32), ("qh", "<u2", 8)])
# IQ1_M: a nibble of qh for each index: its bits 8 to 10 and the sign of 1/8; four scales of 16 values in each word of
# scales, and in its top four bits a quarter of d, the lowest first
IQ1_M = np.dtype([("qs", "u1", 32), ("qh", "u1", 16), ("scales", "<u2", 4)])

LAYOUT: dict[Quant, np.dtype[np.void]] = {
    Quant.Q4_0: Q4_0,
    Quant.Q4_1: Q4_1,
    Quant.Q5_0: Q5_0,
    Quant.Q5_1: Q5_1,
    Quant.Q8_0: Q8_0,
    Quant.Q2_K: Q2_K,
    Quant.Q3_K: Q3_K,
    Quant.Q4_K: Q4_K,
    Quant.Q5_K: Q5_K,
    Quant.Q6_K: Q6_K,
    Quant.MXFP4: MXFP4,
    Quant.NVFP4: NVFP4,
    Quant.IQ4_NL: IQ4_NL,
    Quant.IQ4_XS: IQ4_XS,
    Quant.IQ2_XXS: IQ2_XXS,
    Quant.IQ2_XS: IQ2_XS,
    Quant.IQ2_S: IQ2_S,
    Quant.IQ3_XXS: IQ3_XXS,
    Quant.IQ3_S: IQ3_S,
    Quant.IQ1_S: IQ1_S,
    Quant.IQ1_M: IQ1_M,
}


def flat_bytes(data: NDArray[np.uint8], quant: Quant) -> NDArray[np.uint8]:
    """Stored bytes, any shape -> contiguous [n_bytes], whole blocks or FormatError."""
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    if flat.nbytes % quant.block_bytes:
        raise FormatError(f"{flat.nbytes} bytes are not whole {quant.name} blocks of {quant.block_bytes} bytes")
    return flat


def unpack_scales(packed: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Packed [n, 12] -> (scales [n, 8], mins [n, 8]), 6 bits each.

    Bytes 0-3 and 4-7 hold scales and mins 0-3 in their low six bits; bytes 8-11 hold the low four bits of scales
    (low nibble) and mins (high nibble) 4-7, whose top two bits lie in the top of bytes 0-3 and 4-7.
    """
    low_scales, low_mins, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low_scales & 0x3F, (high & 0x0F) | (low_scales >> 6 << 4)], axis=1)
    mins = np.concatenate([low_mins & 0x3F, (high >> 4) | (low_mins >> 6 << 4)], axis=1)
    return scales, mins


def pack_scales(scales: NDArray[np.uint8], mins: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(scales [n, 8], mins [n, 8]), each under 64 -> packed [n, 12]: the inverse of `unpack_scales`."""
    low_scales = scales[:, :4] | (scales[:, 4:] >> 4 << 6)
    low_mins = mins[:, :4] | (mins[:, 4:] >> 4 << 6)
    high = (scales[:, 4:] & 0x0F) | (mins[:, 4:] & 0x0F) << 4
    return np.concatenate([low_scales, low_mins, high], axis=1)


def unpack_signed_scales(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Q3_K's: packed [n, 12] -> scales [n, 16], -32 to 31.

    Bytes 0-7 hold the low four bits of scales 0-7 (low nibble) and 8-15 (high nibble); bits 2g of byte 8 + i hold the
    top two of scale 4g + i. Stored with 32 added.
    """
    low = np.concatenate([packed[:, :8] & 0x0F, packed[:, :8] >> 4], axis=1)
    high = packed[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3  # [n, 4, 4]
    scales: NDArray[np.int8] = (low | high.reshape(-1, 16) << 4).astype(np.int8) - np.int8(32)
    return scales


def pack_signed_scales(scales: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Scales [n, 16], -32 to 31 -> packed [n, 12]: the inverse of `unpack_signed_scales`."""
    stored = (scales + np.int8(32)).view(np.uint8)
    low = (stored[:, :8] & 0x0F) | (stored[:, 8:] & 0x0F) << 4
    high = (stored >> 4).reshape(-1, 4, 4) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    return np.concatenate([low, np.bitwise_or.reduce(high, axis=1)], axis=1)
