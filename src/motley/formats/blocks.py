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
# value = d * q
Q8_0 = np.dtype([("d", "<f2"), ("qs", "i1", 32)])
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

LAYOUT: dict[Quant, np.dtype[np.void]] = {
    Quant.Q4_0: Q4_0,
    Quant.Q8_0: Q8_0,
    Quant.Q4_K: Q4_K,
    Quant.Q5_K: Q5_K,
    Quant.Q6_K: Q6_K,
    Quant.MXFP4: MXFP4,
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
