"""How Hugging Face checkpoints store weights, and the GGUF precision that holds each layout exactly.

A `Stored` is one parameter of the state dict, made of one or several file entries. It gives its values as *records*:
opaque numpy elements, each the bytes of one GGUF block. Records can be moved about (stacked, cut and reordered by
rows) without a look inside, and refuse any arithmetic; so what is only moved stays as exact as it was.

| layout | entries | becomes | source of the layout |
|---|---|---|---|
| plain | `X` | F32, F16, BF16 as they are; FP8 without scales: BF16 | safetensors' format description |
| FP8, scaled | `X`, `X_scale_inv` or `X_scale`: per tensor, row, block | F32; BF16 if scales are powers of two | \
inference/kernel.py of deepseek-ai/DeepSeek-V3; compressed-tensors' float_quantized |
| INT4 | `X_packed`, `X_scale`, `X_shape`, `X_zero_point`, `X_g_idx` | Q4_0 where symmetric, else Q8_0 | \
compressed-tensors' pack_quantized |
| AWQ | `qweight`, `qzeros`, `scales` | Q8_0 | AutoAWQ, WQLinear_GEMM |
| GPTQ | `qweight`, `qzeros`, `scales`, `g_idx` | Q4_0 where symmetric, else Q8_0 | GPTQModel, qlinear |
| MXFP4 | `X_blocks`, `X_scales` | MXFP4 | transformers' integrations/mxfp4.py |

A 4-bit code less its zero point is a small integer, and Q8_0 is a half-precision scale times a small integer: so AWQ
and GPTQ fit it without loss. What has no such form (columns in another order than their groups, 8-bit codes, odd sizes)
becomes F32. Scales that were bfloat16 become half precision: exact from 1.5e-5 to 65504, rounded by at most 3e-8 below.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError, UnsupportedError
from motley.formats import blocks
from motley.formats.metadata import shown
from motley.formats.safetensors import Entry
from motley.shape.quant import Quant

Records = NDArray[Any]  # elements are blocks
F32 = NDArray[np.float32]
Read = Callable[[int | None], Records]

_FLOATS = {"F32": Quant.F32, "F16": Quant.F16, "BF16": Quant.BF16, "F8_E4M3": Quant.BF16, "F8_E5M2": Quant.BF16}
HALF_SCALES = "group scales were bfloat16 and become half precision: exact, but for those below 1.5e-5"


@dataclass(frozen=True)
class Stored:
    """`read(None)` gives all records; `read(e)` those of slice `e` of the leading dimension, which stays, as 1."""

    name: str  # the state dict's
    dims: tuple[int, ...]
    quant: Quant | None  # None: integers or the like, which are no weights
    read: Read = field(repr=False)
    axis: int = -1  # the dimension that is cut into blocks
    mapped: NDArray[np.uint8] | None = field(default=None, repr=False)  # the file's bytes, where they are GGUF's too
    note: str = ""  # what the user should know about this layout
    sliced: tuple[Entry, ...] = field(default=(), repr=False)  # of these `read(e)` reads a slice
    whole: tuple[Entry, ...] = field(default=(), repr=False)  # and all of these

    def __post_init__(self) -> None:
        axis = self.axis % max(len(self.dims), 1)
        object.__setattr__(self, "axis", axis)

    @property
    def record_dims(self) -> tuple[int, ...]:
        block = self.quant.block if self.quant else 1
        return tuple(n // block if i == self.axis else n for i, n in enumerate(self.dims))

    def sources(self, part: int | None) -> list[NDArray[np.uint8]]:
        """The bytes that `read(part)` reads."""
        return [*(_cut(entry, part).data for entry in self.sliced), *(entry.data for entry in self.whole)]

    def values(self, part: int | None = None) -> F32:
        """Float32 [*dims], decoded as GGUF's reference decodes them."""
        from motley.formats.decode import decode

        records = np.moveaxis(self.read(part), self.axis, -1)
        assert self.quant is not None
        flat = np.ascontiguousarray(records).reshape(-1).view(np.uint8)
        values = decode(flat, self.quant).reshape(*records.shape[:-1], -1)
        return np.moveaxis(values, -1, self.axis)


