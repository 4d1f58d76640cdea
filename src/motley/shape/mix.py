"""Mixes: which precision each tensor of a model gets under a name such as `q4_k` or `q4_k_m`.

Two kinds. Motley's own (`MIXES`) use only what Motley reads and writes: norms and the router stay F32, as llama.cpp
leaves them; the head of a 4- to 6-bit model is Q6_K; everything else has the base precision; rows that do not fill
blocks fall back to Q8_0. `mxfp4` is the experts' precision only, all other matrices are Q8_0, as in llama.cpp's
MXFP4_MOE and the published gpt-oss files. All others state files as others ship them: `llama_cpp`, `unsloth` and
`shipped` have their rules. Their bytes are counted; Motley cannot make such files.
"""

from dataclasses import dataclass

from motley.errors import UnsupportedError
from motley.shape import llama_cpp, shipped, unsloth
from motley.shape.place import Facts, Place
from motley.shape.quant import Precision, Quant
from motley.shape.role import Role

__all__ = ["ALL_MIXES", "MIXES", "Facts", "Mix", "Place"]

_BASE = {
    "f32": Quant.F32,
    "f16": Quant.F16,
    "bf16": Quant.BF16,
    "q8_0": Quant.Q8_0,
    "q4_0": Quant.Q4_0,
    "q4_k": Quant.Q4_K,
    "q4_k_m": Quant.Q4_K,
    "q5_k": Quant.Q5_K,
    "q6_k": Quant.Q6_K,
    "mxfp4": Quant.MXFP4,
}
MIXES = tuple(_BASE)
ALL_MIXES = (*MIXES, *llama_cpp.MIXES, *unsloth.MIXES, *shipped.MIXES)

_SMALL = (Quant.Q4_0, Quant.Q4_K, Quant.Q5_K, Quant.Q6_K)  # a head below six bits costs quality


@dataclass(frozen=True)
class Mix:
    """`q4_k` is uniform: between Q4_K_S, which lifts some early tensors to Q5_K, and `--pure`."""

    name: str
    facts: Facts

    def __post_init__(self) -> None:
        if not is_mix(self.name):
            raise unknown_mix(self.name)

    def precision(self, place: Place) -> Precision:
        vector = len(place.dims) == 1 or place.name.endswith(".bias") or place.role is Role.NORM
        if self.name in shipped.MIXES:
            return Quant.BF16 if vector else shipped.precision(self.name, place)
        if both := shipped.pair(self.name):
            return Quant.BF16 if vector else shipped.pair_precision(both, place, self.facts)
        if vector or place.role is Role.ROUTER:
            return Quant.F32
        if place.role is Role.EXPERT and self._keeps_mxfp4:
            return Quant.MXFP4
        if self.name in unsloth.MIXES:
            return unsloth.precision(self.name, place, self.facts)
        if self.name in llama_cpp.MIXES or (self.name == "q4_k_m" and not self.facts.runs):
            return llama_cpp.precision(self.name, place, self.facts)
        return fitting(self._own(place), place.dims[-1])

    @property
    def _keeps_mxfp4(self) -> bool:
        """GGUF files of gpt-oss have its experts as they were released, whatever the rest is quantised to (model card
        of huggingface.co/bartowski/openai_gpt-oss-20b-GGUF)."""
        return self.facts.architecture == "gpt-oss" and self.name not in ("f32", "bf16")

    def _own(self, place: Place) -> Quant:
        base = _BASE[self.name]
        if place.name.endswith(llama_cpp.KEPT):
            return Quant.F32
        if base is Quant.MXFP4 and place.role is not Role.EXPERT:
            return Quant.Q8_0
        if base in _SMALL and (place.role is Role.HEAD or (place.role is Role.EMBED and self.facts.tied)):
            return Quant.Q6_K
        if self.name == "q4_k_m":
            found = llama_cpp.target("q4_k_m", place, self.facts)
            assert isinstance(found, Quant)
            return found
        return base


def is_mix(name: str) -> bool:
    """Also a pair, `mxfp4+bf16`: experts and the rest."""
    return name in ALL_MIXES or shipped.pair(name) is not None


def unknown_mix(name: str) -> UnsupportedError:
    from difflib import get_close_matches  # only for the message

    near = get_close_matches(name[:80].lower().replace("-", "_"), ALL_MIXES, n=3, cutoff=0.5)
    known = " or ".join(near) if near else "q4_k, q8_0 or mxfp4"
    return UnsupportedError(
        f"unknown quantisation {name[:80]!r}: did you mean {known}? `motley plan --quants` lists them, pairs aside"
    )


def fitting(quant: Quant, cols: int) -> Quant:
    """`quant`, or the next larger that Motley has and that fills whole blocks with rows of `cols`: Q8_0, then F16."""
    for candidate in (quant, Quant.Q8_0):
        if cols % candidate.block == 0:
            return candidate
    return Quant.F16
