"""ModelShape: what a model costs, without its weights.

Owns names, dimensions, stored precision and role of every tensor, and the costs that follow from them: bytes,
active bytes and FLOPs per token, KV-cache bytes per token. Tensor names are GGUF's. Reads no weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from math import prod

from motley.shape.quant import Quant


class Role(StrEnum):
    """What a tensor is for; placement and cost depend on it."""

    EMBED = "embed"
    ATTENTION = "attention"
    NORM = "norm"
    ROUTER = "router"
    EXPERT = "expert"
    DENSE_FFN = "dense_ffn"
    SHARED_EXPERT = "shared_expert"
    HEAD = "head"


@dataclass(frozen=True)
class TensorShape:
    name: str
    dims: tuple[int, ...]  # row-major, as numpy has them: [rows, cols], experts [E, rows, cols]
    quant: Quant
    role: Role
    layer: int | None = None  # None: outside the layers

    @property
    def n_params(self) -> int:
        return prod(self.dims)

    @property
    def n_bytes(self) -> int:
        return self.quant.n_bytes(self.n_params)


@dataclass(frozen=True)
class ModelShape:
    """A model's exact cost. B sequences, D model width, H heads, K key/value heads, N head width, E experts,
    A active experts, F expert width, V vocabulary."""

    name: str
    architecture: str  # GGUF's general.architecture
    n_layers: int
    d_model: int  # D
    n_heads: int  # H
    n_kv_heads: int  # K
    head_dim: int  # N
    n_experts: int  # E
    n_experts_used: int  # A
    d_expert: int  # F
    vocab_size: int  # V
    context: int  # longest trained context, tokens
    tensors: tuple[TensorShape, ...]
    attrs: Mapping[str, object] = field(default_factory=dict)  # GGUF metadata the family needs (rope, eps, ...)
    source: str = ""  # where the dimensions come from

    @cached_property
    def n_params(self) -> int:
        return sum(t.n_params for t in self.tensors)

    @cached_property
    def n_bytes(self) -> int:
        return sum(t.n_bytes for t in self.tensors)
