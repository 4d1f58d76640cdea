"""Weights as Hugging Face checkpoints store them: against golden values of the libraries that define the layouts
(tools/golden/make_packed.py), and for AWQ and GPTQ against twins that pack one number at a time."""

from typing import Any

import numpy as np
import pytest

from hf_folders import Tensors, bf16, f16, f32
from hf_golden import GOLDEN
from motley.errors import FormatError, UnsupportedError
from motley.formats.packed import AWQ_ORDER, HALF_SCALES, Stored, stored
from motley.formats.safetensors import Entry
from motley.shape.quant import Quant

golden = np.load(GOLDEN.parent / "packed.npz")


def state(tensors: Tensors, **config: Any) -> dict[str, Stored]:
    entries = {
        name: Entry(name, dtype, values.shape, np.frombuffer(values.tobytes(), np.uint8))
        for name, (dtype, values) in tensors.items()
    }
    return stored(entries, config)


def one(tensors: Tensors, **config: Any) -> Stored:
    """The only parameter that these entries are."""
    (found,) = state(tensors, **config).values()
    return found


def i32(values: np.ndarray) -> tuple[str, np.ndarray]:
    return "I32", np.ascontiguousarray(values, np.int64).astype(np.uint32).view(np.int32)


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


# --- plain and 8 bits


@pytest.mark.parametrize(("make", "quant"), [(f32, Quant.F32), (f16, Quant.F16), (bf16, Quant.BF16)])
def test_plain_types_stay(make: Any, quant: Quant) -> None:
    dtype, values = make(rng().standard_normal((3, 5, 4)))
    found = one({"w": (dtype, values)})
    assert (found.quant, found.dims) == (quant, (3, 5, 4))
    assert found.mapped is not None
    assert found.mapped.tobytes() == found.read(None).tobytes() == values.tobytes()
    assert found.read(1).tobytes() == values[1].tobytes()


@pytest.mark.parametrize(("dtype", "name"), [("F8_E4M3", "e4m3"), ("F8_E5M2", "e5m2")])
def test_every_byte_of_an_8_bit_float(dtype: str, name: str) -> None:
    found = one({"w": (dtype, np.arange(256, dtype=np.uint8).reshape(8, 32))})
    assert found.quant is Quant.BF16
    np.testing.assert_array_equal(found.values().reshape(-1), golden[name])


def test_every_byte_as_a_power_of_two() -> None:
    """Bytes whose product with 1 is beyond bfloat16's normal numbers included."""
    ones = np.full((256, 1), 0x38, np.uint8)  # 1.0
    found = one({"w": ("F8_E4M3", ones), "w_scale": ("F8_E8M0", np.arange(256, dtype=np.uint8)[:, None])})
    assert found.quant is Quant.BF16
    np.testing.assert_array_equal(found.values()[:, 0], golden["e8m0"])


def test_integers_are_no_weights() -> None:
    found = one({"w": i32(np.zeros((2, 2)))})
    assert found.quant is None
    with pytest.raises(UnsupportedError, match="'w' is I32"):
        found.read(None)


# --- FP8 with scales


def test_fp8_blocks() -> None:
    weight, scale = ("F8_E4M3", golden["fp8"]), f32(golden["fp8_scale"])
    found = one({"w.weight": weight, "w.weight_scale_inv": scale}, weight_block_size=[128, 128])
    assert (found.quant, found.name) == (Quant.F32, "w.weight")
    assert "F32" in found.note
    np.testing.assert_array_equal(found.values(), golden["fp8_values"])


def test_fp8_blocks_with_powers_of_two_are_bfloat16() -> None:
    scale = 2.0 ** rng().integers(-12, -3, (2, 3))
    tensors = {"w": ("F8_E4M3", golden["fp8"]), "w_scale_inv": f32(scale)}
    wide = np.repeat(np.repeat(scale, 128, 0), 128, 1)[:200, :300]
    found = one(tensors, scale_fmt="ue8m0")
    assert (found.quant, found.note) == (Quant.BF16, "")
    np.testing.assert_array_equal(found.values(), golden["e4m3"][golden["fp8"]] * wide.astype(np.float32))
    with pytest.raises(FormatError, match="powers of two and are not"):
        one({**tensors, "w_scale_inv": f32(scale * 1.001)}, scale_fmt="ue8m0").read(None)