def stored(entries: Mapping[str, Entry], config: Mapping[str, Any]) -> dict[str, Stored]:
    """Every parameter that the entries hold. `config`: config.json's `quantization_config`, or nothing."""
    found: dict[str, Stored] = {}
    used: set[str] = set()
    for name in entries:
        group = _Group(name, entries, config)
        for ending, make in _LAYOUTS.items():
            if name.endswith(ending) and (made := make(group)):
                found[made.name] = made
                used |= group.used
                break
    for name, entry in entries.items():
        if name not in used and name not in found:
            found[name] = _plain(entry)
    return found


@dataclass
class _Group:
    """The entries that belong to the one called `name`; remembers which were asked for."""

    name: str
    entries: Mapping[str, Entry]
    config: Mapping[str, Any]
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.used.add(self.name)

    @property
    def entry(self) -> Entry:
        return self.entries[self.name]

    def beside(self, name: str) -> Entry | None:
        if name in self.entries:
            self.used.add(name)
        return self.entries.get(name)

    def need(self, name: str) -> Entry:
        found = self.beside(name)
        if found is None:
            raise FormatError(f"tensor {shown(name)} is missing, but {shown(self.name)} can't be read without it")
        return found

    def misfit(self, *others: Entry) -> FormatError:
        told = ", ".join(f"{e.name.rsplit('.', 1)[-1]} {list(e.dims)} {e.dtype}" for e in (self.entry, *others))
        return FormatError(f"tensor {shown(self.name)}: the entries do not fit together: {told}")


# --- entries as arrays


def _array(entry: Entry, dtype: str) -> NDArray[Any]:
    return entry.data.view(dtype).reshape(entry.dims)


def _integers(entry: Entry) -> NDArray[Any]:
    kinds = {"I32": "<i4", "I64": "<i8", "U8": "u1", "I8": "i1"}
    if entry.dtype not in kinds:
        raise FormatError(f"tensor {shown(entry.name)} is {entry.dtype}, but must hold integers")
    return _array(entry, kinds[entry.dtype])


def _fp8_table(mantissa_bits: int, bias: int, values_end: int) -> F32:
    """Float32 of each byte: sign, exponent, mantissa. From `values_end` on (without the sign) it is not a number."""
    byte = np.arange(256)
    mantissa = byte & ((1 << mantissa_bits) - 1)
    exponent = (byte & 0x7F) >> mantissa_bits
    size = np.where(
        exponent == 0,
        np.ldexp(mantissa.astype(np.float64), 1 - bias - mantissa_bits),
        np.ldexp((mantissa + (1 << mantissa_bits)).astype(np.float64), exponent - bias - mantissa_bits),
    )
    size[(byte & 0x7F) >= values_end] = np.nan
    return np.where(byte & 0x80, -size, size).astype(np.float32)


# Source: the OCP 8-bit floating point specification. E4M3 has no infinity; E5M2 has, at 0x7C.
_E4M3 = _fp8_table(3, 7, 0x7F)
_E5M2 = _fp8_table(2, 15, 0x7D)
_E5M2[[0x7C, 0xFC]] = np.inf, -np.inf


def floats(entry: Entry) -> F32:
    """The entry's values; FormatError for a type that holds no floats."""
    if entry.dtype == "F32":
        return _array(entry, "<f4")
    if entry.dtype == "F16":
        return _array(entry, "<f2").astype(np.float32)
    if entry.dtype == "BF16":
        return (_array(entry, "<u2").astype(np.uint32) << 16).view(np.float32)
    if entry.dtype in ("F8_E4M3", "F8_E5M2"):
        table: F32 = _E4M3 if entry.dtype == "F8_E4M3" else _E5M2
        return np.take(table, _array(entry, "u1"))
    if entry.dtype == "F8_E8M0":
        byte = _array(entry, "u1").astype(np.int32)
        return np.where(byte == 255, np.float32(np.nan), np.ldexp(np.float32(1), byte.clip(max=254) - 127))
    raise FormatError(f"tensor {shown(entry.name)} is {entry.dtype}, but must hold floating-point numbers")


