"""Decoders of the IQ formats, for `decode`: points of a grid, with signs and scales. Layouts are in `blocks`.

As there, the order of the float32 operations is part of the contract: scale times point, then the sign.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.formats import blocks
from motley.formats.iq_grids import grids
from motley.shape.quant import Quant

Records = NDArray[np.void]

_EIGHTH = np.float32(0.125)
# Seven signs are stored: the eighth is their parity, so that the number of minus signs is even
_SEVEN = np.arange(128, dtype=np.uint8)
_ALL_SIGNS = _SEVEN | np.bitwise_xor.reduce(_SEVEN << np.arange(8, dtype=np.uint8)[:, None], axis=0) & 0x80


def _d(records: Records) -> Any:
    """float32 [n, 1]"""
    return records["d"].astype(np.float32)[:, None]


def _nibbles(packed: NDArray[np.uint8]) -> Any:
    """[n, bytes] -> float32 [n, 2 * bytes]: the low one of each byte, then its high one."""
    return np.stack([packed & 0x0F, packed >> 4], axis=-1).reshape(len(packed), -1).astype(np.float32)


def _signs(bits: NDArray[np.uint8]) -> Any:
    """Bytes [...] -> 1 or -1 [..., 8]."""
    return np.where(np.unpackbits(bits[..., None], axis=-1, bitorder="little"), np.float32(-1), np.float32(1))


def _seven_signs(words: NDArray[np.uint32]) -> Any:
    """Words [n, 8] of 4 x 7 signs, and four bits more -> [n, 32, 8]."""
    sevens = words[..., None] >> np.array([0, 7, 14, 21], np.uint32) & 0x7F
    return _signs(_ALL_SIGNS[sevens].reshape(len(words), 32))


def _scaled(scales: Any, points: Any, signs: Any) -> Any:
    """scales [n, S], points [n, P, 4 or 8], signs [n, 32, 8] -> values [n, 256]."""
    n, s = scales.shape
    magnitudes = scales[:, :, None] * points.reshape(n, s, -1)
    return magnitudes.reshape(n, 256) * signs.reshape(n, 256)


def _iq4_nl(records: Records) -> Any:
    q = np.stack([records["qs"] & 0x0F, records["qs"] >> 4], axis=1).reshape(-1, 32)
    return _d(records) * blocks.IQ4_VALUES[q].astype(np.float32)


def _iq4_xs(records: Records) -> Any:
    high = records["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = _nibbles(records["scales_l"]) + (high << 4).astype(np.float32) - 32
    q = np.stack([records["qs"] & 0x0F, records["qs"] >> 4], axis=2).reshape(-1, 8, 32)
    return ((_d(records) * scales)[:, :, None] * blocks.IQ4_VALUES[q].astype(np.float32)).reshape(-1, 256)


def _iq2_xxs(records: Records) -> Any:
    words = records["groups"]["signs"]
    scales = _d(records) * ((words >> 28).astype(np.float32) + np.float32(0.5)) * np.float32(0.25)
    return _scaled(scales, grids()["IQ2_XXS"][records["groups"]["qs"]], _seven_signs(words))


def _iq2_xs(records: Records) -> Any:
    scales = _d(records) * (_nibbles(records["scales"]) + np.float32(0.5)) * np.float32(0.25)
    return _scaled(scales, grids()["IQ2_XS"][records["qs"] & 511], _signs(_ALL_SIGNS[records["qs"] >> 9]))


def _iq2_s(records: Records) -> Any:
    scales = _d(records) * (_nibbles(records["scales"]) + np.float32(0.5)) * np.float32(0.25)
    high = (records["qh"][:, :, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(-1, 32)
    return _scaled(scales, grids()["IQ2_S"][_index(records["qs"], high)], _signs(records["signs"]))


def _iq3_xxs(records: Records) -> Any:
    words = records["signs"]
    scales = _d(records) * ((words >> 28).astype(np.float32) + np.float32(0.5)) * np.float32(0.5)
    return _scaled(scales, grids()["IQ3_XXS"][records["qs"]], _seven_signs(words))


def _iq3_s(records: Records) -> Any:
    scales = _d(records) * (1 + 2 * _nibbles(records["scales"]))
    high = np.unpackbits(records["qh"], axis=1, bitorder="little")
    return _scaled(scales, grids()["IQ3_S"][_index(records["qs"], high)], _signs(records["signs"]))


def _index(low: NDArray[np.uint8], high: NDArray[Any]) -> NDArray[np.intp]:
    return low.astype(np.intp) | high.astype(np.intp) << 8


def _iq1_s(records: Records) -> Any:
    qh = records["qh"]
    scales = _d(records) * (2 * (qh >> 12 & 7) + 1).astype(np.float32)
    high = (qh[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, 32)
    shift = np.where(qh & 0x8000, -_EIGHTH, _EIGHTH)[:, :, None]
    points = grids()["IQ1_S"][_index(records["qs"], high)].reshape(-1, 8, 32)
    return (scales[:, :, None] * (points + shift)).reshape(-1, 256)


def _iq1_m(records: Records) -> Any:
    words = records["scales"]
    quarters = words >> 12 << np.array([0, 4, 8, 12], np.uint16)
    d = np.bitwise_or.reduce(quarters, axis=1).view(np.float16).astype(np.float32)[:, None]
    small = (words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, 16)
    scales = d * (2 * small + 1).astype(np.float32)
    nibbles = np.stack([records["qh"] & 0x0F, records["qh"] >> 4], axis=-1).reshape(-1, 32)
    shift = np.where(nibbles & 8, -_EIGHTH, _EIGHTH)[:, :, None]
    points = grids()["IQ1_S"][_index(records["qs"], nibbles & 7)]
    return (scales[:, :, None] * (points + shift).reshape(-1, 16, 16)).reshape(-1, 256)


DECODERS: dict[Quant, Callable[[Records], Any]] = {
    Quant.IQ4_NL: _iq4_nl,
    Quant.IQ4_XS: _iq4_xs,
    Quant.IQ2_XXS: _iq2_xxs,
    Quant.IQ2_XS: _iq2_xs,
    Quant.IQ2_S: _iq2_s,
    Quant.IQ3_XXS: _iq3_xxs,
    Quant.IQ3_S: _iq3_s,
    Quant.IQ1_S: _iq1_s,
    Quant.IQ1_M: _iq1_m,
}