@pytest.mark.parametrize("dims", [(), (1,), (1, 1), (200, 1), (50, 75)], ids=str)
def test_fp8_with_one_scale_per_tensor_row_or_small_block(dims: tuple[int, ...]) -> None:
    scale = rng().random(dims) + 0.1
    blocks = {"config_groups": {"g": {"weights": {"block_structure": [4, 4]}}}}
    found = one({"w": ("F8_E4M3", golden["fp8"]), "w_scale": bf16(scale)}, **blocks)
    stored_scale = (bf16(scale)[1].astype(np.uint32) << 16).view(np.float32)
    wide = np.kron(stored_scale, np.ones((4, 4), np.float32)) if dims == (50, 75) else stored_scale
    np.testing.assert_array_equal(found.values(), golden["e4m3"][golden["fp8"]] * wide)


def test_fp8_experts_in_one_tensor_are_read_one_by_one() -> None:
    weight = rng().integers(0, 0x70, (3, 40, 20), np.uint8)
    scale = rng().random((3, 3, 2)).astype(np.float32)
    found = one({"w": ("F8_E4M3", weight), "w_scale_inv": f32(scale)}, weight_block_size=[16, 16])
    whole = found.values()
    for e in range(3):
        wide = np.kron(scale[e], np.ones((16, 16), np.float32))[:40, :20]
        np.testing.assert_array_equal(whole[e], golden["e4m3"][weight[e]] * wide)
        np.testing.assert_array_equal(found.values(e), whole[e : e + 1])


# --- INT4


def packed_int4(kind: str, **changes: Any) -> dict[str, tuple[str, np.ndarray]]:
    tensors = {
        "w_packed": ("I32", golden[f"{kind}_packed"]),
        "w_scale": ("BF16", golden[f"{kind}_scale"].view(np.uint16)),
        "w_shape": ("I64", np.array([24, 128])),
    }
    if kind == "asymmetric":
        tensors["w_zero_point"] = ("I32", golden[f"{kind}_zero_point"])
    return tensors | changes


@pytest.mark.parametrize(("kind", "quant"), [("symmetric", Quant.Q4_0), ("asymmetric", Quant.Q8_0)])
def test_compressed_tensors_int4(kind: str, quant: Quant) -> None:
    found = one(packed_int4(kind))
    assert (found.quant, found.dims, found.note) == (quant, (24, 128), HALF_SCALES)
    np.testing.assert_array_equal(found.values(), golden[f"{kind}_values"])