def _cut(entry: Entry, part: int | None) -> Entry:
    """Slice `part` of the leading dimension; nothing is read."""
    if part is None:
        return entry
    size = len(entry.data) // entry.dims[0]
    return Entry(entry.name, entry.dtype, (1, *entry.dims[1:]), entry.data[part * size : (part + 1) * size])


def _f32_records(values: F32) -> Records:
    return np.ascontiguousarray(values).view("V4")


def _bf16_records(values: F32, name: str) -> Records:
    """Of values that bfloat16 holds exactly."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    if np.any(bits & 0xFFFF):
        raise FormatError(f"tensor {shown(name)}: scales are said to be powers of two and are not; mend config.json")
    return (bits >> 16).astype("<u2").view("V2")


# --- plain


def _plain(entry: Entry) -> Stored:
    quant = _FLOATS.get(entry.dtype)
    if quant is None:

        def refuse(part: int | None) -> Records:
            raise UnsupportedError(f"tensor {shown(entry.name)} is {entry.dtype}: Motley reads no weights of that type")

        return Stored(entry.name, entry.dims, None, refuse)
    if entry.dtype.startswith("F8"):

        def widen(part: int | None) -> Records:
            return _bf16_records(floats(_cut(entry, part)), entry.name)

        return Stored(entry.name, entry.dims, quant, widen, sliced=(entry,))

    def read(part: int | None) -> Records:
        found = _cut(entry, part)
        return _array(found, f"V{quant.block_bytes}")

    return Stored(entry.name, entry.dims, quant, read, mapped=entry.data, sliced=(entry,))


# --- FP8 with scales


def _fp8(group: _Group) -> Stored | None:
    entry, name = group.entry, group.name
    if entry.dtype not in ("F8_E4M3", "F8_E5M2") or name.endswith(("_scale", "_scale_inv")):
        return None
    scale = group.beside(f"{name}_scale_inv") or group.beside(f"{name}_scale")
    if scale is None:
        return None
    block = _block_of(group, entry, scale)
    powers = scale.dtype == "F8_E8M0" or group.config.get("scale_fmt") == "ue8m0"
    by_slice = len(scale.dims) == len(entry.dims) > 2

    def read(part: int | None) -> Records:
        values = scaled(floats(_cut(entry, part)), floats(_cut(scale, part if by_slice else None)), block)
        return _bf16_records(values, name) if powers else _f32_records(values)

    note = "" if powers else "FP8 weights with scales that are no powers of two are computed as F32: 4 bytes a weight"
    sources = {"sliced": (entry, scale)} if by_slice else {"sliced": (entry,), "whole": (scale,)}
    return Stored(name, entry.dims, Quant.BF16 if powers else Quant.F32, read, note=note, **sources)


def _block_of(group: _Group, entry: Entry, scale: Entry) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    if prod(scale.dims) == 1 and len(entry.dims) <= 2:
        return entry.dims[0], entry.dims[-1]
    if len(entry.dims) < 2 or len(scale.dims) != len(entry.dims) or scale.dims[:-2] != entry.dims[:-2]:
        raise group.misfit(scale)
    (rows, cols), (down, across) = entry.dims[-2:], scale.dims[-2:]
    if (down, across) in ((rows, 1), (1, 1)):
        return rows // down, cols
    told = group.config.get("weight_block_size") or _weights_config(group.config).get("block_structure") or [128, 128]
    if not (isinstance(told, list) and len(told) == 2 and all(type(n) is int and n > 0 for n in told)):
        raise FormatError(f"config.json: weight_block_size must be two numbers above zero, not {shown(told)}")
    if (down, across) != (-(-rows // told[0]), -(-cols // told[1])):
        raise group.misfit(scale)
    return told[0], told[1]


def scaled(values: F32, scales: F32, block: tuple[int, int]) -> F32:
    """values [..., R, C] times scales [..., ceil(R / block[0]), ceil(C / block[1])], in place; float32 products."""
    if scales.size == 1:
        values *= scales.reshape(())
        return values
    rows, cols = values.shape[-2:]
    for i in range(scales.shape[-2]):
        across = np.repeat(scales[..., i, :], block[1], axis=-1)[..., None, :cols]
        values[..., i * block[0] : min((i + 1) * block[0], rows), :] *= across
    return values


def _weights_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """compressed-tensors: how weights are quantised; UnsupportedError where it differs between groups of layers."""
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping):
        return {}
    found = [g["weights"] for g in groups.values() if isinstance(g, Mapping) and isinstance(g.get("weights"), Mapping)]
    if any(weights != found[0] for weights in found[1:]):
        raise UnsupportedError("config.json: quantization_config has config_groups that differ: Motley reads one kind")
    return found[0] if found else {}


# --- INT4: codes and scales [rows, groups]


def nibbles(words: NDArray[Any], order: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)) -> NDArray[np.uint8]:
    """int32 [..., W] -> 4-bit codes [..., 8 W]; `order[i]` is the place of the i-th lowest nibble among the eight."""
    unsigned = words.astype(np.int32).view(np.uint32)
    shifts = np.array([4 * order.index(place) for place in range(8)], np.uint32)
    return (unsigned[..., None] >> shifts & 15).astype(np.uint8).reshape(*words.shape[:-1], -1)


def _codes(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Codes of 4 or 8 bits, the lowest first."""
    if bits == 4:
        return nibbles(words)
    return np.ascontiguousarray(words.astype("<i4")).view(np.uint8).reshape(*words.shape[:-1], -1)


