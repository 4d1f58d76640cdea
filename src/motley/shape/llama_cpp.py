"""The mixes of llama.cpp's quantiser: for each tensor, the type that `llama-quantize` chooses.

Restated from `src/llama-quant.cpp` (facts, no code), as of 2026: the base type of the mix; more bits for values, the
feed-forward's way down and the output projection, by layer; the head apart; types that do not fill rows replaced by the
nearest that do. With an importance matrix where the mix is usually made with one (`_IMATRIX`).
"""

from motley.shape.place import Facts, Place
from motley.shape.quant import Precision, Quant
from motley.shape.role import Role

_BASE: dict[str, Precision] = {
    "q2_k": Quant.Q2_K,
    "q2_k_s": Quant.Q2_K,
    "q3_k_s": Quant.Q3_K,
    "q3_k_m": Quant.Q3_K,
    "q3_k_l": Quant.Q3_K,
    "q4_k_s": Quant.Q4_K,
    "q4_k_m": Quant.Q4_K,
    "q5_k_s": Quant.Q5_K,
    "q5_k_m": Quant.Q5_K,
    "q4_1": Quant.Q4_1,
    "q5_0": Quant.Q5_0,
    "q5_1": Quant.Q5_1,
    "iq1_s": Quant.IQ1_S,
    "iq1_m": Quant.IQ1_M,
    "iq2_xxs": Quant.IQ2_XXS,
    "iq2_xs": Quant.IQ2_XS,
    "iq2_s": Quant.IQ2_XS,
    "iq2_m": Quant.IQ2_S,
    "iq3_xxs": Quant.IQ3_XXS,
    "iq3_xs": Quant.IQ3_S,
    "iq3_s": Quant.IQ3_S,
    "iq3_m": Quant.IQ3_S,
    "iq4_nl": Quant.IQ4_NL,
    "iq4_xs": Quant.IQ4_XS,
}
MIXES = tuple(name for name in _BASE if name != "q4_k_m")  # that one is Motley's too, where it runs the family

KEPT = ("ssm_conv1d.weight", "shortconv.conv.weight", "per_layer_model_proj.weight")  # never quantised
_TINY = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m")
_HEAD_Q5 = (*_TINY, "iq3_xxs")
_EMBED: dict[str, Precision] = {
    "iq1_s": Quant.Q2_K,
    "iq1_m": Quant.Q2_K,
    "iq2_xxs": Quant.Q2_K,
    "iq2_xs": Quant.Q2_K,
    "iq2_s": Quant.IQ3_S,
    "iq2_m": Quant.IQ3_S,
    "iq3_xxs": Quant.IQ3_S,
}
_OUTPUT: dict[str, Precision] = {
    "q2_k": Quant.Q3_K,
    "iq3_xxs": Quant.IQ3_S,
    "iq3_m": Quant.Q4_K,
    "q3_k_m": Quant.Q4_K,
    "q3_k_l": Quant.Q5_K,
}
_VALUES = ("attn_v", "attn_qkv", "attn_kv_b")


def precision(name: str, place: Place, facts: Facts) -> Precision:
    """Of a matrix; vectors are F32."""
    if place.name.endswith(KEPT):
        return Quant.F32
    return fitting(target(name, place, facts), place.dims[-1])


def target(name: str, place: Place, facts: Facts) -> Precision:
    """What the mix wants, whether rows fill its blocks or not."""
    base = _BASE[name]
    if place.role is Role.HEAD or (place.name == "token_embd.weight" and facts.tied):
        if place.dims[-1] % base.block:
            return Quant.Q8_0
        return Quant.Q5_K if name in _HEAD_Q5 else Quant.Q6_K
    if place.role is Role.EMBED:
        return _EMBED.get(name, base)
    if place.layer is None:
        return base
    if name in _TINY:
        return _tiny(name, place, facts) or base
    part = place.part
    if part in _VALUES:
        return _values(name, place.layer, facts) or base
    if part.startswith("ffn_down"):
        return _down(name, place.layer, facts) or base
    if part == "attn_output":
        return _output(name, facts) or base
    if part == "attn_k" and facts.n_experts == 8:
        return Quant.Q8_0
    if part in ("attn_k", "attn_q"):
        return {"iq3_xs": Quant.IQ3_XXS, "iq3_xxs": Quant.IQ2_S}.get(name, base)
    if part.startswith(("ffn_gate", "ffn_up")) and name == "iq3_xs":
        n = facts.n_layers
        return Quant.IQ3_XXS if n // 8 <= place.layer < 7 * n // 8 else base
    return base