def test_compressed_tensors_int4_with_columns_in_another_order() -> None:
    group_of = rng().permutation(np.arange(128) // 32).astype(np.int32)
    found = one(packed_int4("symmetric", w_g_idx=("I32", group_of)))
    assert found.quant is Quant.F32
    scale = (golden["symmetric_scale"].view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    codes = golden["symmetric_values"] / np.repeat(scale, 32, axis=1)
    np.testing.assert_allclose(found.values(), codes * scale[:, group_of], rtol=1e-6)


def test_int4_with_float32_scales_or_odd_groups_is_float32() -> None:
    scale = (golden["symmetric_scale"].view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    found = one(packed_int4("symmetric", w_scale=f32(scale)))
    assert (found.quant, found.note) == (Quant.F32, "")
    np.testing.assert_array_equal(found.values(), golden["symmetric_values"])
    odd = np.ascontiguousarray(np.repeat(golden["symmetric_scale"].view(np.uint16), 2, axis=1))  # groups of 16
    np.testing.assert_array_equal(one(packed_int4("symmetric", w_scale=("BF16", odd))).values(), found.values())


def test_int8_codes() -> None:
    codes = rng().integers(-128, 128, (6, 64))
    scale = rng().random((6, 2)).astype(np.float16)
    words = (codes + 128).astype(np.uint8).view(np.uint32)  # four a word, the first one lowest
    weights = {"config_groups": {"g": {"weights": {"num_bits": 8}}}}
    found = one({"w_packed": i32(words), "w_scale": f16(scale)}, **weights)
    assert found.quant is Quant.F32
    np.testing.assert_array_equal(found.values(), codes.astype(np.float32) * np.repeat(scale, 32, 1))


# --- AWQ and GPTQ, packed one number at a time


def awq_words(values: np.ndarray) -> np.ndarray:
    """[R, C] under 16 -> [R, C / 8]: AutoAWQ's order of the outputs within a word."""
    words = np.zeros((len(values), values.shape[1] // 8), np.int64)
    for (row, word), _ in np.ndenumerate(words):
        for i, place in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            words[row, word] |= int(values[row, 8 * word + place]) << (4 * i)
    return words


def gptq_words(values: np.ndarray, bits: int) -> np.ndarray:
    """[R, C] -> [R, C * bits / 32], the first lowest."""
    per = 32 // bits
    words = np.zeros((len(values), values.shape[1] // per), np.int64)
    for (row, column), value in np.ndenumerate(values):
        words[row, column // per] |= int(value) << (bits * (column % per))
    return words


INPUTS, OUTPUTS, GROUPS = 128, 16, 2


def codes_and_scales(bits: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """codes [in, out], zeros [groups, out], half-precision scales [groups, out]"""
    codes = rng().integers(0, 1 << bits, (INPUTS, OUTPUTS))
    zeros = rng().integers(1, 1 << bits, (GROUPS, OUTPUTS))
    return codes, zeros, (rng().random((GROUPS, OUTPUTS)) * 0.02 + 1e-3).astype(np.float16)


def meant(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group_of: np.ndarray) -> np.ndarray:
    values = np.empty((OUTPUTS, INPUTS), np.float32)
    for i in range(INPUTS):
        for o in range(OUTPUTS):
            group = group_of[i]
            values[o, i] = np.float32(codes[i, o] - zeros[group, o]) * np.float32(scales[group, o])
    return values


IN_ORDER = np.arange(INPUTS) // (INPUTS // GROUPS)


@pytest.mark.parametrize("config", [{}, {"quant_method": "awq", "version": "gemm", "bits": 4}], ids=["bare", "named"])
def test_awq(config: dict[str, Any]) -> None:
    codes, zeros, scales = codes_and_scales()
    tensors = {"w.qweight": i32(awq_words(codes)), "w.qzeros": i32(awq_words(zeros)), "w.scales": f16(scales)}
    found = one(tensors, **config)
    assert (found.name, found.quant, found.dims) == ("w.weight", Quant.Q8_0, (OUTPUTS, INPUTS))
    np.testing.assert_array_equal(found.values(), meant(codes, zeros, scales, IN_ORDER))
    assert sorted(AWQ_ORDER) == list(range(8))


def gptq(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group_of: np.ndarray, bits: int) -> Tensors:
    return {
        "w.qweight": i32(gptq_words(codes.T, bits).T),
        "w.qzeros": i32(gptq_words(zeros, bits)),
        "w.scales": f16(scales),
        "w.g_idx": i32(group_of),
    }


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("desc_act", [False, True])
def test_gptq(bits: int, version: str, desc_act: bool) -> None:
    codes, zeros, scales = codes_and_scales(bits)
    group_of = rng().permutation(IN_ORDER) if desc_act else IN_ORDER
    tensors = gptq(codes, zeros - (version == "gptq"), scales, group_of, bits)
    found = one(tensors, quant_method="gptq", bits=bits, desc_act=desc_act, checkpoint_format=version)
    assert found.quant is (Quant.Q8_0 if bits == 4 and not desc_act else Quant.F32)
    np.testing.assert_array_equal(found.values(), meant(codes, zeros, scales, group_of))


def test_symmetric_gptq_is_q4_0() -> None:
    codes, zeros, scales = codes_and_scales()
    zeros[:] = 8
    config = {"quant_method": "gptq", "bits": 4, "desc_act": False, "sym": True}
    found = one(gptq(codes, zeros - 1, scales, IN_ORDER, 4), **config)
    assert found.quant is Quant.Q4_0
    np.testing.assert_array_equal(found.values(), meant(codes, zeros, scales, IN_ORDER))
    with pytest.raises(FormatError, match="sym true, but zero points are not all 8"):
        one(gptq(codes, zeros, scales, IN_ORDER, 4), **config).read(None)
    shuffled = np.ascontiguousarray(IN_ORDER[::-1])
    with pytest.raises(FormatError, match="desc_act false, but g_idx has another order"):
        one(gptq(codes, zeros - 1, scales, shuffled, 4), **config).read(None)


# --- MXFP4


def test_mxfp4_as_gpt_oss_has_it() -> None:
    tensors = {"w_blocks": ("U8", golden["mxfp4_blocks"]), "w_scales": ("U8", golden["mxfp4_scales"])}
    found = one(tensors)
    assert (found.quant, found.dims, found.record_dims) == (Quant.MXFP4, (3, 64, 8), (3, 2, 8))
    np.testing.assert_array_equal(found.values(), golden["mxfp4_values"])
    np.testing.assert_array_equal(found.values(2), golden["mxfp4_values"][2:])


# --- what does not fit


def u8(*dims: int) -> tuple[str, np.ndarray]:
    return "U8", np.zeros(dims, np.uint8)


SCALES = f16(np.ones((2, 16)))
MISFITS: list[tuple[Tensors, dict[str, Any], str]] = [
    ({"w_packed": i32(np.zeros((4, 4)))}, {}, "'w_scale' is missing, but 'w_packed' can't be read without it"),
    ({"w_packed": i32(np.zeros((4, 4))), "w_scale": f16(np.ones((3, 1)))}, {}, "do not fit together"),
    ({"w_packed": i32(np.zeros((4, 4))), "w_scale": f16(np.ones((4, 5)))}, {}, "do not fit together"),
    ({"w_packed": i32(np.zeros((4, 4))), "w_scale": f16(np.ones((4, 0)))}, {}, "do not fit together"),
    ({"w.qweight": i32(np.zeros((64, 2))), "w.scales": SCALES}, {}, "'w.qzeros' is missing"),
    ({"w.qweight": i32(np.zeros((64, 3))), "w.scales": SCALES, "w.qzeros": i32(np.zeros((2, 2)))}, {}, "do not fit"),
    (
        {"w.qweight": i32(np.zeros((64, 2))), "w.scales": SCALES, "w.qzeros": i32(np.zeros((2, 2)))},
        {"quant_method": "awq", "version": "gemv"},
        "AWQ's gemv layout is not supported",
    ),
    ({"w": ("F8_E4M3", np.zeros((200, 300), np.uint8)), "w_scale_inv": f32(np.ones((3, 3)))}, {}, "do not fit"),
    (
        {"w": ("F8_E4M3", np.zeros((200, 300), np.uint8)), "w_scale_inv": f32(np.ones((2, 3)))},
        {"weight_block_size": [0, 128]},
        "weight_block_size must be two numbers above zero",
    ),
    ({"w_blocks": u8(2, 4, 1, 15), "w_scales": u8(2, 4, 1)}, {}, "do not fit"),
    (
        {"w_packed": i32(np.zeros((4, 4))), "w_scale": f16(np.ones((4, 1)))},
        {"config_groups": {"g": {"weights": {"num_bits": 3}}}},
        "codes of 3 bits",
    ),
    (
        {"w_packed": i32(np.zeros((4, 4))), "w_scale": f16(np.ones((4, 1)))},
        {"config_groups": {"a": {"weights": {"num_bits": 4}}, "b": {"weights": {"num_bits": 8}}}},
        "config_groups that differ",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "config", "sentence"), MISFITS, ids=range(len(MISFITS)))
def test_what_does_not_fit_is_said(tensors: Tensors, config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FormatError, match=sentence):
        state(tensors, **config)


def test_what_only_reading_shows() -> None:
    wrong_shape = one(packed_int4("symmetric", w_shape=("I64", np.array([24, 120]))))
    with pytest.raises(FormatError, match="do not fit together"):
        wrong_shape.read(None)
    beyond = one(packed_int4("symmetric", w_g_idx=("I32", np.full(128, 4, np.int32))))
    with pytest.raises(FormatError, match="g_idx does not give each of 128 columns one of 4 groups"):
        beyond.read(None)
    huge = one(packed_int4("symmetric", w_scale=bf16(np.full((24, 4), 1e6))))
    with pytest.raises(FormatError, match="beyond half precision's 65504"):
        huge.read(None)
