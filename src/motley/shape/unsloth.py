"""Unsloth's dynamic mixes (`UD-Q4_K_XL`), approximately.

Every such file has its own choice of precision per tensor, and no rule is published. These were read off what is:
counts of tensors by type and sizes that llama.cpp prints at load (Qwen3-30B-A3B UD-Q4_K_XL: 290 Q4_K, 37 Q5_K, 11 Q6_K,
16.49 GiB; Qwen3.6-27B UD-Q4_K_XL: 225 Q4_K, 70 Q5_K, 66 Q6_K, 49 Q8_0, 16.67 GiB), and file sizes of a dozen others.
Files of 2026, by architecture, keep attention and shared experts at eight bits and lift every expert's way down; older
ones lift some layers. Totals come out within 3 % of most files (a test holds them), single tensors may not.
"""

from motley.shape import llama_cpp
from motley.shape.place import Facts, Place
from motley.shape.quant import Precision, Quant
from motley.shape.role import Role

_BASE: dict[str, Precision] = {
    "ud-q2_k_xl": Quant.Q2_K,
    "ud-q3_k_s": Quant.IQ3_XXS,
    "ud-q3_k_m": Quant.Q3_K,
    "ud-q3_k_xl": Quant.Q3_K,
    "ud-q4_k_xl": Quant.Q4_K,
    "ud-q5_k_xl": Quant.Q5_K,
    "ud-q6_k_xl": Quant.Q6_K,
    "ud-q8_k_xl": Quant.Q8_0,
}
MIXES = tuple(_BASE)
_STEPS: tuple[Precision, ...] = (Quant.Q2_K, Quant.Q3_K, Quant.Q4_K, Quant.Q5_K, Quant.Q6_K, Quant.Q8_0)
_NEWER = frozenset({"qwen35", "qwen35moe", "qwen3next", "gemma4", "nemotron_h_moe", "glm-dsa", "deepseek4", "step35"})
_ALWAYS = (Role.ATTENTION, Role.SHARED_EXPERT)


def precision(name: str, place: Place, facts: Facts) -> Precision:
    """Of a matrix; vectors are F32."""
    if place.name.endswith(llama_cpp.KEPT):
        return Quant.F32
    base = _BASE[name]
    if base is Quant.Q8_0:
        found = _eight(place, facts)
    elif place.role in (Role.HEAD, Role.EMBED):
        found = _ends(base, place, facts)
    elif facts.n_experts:
        found = _sparse_newer(base, place) if facts.architecture in _NEWER else _sparse(base, place, facts)
    else:
        found = _dense_newer(base, place) if facts.architecture in _NEWER else _dense(base, place, facts)
    return llama_cpp.fitting(found, place.dims[-1])


def _step(base: Precision, by: int) -> Precision:
    """`by` sizes larger, eight bits at most."""
    at = _STEPS.index(base) if base in _STEPS else 0
    return _STEPS[min(at + by, len(_STEPS) - 1)]


def _ends(base: Precision, place: Place, facts: Facts) -> Precision:
    if place.role is Role.HEAD or facts.tied:
        return Quant.Q8_0 if base is Quant.Q6_K else Quant.Q6_K
    return Quant.Q4_K if base not in (Quant.Q5_K, Quant.Q6_K) else base


def _eight(place: Place, facts: Facts) -> Precision:
    """Where every fourth layer attends to all, the small mixers stay in 16 bits; elsewhere the table does."""
    if facts.architecture.startswith("qwen3"):
        return Quant.BF16 if place.role in _ALWAYS else Quant.Q8_0
    return Quant.BF16 if place.role in (Role.EMBED, Role.HEAD) else Quant.Q8_0


def _sparse_newer(base: Precision, place: Place) -> Precision:
    if place.role is not Role.EXPERT:
        return Quant.Q8_0
    return _step(base, 1) if "ffn_down" in place.part else base


def _sparse(base: Precision, place: Place, facts: Facts) -> Precision:
    if place.role is not Role.EXPERT:
        return _step(base, 1)
    layer, n = place.layer or 0, facts.n_layers
    if "ffn_down" not in place.part:
        return base
    if base is Quant.Q2_K:
        return _step(base, 1)
    if base is Quant.Q6_K:
        return Quant.Q8_0 if llama_cpp.gets_more_bits(layer, n) else base
    return _step(base, 2) if layer < n // 8 else _step(base, 1) if layer >= n - n // 16 else base


def _dense_newer(base: Precision, place: Place) -> Precision:
    lifted = {"ssm_out": 3, "attn_qkv": 2, "attn_v": 2, "attn_k": 1, "ffn_down": 1}
    return _step(base, lifted.get(place.part, 0))


def _dense(base: Precision, place: Place, facts: Facts) -> Precision:
    alike = {Quant.Q2_K: "q2_k", Quant.Q3_K: "q3_k_m", Quant.Q4_K: "q4_k_m", Quant.Q5_K: "q5_k_m"}
    if base not in alike:
        return _step(base, 1) if place.role is Role.ATTENTION else base
    return llama_cpp.target(alike[base], place, facts)
