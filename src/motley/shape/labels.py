"""Quantisation labels as people publish them, turned into the name of a mix.

A label names a recipe (`Q4_K_M`), a method (`AWQ`), or only a width (`INT4`); brackets, repackers' prefixes and sizes
around it say nothing about precision. `native` is the precision that a model was released in, which its catalogue file
knows. What names no precision (`provider default`), or one that nobody described (`2.70bpw (Byteshape)`), is None:
such a row cannot be counted.
"""

import re

from motley.shape.mix import is_mix

NATIVE = "native"
# First match wins, on the label in lower case without what stands in brackets.
_RULES = (
    (r"hybrid|bpw|custom|mixed|avq|_p\b|fp4/fp8", None),
    (r"\bnative\b|as published checkpoint|as released", NATIVE),
    (r"mxfp4-q(\d)\b", "mxfp4+mlx{}"),  # mlx-community's gpt-oss
    (r"(?:ud[-_ ])?(q[2-8]_k_xl)", "ud-{}"),
    (r"ud[-_ ](q3_k_[sm])", "ud-{}"),
    (r"(i?q\d_(?:k_[sml]|xxs|xs|nl|[01sm]))(?![a-z0-9])", "{}"),
    (r"\b(q[2356]_k)\b", "{}"),
    (r"\bq4_?k\b|\bq4\b", "q4_k_m"),
    (r"\bq40\b", "q4_0"),
    (r"\bq80?\b", "q8_0"),
    (r"mxfp4\s*\+\s*(?:b?f16|fp16)", "mxfp4+bf16"),
    (r"mxfp4", "mxfp4"),
    (r"mlx\D{0,2}(\d)\s*-?\s*bit", "mlx{}"),
    (r"\b(\d)-?bit\b", "mlx{}"),
    (r"nvfp4|\bfp4\b", "nvfp4"),
    (r"int4\s*\+\s*fp8", "int4_g128+fp8"),
    (r"int8|w8a8", "int8"),
    (r"awq|gptq|auto-?round|int4|w4a16", "int4"),
    (r"fp8", "fp8"),
    (r"\bbf16\b", "bf16"),
    (r"\bf(?:p)?16\b", "f16"),
    (r"\bf(?:p)?32\b", "f32"),
)
# Labels that say more than one precision, as they are.
_WHOLE = {
    "fp8 native": "fp8",
    "int4+fp8 hybrid": "int4_g128+fp8",
    "iq4_xs experts + q5_k attn": "iq4_xs+q5_k",
    "iq4_xs 4.19bpw": "iq4_xs",
    "iq3_s ud": "iq3_s",
    "q2 routed experts": "ds4-q2",
    "q4 routed experts": "ds4-q4",
    "nvfp4-fast mixed (marlin w4a16)": "nvfp4",
}


def mix_named(label: str) -> str | None:
    """`Q4_K_M (ollama default)` -> `q4_k_m`; None where the label says no precision that Motley can count."""
    name = label.strip().lower()
    for spelling in (name, name.replace("-", "_")):
        if is_mix(spelling):
            return spelling
    if name in _WHOLE:
        return _WHOLE[name]
    plain = re.sub(r"\([^)]*\)", "", name)
    for pattern, found in _RULES:
        if match := re.search(pattern, plain):
            mix = found and found.format(*match.groups())
            return mix if mix and (mix == NATIVE or is_mix(mix)) else None
    return None


def mix_of(label: str, model: str) -> str | None:
    """What the label says, or else what the model's file or repository tells by its name: `Qwen3-8B-Q4_K_M.gguf` ->
    `q4_k_m`, `phi-4-4bit` -> `mlx4`."""
    told = mix_named(model.strip().rsplit("/", 1)[-1])
    return mix_named(label) or (None if told == NATIVE else told)
