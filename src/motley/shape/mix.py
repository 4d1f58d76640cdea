"""Mixes: which precision each tensor of a model gets under a name such as `q4_k` or `q4_k_m`.

Norms and the router stay F32, as llama.cpp leaves them. The head of a 4- to 6-bit model is Q6_K, as llama.cpp's
quantiser chooses it; everything else has the mix's base precision. `mxfp4` is the experts' precision only: all other
matrices are Q8_0, as in llama.cpp's MXFP4_MOE and the published gpt-oss files. Source of the rules: llama.cpp,
`src/llama-quant.cpp` (facts restated here, no code). Where this differs, it says so.
"""

from dataclasses import dataclass

from motley.errors import UnsupportedError
from motley.shape.quant import Quant
from motley.shape.role import Role

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

_SMALL = (Quant.Q4_0, Quant.Q4_K, Quant.Q5_K, Quant.Q6_K)  # a head below six bits costs quality


@dataclass(frozen=True)
class Mix:
    """`q4_k` is uniform: between Q4_K_S, which lifts some early tensors to Q5_K, and `--pure`."""

    name: str
    n_layers: int
    n_experts: int

    def __post_init__(self) -> None:
        if self.name not in _BASE:
            raise UnsupportedError(f"unknown quantisation {self.name!r}: Motley knows {', '.join(MIXES)}")

    def quant(self, name: str, role: Role, layer: int | None, cols: int, tied: bool = False) -> Quant:
        """Precision of tensor `name`, whose rows have `cols` elements. `tied`: the embedding serves as head."""
        if role in (Role.NORM, Role.ROUTER):
            return Quant.F32
        base = _BASE[self.name]
        if base is Quant.MXFP4 and role is not Role.EXPERT:
            base = Quant.Q8_0
        elif base in _SMALL and (role is Role.HEAD or (role is Role.EMBED and tied)):
            base = Quant.Q6_K
        elif self.name == "q4_k_m" and layer is not None:
            base = self._q4_k_m(name, layer)
        return fitting(base, cols)

    def _q4_k_m(self, name: str, layer: int) -> Quant:
        if self.n_experts == 8 and ".attn_" in name:  # Mixtral: small attention, eight experts hang on it
            part = name.split(".")[2]
            return {"attn_v": Quant.Q8_0, "attn_k": Quant.Q8_0, "attn_output": Quant.Q5_K}.get(part, Quant.Q4_K)
        if (".attn_v." in name or ".ffn_down" in name) and _gets_more_bits(layer, self.n_layers):
            return Quant.Q6_K
        return Quant.Q4_K


def _gets_more_bits(layer: int, n_layers: int) -> bool:
    """The first and the last eighth of the layers, and every third of those between."""
    first = n_layers // 8
    return layer < first or layer >= 7 * n_layers // 8 or (layer - first) % 3 == 2


def fitting(quant: Quant, cols: int) -> Quant:
    """`quant`, or the next larger that fills whole blocks with rows of `cols`: Q8_0, then F16. llama.cpp falls back
    to Q5_0 and Q5_1 for Q4_K and Q5_K, which Motley does not have."""
    for candidate in (quant, Quant.Q8_0):
        if cols % candidate.block == 0:
            return candidate
    return Quant.F16