def _q4_0(codes: NDArray[np.uint8], scales: F32, name: str) -> Records:
    """codes [R, C], 8 standing for zero; scales [R, groups]."""
    rows, cols = codes.shape
    out = np.empty((rows, cols // 32), blocks.Q4_0)
    pairs = codes.reshape(rows, -1, 2, 16)
    out["qs"] = pairs[:, :, 0] | pairs[:, :, 1] << 4
    out["d"] = _half(scales, cols // 32, name)
    return out.view("V18")


def _q8_0(offsets: NDArray[np.int8], scales: F32, name: str) -> Records:
    """offsets [R, C] times scales [R, groups]."""
    rows, cols = offsets.shape
    out = np.empty((rows, cols // 32), blocks.Q8_0)
    out["qs"] = offsets.reshape(rows, -1, 32)
    out["d"] = _half(scales, cols // 32, name)
    return out.view("V34")


def _half(scales: F32, n_blocks: int, name: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        halves = np.repeat(scales, n_blocks // scales.shape[1], axis=1).astype(np.float16)
    if not np.isfinite(halves).all():
        raise FormatError(f"tensor {shown(name)}: a scale is beyond half precision's 65504")
    return halves


def _grouped(offsets: NDArray[Any], scales: F32, group_of: NDArray[Any]) -> Records:
    """offsets [R, C] times scales [R, groups], each column by its own group."""
    return _f32_records(offsets.astype(np.float32) * scales[:, group_of])


def _fits(cols: int, n_groups: int, scale: Entry) -> bool:
    """Whether blocks of 32 columns have one half-precision scale each."""
    return cols % 32 == 0 and cols % n_groups == 0 and (cols // n_groups) % 32 == 0 and scale.dtype in ("F16", "BF16")


def _there(*entries: Entry | None) -> tuple[Entry, ...]:
    return tuple(entry for entry in entries if entry is not None)


def _note(scale: Entry) -> str:
    return HALF_SCALES if scale.dtype == "BF16" else ""


def _pack_quantized(group: _Group) -> Stored:
    base = group.name.removesuffix("_packed")
    packed, scale = group.entry, group.need(f"{base}_scale")
    shape, zero, g_idx = (group.beside(f"{base}_{part}") for part in ("shape", "zero_point", "g_idx"))
    bits = _bits(_weights_config(group.config).get("num_bits", 4), base)
    if len(packed.dims) != 2 or len(scale.dims) != 2 or packed.dtype != "I32" or packed.dims[0] != scale.dims[0]:
        raise group.misfit(scale)
    rows, cols = packed.dims[0], packed.dims[1] * (32 // bits)
    n_groups = scale.dims[1]
    if not n_groups or cols % n_groups or (zero and zero.dims != (-(-rows * bits // 32), n_groups)):
        raise group.misfit(scale, *([zero] if zero else []))
    quant = Quant.F32
    if bits == 4 and not g_idx and _fits(cols, n_groups, scale):
        quant = Quant.Q8_0 if zero else Quant.Q4_0

    def read(part: int | None) -> Records:
        if shape is not None and _integers(shape).reshape(-1).tolist() != [rows, cols]:
            raise group.misfit(scale, shape)
        codes, scales = _codes(_integers(packed), bits), floats(scale)
        if quant is Quant.Q4_0:
            return _q4_0(codes, scales, base)
        middle: Any = 1 << (bits - 1)
        if zero:  # packed along the rows
            zeros = _codes(_integers(zero).T, bits).T[:rows]
            middle = np.repeat(zeros, cols // n_groups, axis=1).astype(np.int16)
        offsets = codes.astype(np.int16) - middle
        if quant is Quant.Q8_0:
            return _q8_0(offsets.astype(np.int8), scales, base)
        group_of = _integers(g_idx) if g_idx else np.arange(cols) // (cols // n_groups)
        _check_groups(group_of, cols, n_groups, base)
        return _grouped(offsets, scales, group_of)

    note = _note(scale) if quant is not Quant.F32 else ""
    return Stored(base, (rows, cols), quant, read, note=note, whole=_there(packed, scale, shape, zero, g_idx))


def _bits(value: Any, name: str) -> int:
    if value not in (4, 8):
        raise UnsupportedError(f"tensor {shown(name)}: codes of {shown(value)} bits: Motley reads 4 and 8")
    return int(value)


def _check_groups(group_of: NDArray[Any], cols: int, n_groups: int, name: str) -> None:
    if group_of.shape != (cols,) or group_of.min() < 0 or group_of.max() >= n_groups:
        raise FormatError(f"tensor {shown(name)}: g_idx does not give each of {cols} columns one of {n_groups} groups")


def _qweight(group: _Group) -> Stored:
    """AWQ and GPTQ share names; AWQ packs the outputs, GPTQ the inputs."""
    stem = group.name.removesuffix("qweight")
    scale, zero = group.need(f"{stem}scales"), group.need(f"{stem}qzeros")
    g_idx = group.beside(f"{stem}g_idx")
    if any(len(e.dims) != 2 for e in (group.entry, scale, zero)) or not scale.dims[0]:
        raise group.misfit(scale, zero)
    method = str(group.config.get("quant_method", ""))
    outputs = scale.dims[1]
    if method == "awq" or (not method and group.entry.dims[1] * 8 == outputs):
        return _awq(group, f"{stem}weight", scale, zero)
    return _gptq(group, f"{stem}weight", scale, zero, g_idx)


AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def _awq(group: _Group, name: str, scale: Entry, zero: Entry) -> Stored:
    """qweight [in, out / 8], qzeros [groups, out / 8], scales [groups, out]; value = (q - zero) * scale."""
    inputs, n_groups, outputs = group.entry.dims[0], *scale.dims
    version = str(group.config.get("version", "gemm")).lower()
    if version != "gemm" or group.config.get("bits", 4) != 4:
        raise UnsupportedError(f"tensor {shown(name)}: AWQ's {version} layout is not supported, only 4-bit gemm")
    if group.entry.dims[1] * 8 != outputs or zero.dims != (n_groups, outputs // 8) or inputs % n_groups:
        raise group.misfit(scale, zero)
    quant = Quant.Q8_0 if _fits(inputs, n_groups, scale) else Quant.F32

    def read(part: int | None) -> Records:
        codes = nibbles(_integers(group.entry), AWQ_ORDER).T.astype(np.int8)  # [out, in]
        zeros = nibbles(_integers(zero), AWQ_ORDER).T.astype(np.int8)  # [out, groups]
        return _offsets(codes, zeros, floats(scale).T, quant, name)

    note = _note(scale) if quant is not Quant.F32 else ""
    return Stored(name, (outputs, inputs), quant, read, note=note, whole=(group.entry, scale, zero))


def _offsets(codes: NDArray[Any], zeros: NDArray[Any], scales: F32, quant: Quant, name: str) -> Records:
    """codes [R, C] less zeros [R, groups], times scales [R, groups]."""
    wide = codes.shape[1] // zeros.shape[1]
    offsets = codes - np.repeat(zeros, wide, axis=1)
    if quant is Quant.Q8_0:
        return _q8_0(offsets, scales, name)
    return _grouped(offsets, scales, np.arange(codes.shape[1]) // wide)


def _gptq(group: _Group, name: str, scale: Entry, zero: Entry, g_idx: Entry | None) -> Stored:
    """qweight [in * bits / 32, out], qzeros [groups, out * bits / 32], scales [groups, out], g_idx [in];
    value = (q - zero) * scale, and zeros are stored less one unless `checkpoint_format` is gptq_v2."""
    bits = _bits(group.config.get("bits", 4), name)
    (n_groups, outputs), inputs = scale.dims, group.entry.dims[0] * (32 // bits)
    words = outputs * bits // 32
    if group.entry.dims[1] != outputs or zero.dims != (n_groups, words) or inputs % n_groups:
        raise group.misfit(scale, zero)
    ordered = g_idx is None or group.config.get("desc_act") is False  # whether columns follow their groups
    less_one = group.config.get("checkpoint_format", "gptq") != "gptq_v2"
    quant = Quant.F32
    if bits == 4 and ordered and _fits(inputs, n_groups, scale):
        quant = Quant.Q4_0 if group.config.get("sym") is True else Quant.Q8_0
    by_rows = np.arange(inputs) // (inputs // n_groups)

    def read(part: int | None) -> Records:
        codes = _codes(np.ascontiguousarray(_integers(group.entry).T), bits).astype(np.int16)  # [out, in]
        zeros = _codes(_integers(zero), bits).T.astype(np.int16) + less_one  # [out, groups]
        scales = np.ascontiguousarray(floats(scale).T)
        group_of = by_rows if g_idx is None else _integers(g_idx)
        _check_groups(group_of, inputs, n_groups, name)
        if quant is Quant.F32:
            return _grouped(codes - zeros[:, group_of], scales, group_of)
        if not np.array_equal(group_of, by_rows):
            raise FormatError(f"tensor {shown(name)}: config.json says desc_act false, but g_idx has another order")
        if quant is Quant.Q8_0:
            return _offsets(codes.astype(np.int8), zeros.astype(np.int8), scales, quant, name)
        if np.any(zeros != 8):
            raise FormatError(f"tensor {shown(name)}: config.json says sym true, but zero points are not all 8")
        return _q4_0(codes.astype(np.uint8), scales, name)

    note = _note(scale) if quant is not Quant.F32 else ""
    return Stored(name, (outputs, inputs), quant, read, note=note, whole=_there(group.entry, scale, zero, g_idx))


# --- MXFP4


def _mxfp4(group: _Group) -> Stored | None:
    """blocks [E, rows, G, 16], scales [E, rows, G] -> [E, 32 G, rows], as transformers holds gpt-oss's experts. A byte
    has two neighbours, the even one low; in GGUF it has elements i and i + 16."""
    base = group.name.removesuffix("_blocks")
    packed, scale = group.entry, group.beside(f"{base}_scales")
    if scale is None:
        return None
    if packed.dtype != "U8" or scale.dtype != "U8" or packed.dims != (*scale.dims, 16) or len(scale.dims) != 3:
        raise group.misfit(scale)
    n_experts, rows, n_blocks = scale.dims

    def read(part: int | None) -> Records:
        pairs = _integers(_cut(packed, part))  # [E, rows, G, 16]
        out = np.empty(pairs.shape[:3], blocks.MXFP4)
        out["e"] = _integers(_cut(scale, part))
        low, high = pairs & 15, pairs >> 4  # elements 0, 2, ... 30 and 1, 3, ... 31
        out["qs"][..., 0::2] = low[..., :8] | low[..., 8:] << 4
        out["qs"][..., 1::2] = high[..., :8] | high[..., 8:] << 4
        return out.view("V17").swapaxes(1, 2)

    return Stored(base, (n_experts, n_blocks * 32, rows), Quant.MXFP4, read, axis=1, sliced=(packed, scale))


def _layouts() -> Iterator[tuple[str, Callable[[_Group], Stored | None]]]:
    yield "_packed", _pack_quantized
    yield ".qweight", _qweight
    yield "_blocks", _mxfp4
    yield "", _fp8  # any name


_LAYOUTS = dict(_layouts())
