"""Decoding equals the `gguf` package's reference bit for bit, on any bytes: NaN, infinity, -0, subnormals."""

import gguf
import numpy as np
import pytest

from motley.errors import FormatError
from motley.formats.blocks import LAYOUT, pack_scales, pack_signed_scales, unpack_scales, unpack_signed_scales
from motley.formats.decode import decode
from motley.formats.iq_grids import grids
from motley.formats.tensor import QuantTensor
from motley.shape.quant import Quant

HOSTILE_HALVES = np.array(
    [0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x7C01, 0x3C00], np.uint16
)


def reference(data: np.ndarray, quant: Quant) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(data.reshape(1, -1), gguf.GGMLQuantizationType(quant.ggml_type)).reshape(-1)


def same_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), np.ascontiguousarray(want, np.float32).view(np.uint32))


@pytest.mark.parametrize("quant", list(Quant), ids=lambda q: q.name)
@pytest.mark.parametrize("n_blocks", [1, 3, 257, 9000])
def test_random_bytes(quant: Quant, n_blocks: int) -> None:
    rng = np.random.default_rng(n_blocks)
    data = rng.integers(0, 256, n_blocks * quant.block_bytes, dtype=np.uint8)
    if quant is Quant.MXFP4:
        exponents = data.view(LAYOUT[quant])["e"]
        exponents[exponents == 255] = 254  # there the reference differs on purpose
    same_bits(decode(data, quant), reference(data, quant))


def halves_in(quant: Quant) -> list[str]:
    fields = LAYOUT[quant].fields if quant in LAYOUT else None
    return [name for name, (kind, _) in (fields or {}).items() if kind == np.float16]


@pytest.mark.parametrize("quant", [q for q in Quant if halves_in(q)], ids=lambda q: q.name)
def test_hostile_scales(quant: Quant) -> None:
    rng = np.random.default_rng(1)
    records = rng.integers(0, 256, 144 * quant.block_bytes, dtype=np.uint8).view(LAYOUT[quant])
    pairs = np.stack(np.meshgrid(HOSTILE_HALVES, HOSTILE_HALVES), -1).reshape(-1, 2)
    for column, field in enumerate(halves_in(quant)):
        records[field] = pairs[:, column].copy().view(np.float16)
    data = records.view(np.uint8)
    same_bits(decode(data, quant), reference(data, quant))


def test_every_mxfp4_scale_and_value() -> None:
    """Subnormal scales, values that overflow, and 255, which means NaN in the standard (in ggml 2^128)."""
    records = np.zeros(256, LAYOUT[Quant.MXFP4])
    records["e"] = np.arange(256)
    records["qs"] = np.arange(16) * 17  # each value in both halves
    data = records.view(np.uint8)
    got = decode(data, Quant.MXFP4).reshape(256, 32)
    same_bits(got[:255], reference(data[: 255 * 17], Quant.MXFP4).reshape(255, 32))
    assert np.isnan(got[255]).all()
    np.testing.assert_array_equal(got[127, :16], [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    assert got[0, 1] == 2.0**-128  # half of the smallest scale
    assert got[253, 4] == 2.0**127
    assert got[254, 4] == np.inf


def test_hostile_scales_of_iq1_m() -> None:
    """Its half-precision scale is spread over four words."""
    records = np.random.default_rng(1).integers(0, 256, 12 * 56, dtype=np.uint8).view(LAYOUT[Quant.IQ1_M])
    records["scales"] &= 0x0FFF
    records["scales"] |= (HOSTILE_HALVES[:, None] >> np.array([0, 4, 8, 12], np.uint16)) << 12
    data = records.view(np.uint8)
    same_bits(decode(data, Quant.IQ1_M), reference(data, Quant.IQ1_M))


def test_every_nvfp4_scale_and_value() -> None:
    """Subnormal scales; the sign bit counts for nothing; 0x7F, the standard's NaN, is zero, as in ggml."""
    records = np.zeros(64, LAYOUT[Quant.NVFP4])
    records["scales"] = np.arange(256).reshape(64, 4)
    records["qs"] = np.arange(8) * 0x11 + 0x80  # each value: 0 to 7 in the low nibbles, 8 to 15 in the high ones
    data = records.view(np.uint8)
    same_bits(decode(data, Quant.NVFP4), reference(data, Quant.NVFP4))
    got = decode(data, Quant.NVFP4).reshape(256, 16)
    np.testing.assert_array_equal(got[0x38], [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    np.testing.assert_array_equal(got[0x80 | 0x38], got[0x38])
    assert got[0x01, 2] == 2.0**-9
    assert not got[0x7F].any()


def test_every_point_of_the_grids() -> None:
    """As the `gguf` package has them, which keeps them in another form."""
    for name, points in grids().items():
        theirs = getattr(gguf.quants, name)
        theirs.init_grid()
        np.testing.assert_array_equal(points, theirs.grid[0, 0])


@pytest.mark.parametrize("quant", [Quant.F16, Quant.BF16], ids=lambda q: q.name)
def test_every_half(quant: Quant) -> None:
    data = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    same_bits(decode(data, quant), reference(data, quant))


def test_unaligned_and_sliced_data() -> None:
    rng = np.random.default_rng(2)
    data = rng.integers(0, 256, 1 + 10 * 144, dtype=np.uint8)
    same_bits(decode(data[1:], Quant.Q4_K), reference(data[1:].copy(), Quant.Q4_K))
    floats = rng.integers(0, 256, 1 + 40, dtype=np.uint8)
    same_bits(decode(floats[1:], Quant.F32), floats[1:].copy().view(np.float32))


def test_part_of_bytes_is_refused() -> None:
    with pytest.raises(FormatError, match="35 bytes are not whole Q8_0 blocks of 34 bytes"):
        decode(np.zeros(35, np.uint8), Quant.Q8_0)


def test_empty() -> None:
    for quant in Quant:
        assert decode(np.zeros(0, np.uint8), quant).shape == (0,)


def test_scales_pack_and_unpack() -> None:
    rng = np.random.default_rng(3)
    scales, mins = rng.integers(0, 64, (2, 100, 8), dtype=np.uint8)
    got_scales, got_mins = unpack_scales(pack_scales(scales, mins))
    np.testing.assert_array_equal(got_scales, scales)
    np.testing.assert_array_equal(got_mins, mins)


def test_signed_scales_pack_and_unpack() -> None:
    scales = np.random.default_rng(3).integers(-32, 32, (100, 16), dtype=np.int8)
    np.testing.assert_array_equal(unpack_signed_scales(pack_signed_scales(scales)), scales)


def test_tensor_parts_are_views_and_decode_to_their_slice() -> None:
    rng = np.random.default_rng(4)
    data = rng.integers(0, 256, 3 * 4 * 2 * 34, dtype=np.uint8)
    tensor = QuantTensor("e", (3, 4, 64), Quant.Q8_0, data)
    part = tensor.part(1)
    assert np.shares_memory(part.data, data)
    same_bits(part.decode(), tensor.decode()[1])
    for outside in (3, -1):
        with pytest.raises(IndexError, match=f"'e' has parts 0 to 2, not {outside}"):
            tensor.part(outside)
