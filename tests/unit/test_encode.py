"""Quantising: equal to the `gguf` package's where it has one, and close to the values everywhere."""

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.errors import FormatError, UnsupportedError
from motley.formats.decode import decode
from motley.formats.encode import ENCODABLE, encode
from motley.shape.quant import Quant

# Root mean square error on a standard normal, over its deviation: measured, with a few per cent of room.
# (ggml's own tests allow 0.002 of the values' sum for these; this is tighter.)
RMS = {
    Quant.F32: 0.0,
    Quant.F16: 0.00022,
    Quant.BF16: 0.0018,
    Quant.Q8_0: 0.0056,
    Quant.Q4_0: 0.089,
    Quant.Q4_K: 0.0735,
    Quant.Q5_K: 0.0370,
    Quant.Q6_K: 0.0175,
    Quant.MXFP4: 0.113,
    Quant.Q4_1: 0.0805,
    Quant.Q5_0: 0.0442,
    Quant.Q5_1: 0.0389,
    Quant.Q2_K: 0.278,
    Quant.Q3_K: 0.1475,
    Quant.IQ4_NL: 0.0757,
    Quant.IQ4_XS: 0.0765,
}
WRITTEN = [quant for quant in Quant if quant in ENCODABLE]
BLOCKED = [quant for quant in WRITTEN if quant.block > 1]
HALF_MAX = 65504.0


def back(values: np.ndarray, quant: Quant) -> np.ndarray:
    return decode(encode(values, quant), quant).reshape(values.shape)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


@pytest.mark.parametrize(
    "quant",
    [Quant.F16, Quant.BF16, Quant.Q8_0, Quant.Q4_0, Quant.Q4_1, Quant.Q5_0, Quant.Q5_1],
    ids=lambda q: q.name,
)
@pytest.mark.parametrize("scale", [1e-4, 0.02, 1.0, 300.0])
def test_equals_the_gguf_package(quant: Quant, scale: float) -> None:
    values = np.random.default_rng(0).standard_normal((64, 512), np.float32) * np.float32(scale)
    values[3] = 0
    values[4, :40] = np.round(values[4, :40])  # ties
    values[5, ::2] = -values[5, 1::2]  # two equally large values of opposite sign
    want = gguf.quants.quantize(values, gguf.GGMLQuantizationType(quant.ggml_type))
    np.testing.assert_array_equal(encode(values, quant), want.view(np.uint8).reshape(-1))


def test_bf16_equals_the_gguf_package_on_any_bits() -> None:
    bits = np.random.default_rng(1).integers(0, 1 << 32, (64, 512), dtype=np.uint32)
    special = [0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x80000000, 1, 0x3F808000, 0x3F818000, 0x3F808001]
    bits[0, : len(special)] = special
    want = gguf.quants.quantize(bits.view(np.float32), gguf.GGMLQuantizationType.BF16)
    np.testing.assert_array_equal(encode(bits.view(np.float32), Quant.BF16), want.reshape(-1))


@pytest.mark.parametrize("quant", WRITTEN, ids=lambda q: q.name)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_error_on_a_normal(quant: Quant, scale: float) -> None:
    values = np.random.default_rng(2).standard_normal((64, 1024), np.float32) * np.float32(scale)
    room = 1.1 if scale < 1e-2 and quant.block == 256 else 1.0  # scales are subnormal halves there
    assert rms(back(values, quant) - values) <= RMS[quant] * scale * room


@pytest.mark.parametrize("quant", BLOCKED, ids=lambda q: q.name)
def test_no_error_is_larger_than_a_step(quant: Quant) -> None:
    values = np.random.default_rng(3).uniform(-1, 1, (32, 512)).astype(np.float32)
    # One step between levels on [-1, 1]; least squares and Q4_0's one-sided range may clip an end by up to one.
    # MXFP4 takes what is next to 1 for 3/4, or for 1 beside steps of 1/4.
    steps = {Quant.Q8_0: 0.6 / 127, Quant.Q6_K: 1 / 32, Quant.Q5_K: 2 / 31, Quant.Q4_K: 2 / 15, Quant.Q4_0: 1 / 8}
    steps |= {Quant.Q4_1: 1 / 15, Quant.Q5_0: 1 / 16, Quant.Q5_1: 1 / 31, Quant.Q2_K: 2 / 3, Quant.Q3_K: 1 / 4}
    steps |= {Quant.IQ4_NL: 24 / 113, Quant.IQ4_XS: 24 / 113}  # the widest one
    step = {**steps, Quant.MXFP4: 1 / 4}[quant]
    assert np.abs(back(values, quant) - values).max() <= 1.01 * step


@pytest.mark.parametrize("quant", WRITTEN, ids=lambda q: q.name)
def test_zeros(quant: Quant) -> None:
    values = np.zeros((2, 512), np.float32)
    values[1, 256:] = 1.0
    got = back(values, quant)
    assert not got[0].any()
    assert not got[1, :256].any()
    np.testing.assert_allclose(got[1, 256:], 1.0, rtol=0.01)


@pytest.mark.parametrize("quant", BLOCKED, ids=lambda q: q.name)
def test_zero_sub_block_beside_large_ones(quant: Quant) -> None:
    values = np.random.default_rng(4).standard_normal((1, 512), np.float32) * 100
    values[0, 64:96] = 0
    assert np.isfinite(back(values, quant)).all()
    assert not back(values, quant)[0, 64:96].any()