def _tiny(name: str, place: Place, facts: Facts) -> Precision | None:
    """One and two bits."""
    larger = name in ("iq2_s", "iq2_m")
    layer, part = place.layer or 0, place.part
    if part in _VALUES:
        if facts.group >= 4 or facts.n_experts >= 4:
            return Quant.Q4_K
        return Quant.IQ3_S if larger else Quant.Q2_K
    if part == "attn_k" and facts.n_experts == 8:
        return Quant.Q4_K
    if part.startswith("ffn_down") and layer < facts.n_layers // 8:
        return Quant.IQ3_S if larger else Quant.Q2_K
    if part == "attn_output":
        if facts.n_experts == 8:
            return Quant.Q5_K
        return Quant.IQ2_XXS if name in ("iq1_s", "iq1_m") else Quant.IQ3_S if larger else None
    return None


def _values(name: str, layer: int, facts: Facts) -> Precision | None:
    if facts.n_experts == 8:
        return Quant.Q8_0
    nth, count = facts.value_order.get(layer, layer), len(facts.value_order) or facts.n_layers
    grouped = facts.group >= 4
    found: Precision | None = None
    if name == "q2_k":
        found = Quant.Q4_K if grouped else Quant.Q3_K
    elif (name in ("q2_k_s", "iq3_xxs", "iq3_xs", "iq3_s") and grouped) or name == "iq3_m":
        found = Quant.Q4_K
    elif name == "q3_k_m":
        found = Quant.Q5_K if nth < 2 else Quant.Q4_K
    elif name == "q3_k_l" or (name in ("iq4_nl", "iq4_xs") and grouped):
        found = Quant.Q5_K
    elif name in ("q4_k_m", "q5_k_m") and gets_more_bits(nth, count):
        found = Quant.Q6_K
    elif name == "q4_k_s" and nth < 4:
        found = Quant.Q5_K
    if facts.is_70b and (found or _BASE[name]) in (Quant.Q3_K, Quant.Q4_K):
        return Quant.Q5_K
    return found


def _down(name: str, layer: int, facts: Facts) -> Precision | None:
    n = facts.n_layers
    early = layer < n // 8
    if name == "q2_k":
        return Quant.Q3_K
    if name == "q2_k_s" and early:
        return Quant.Q4_K
    if name == "q3_k_m":
        return Quant.Q5_K if layer < n // 16 else Quant.Q4_K
    if name == "q3_k_l":
        return Quant.Q5_K
    if name == "iq3_m" and (early or (facts.n_experts == 8 and gets_more_bits(layer, n))):
        return Quant.Q4_K
    if name in ("q4_k_m", "q5_k_m") and gets_more_bits(layer, n):
        return Quant.Q6_K
    if name == "q4_k_s" and early:
        return Quant.Q5_K
    return None


def _output(name: str, facts: Facts) -> Precision | None:
    if facts.n_experts == 8:
        lifted = name.startswith(("iq3", "iq4")) or name in ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m")
        return Quant.Q5_K if lifted else None
    return _OUTPUT.get(name)


def gets_more_bits(layer: int, n_layers: int) -> bool:
    """The first and the last eighth of the layers, and every third of those between."""
    first = n_layers // 8
    return layer < first or layer >= 7 * n_layers // 8 or (layer - first) % 3 == 2


_SMALLER_BLOCKS: dict[Precision, Precision] = {
    Quant.Q2_K: Quant.IQ4_NL,  # Q4_0 since 2026: the same bytes
    Quant.Q3_K: Quant.IQ4_NL,
    Quant.Q4_K: Quant.Q5_0,
    Quant.Q5_K: Quant.Q5_1,
    Quant.Q6_K: Quant.Q8_0,
}


def fitting(precision: Precision, cols: int) -> Precision:
    """`precision`, or what llama.cpp takes where rows of `cols` do not fill its blocks."""
    if cols % precision.block == 0:
        return precision
    smaller = _SMALLER_BLOCKS.get(precision, Quant.IQ4_NL)
    return smaller if cols % smaller.block == 0 else Quant.F16