@pytest.mark.parametrize("quant", BLOCKED, ids=lambda q: q.name)
@pytest.mark.parametrize("sign", [1, -1])
def test_one_sided_values(quant: Quant, sign: int) -> None:
    values = sign * np.random.default_rng(5).uniform(3, 4, (4, 512)).astype(np.float32)
    room = {Quant.Q4_0: 0.15, Quant.Q4_K: 0.15, Quant.MXFP4: 0.3}  # MXFP4 has nothing between 3 and 4
    room |= {Quant.Q2_K: 0.35, Quant.Q3_K: 0.3, Quant.IQ4_NL: 0.2, Quant.IQ4_XS: 0.2}  # few levels on one side
    assert rms(back(values, quant) - values) < room.get(quant, 0.07)


@pytest.mark.parametrize("quant", BLOCKED, ids=lambda q: q.name)
def test_huge_values_that_still_fit(quant: Quant) -> None:
    largest = HALF_MAX * (1 if quant in (Quant.Q4_1, Quant.Q5_1) else 7)  # their minimum is a half too
    values = np.random.default_rng(6).uniform(-1, 1, (4, 512)).astype(np.float32) * np.float32(largest)
    got = back(values, quant)
    assert np.isfinite(got).all()
    assert rms(got - values) < (0.25 if quant is Quant.Q2_K else 0.12) * rms(values)


@pytest.mark.parametrize("quant", [q for q in [*BLOCKED, Quant.F16] if q is not Quant.MXFP4], ids=lambda q: q.name)
def test_values_that_overflow_are_refused(quant: Quant) -> None:
    values = np.full((1, 256), 1e30, np.float32)
    with pytest.raises(FormatError, match=f"overflow {quant.name}'s half precision .* use BF16 or F32"):
        encode(values, quant)


@pytest.mark.parametrize("quant", BLOCKED, ids=lambda q: q.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_blocks_refuse_what_is_not_finite(quant: Quant, bad: float) -> None:
    values = np.zeros((1, 256), np.float32)
    values[0, 77] = bad
    with pytest.raises(FormatError, match=f"{quant.name} cannot hold NaN or infinity"):
        encode(values, quant)


def test_halves_keep_infinity_and_nan() -> None:
    values = np.array([np.inf, -np.inf, np.nan, -0.0], np.float32)
    for quant in (Quant.F16, Quant.BF16, Quant.F32):
        np.testing.assert_array_equal(back(values, quant), values)
        assert np.signbit(back(values, quant)[3])


@pytest.mark.parametrize("quant", BLOCKED, ids=lambda q: q.name)
def test_tiny_values_vanish_without_noise(quant: Quant) -> None:
    values = np.random.default_rng(7).standard_normal((2, 256), np.float32) * np.float32(1e-38)
    with np.errstate(all="raise", under="ignore"):
        assert np.abs(back(values, quant)).max() < 1e-30


FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(FLOAT32, min_size=32, max_size=32))
def test_mxfp4_holds_any_block_no_worse_than_the_gguf_package(values: list[float]) -> None:
    rows = np.array([values], np.float32)
    got = back(rows, Quant.MXFP4)
    assert np.isfinite(got).all()
    with np.errstate(all="ignore"):
        stored = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.MXFP4)
        theirs = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.MXFP4)
    ours = encode(rows, Quant.MXFP4)
    if ours[0] == stored[0, 0]:
        np.testing.assert_array_equal(ours, stored[0])
    elif np.isfinite(theirs).all():  # for the tiniest values its exponent wraps around
        error, their_error = (np.square(a.astype(np.float64) - rows).sum() for a in (got, theirs))
        assert error <= their_error * (1 + 1e-6)


@given(st.binary(min_size=17, max_size=17))
def test_mxfp4_values_survive_exactly(block: bytes) -> None:
    values = decode(np.frombuffer(block, np.uint8), Quant.MXFP4)
    if np.isfinite(values).all():
        np.testing.assert_array_equal(back(values, Quant.MXFP4), values)


@pytest.mark.parametrize("largest", [np.finfo(np.float32).max, 1e30, 2.0**-126, 2.0**-149])
def test_mxfp4_holds_the_ends_of_float32(largest: float) -> None:
    values = np.linspace(-1, 1, 32, dtype=np.float32)[None] * np.float32(largest)
    got = back(values, Quant.MXFP4)
    assert np.isfinite(got).all()
    if largest > 2.0**-127:  # 2^-128 is the smallest step
        assert rms(got / largest - values / largest) < 0.1


@pytest.mark.parametrize("quant", [q for q in Quant if q not in ENCODABLE], ids=lambda q: q.name)
def test_what_is_only_read_is_refused(quant: Quant) -> None:
    said = f"Motley reads {quant.name} but cannot quantise to it: choose one of F32, .*, Q4_K, .*, MXFP4"
    with pytest.raises(UnsupportedError, match=said):
        encode(np.zeros((1, 256), np.float32), quant)


def test_rows_must_fill_blocks() -> None:
    with pytest.raises(FormatError, match=r"rows of shape \(2, 48\) do not fill Q8_0 blocks of 32"):
        encode(np.zeros((2, 48), np.float32), Quant.Q8_0)


def test_long_rows_cross_the_chunks() -> None:
    values = np.random.default_rng(8).standard_normal((3, 1 << 19), np.float32)
    whole = encode(values, Quant.Q8_0)
    np.testing.assert_array_equal(whole, np.concatenate([encode(row, Quant.Q8_0) for row in values]))
