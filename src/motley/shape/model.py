"""ModelShape: what a model costs, without its weights.

Owns names, dimensions, stored precision and role of every tensor, and the costs that follow from them: bytes,
active bytes and FLOPs per token, KV-cache bytes per token. Tensor names are GGUF's. Reads no weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

from motley.errors import UsageError
from motley.shape.catalogue import lookup
from motley.shape.dims import Dims
from motley.shape.hf import dims_from_hf
from motley.shape.role import Role
from motley.shape.tensors import TensorShape, tensors_of

__all__ = ["ModelShape", "Role", "TensorShape"]


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
    attrs: Mapping[str, object] = field(default_factory=dict)  # every `<architecture>.*` GGUF key the family needs
    source: str = ""  # where the dimensions come from

    # -- where shapes come from
    @classmethod
    def named(cls, name: str, quant: str = "q4_k") -> Self:
        """From the catalogue. Raises UsageError (unknown name: nearest ones) or UnsupportedError (unknown mix)."""
        return cls.from_dims(lookup(name), quant)

    @classmethod
    def from_hf_config(cls, config: Mapping[str, object], quant: str = "q4_k") -> Self:
        """From a Hugging Face `config.json`. Raises UnsupportedError for families and features Motley lacks."""
        return cls.from_dims(dims_from_hf(config), quant)

    @classmethod
    def from_dims(cls, dims: Dims, quant: str) -> Self:
        shared = {key: getattr(dims, key) for key in vars(dims).keys() & cls.__dataclass_fields__.keys()}
        return cls(**shared, tensors=tensors_of(dims, quant), attrs=dims.metadata())

    def with_layers(self, n: int) -> Self:
        """The same model cut to its first `n` layers; embedding and head stay whole."""
        if not 1 <= n <= self.n_layers:
            raise UsageError(f"{self.name} has {self.n_layers} layers: cannot cut it to {n}")
        if n == self.n_layers:
            return self
        return replace(
            self,
            name=f"{self.name}-{n}l",
            n_layers=n,
            tensors=tuple(t for t in self.tensors if t.layer is None or t.layer < n),
            attrs={**self.attrs, f"{self.architecture}.block_count": n},
        )

    # -- parameters
    @cached_property
    def n_params(self) -> int:
        return sum(t.n_params for t in self.tensors)

    @cached_property
    def n_active_params(self) -> int:
        """As model cards count: everything but the experts not chosen; the embedding counts whole."""
        return sum(self._active(t, t.n_params) for t in self.tensors)

    # -- bytes at rest
    @cached_property
    def n_bytes(self) -> int:
        return sum(t.n_bytes for t in self.tensors)

    @cached_property
    def embed_bytes(self) -> int:
        return self._sum(None, Role.EMBED)

    @cached_property
    def head_bytes(self) -> int:
        """Final norm and head, as a step reads them: a tied head reads the embedding table."""
        head = self._sum(None, Role.HEAD) or self.embed_bytes
        return head + self._sum(None, Role.NORM)

    @property
    def has_tied_head(self) -> bool:
        return not any(t.role is Role.HEAD for t in self.tensors)

    def role_bytes(self, layer: int, role: Role) -> int:
        """Bytes of `layer`'s tensors with that role; experts: all of them."""
        return self._by_layer[layer].get(role, 0)

    def home_bytes(self, layer: int) -> int:
        """What a layer's home device holds: all but the routed experts."""
        return sum(n for role, n in self._by_layer[layer].items() if role is not Role.EXPERT)

    def expert_bytes(self, layer: int) -> int:
        """One routed expert of that layer: gate, up and down."""
        return self.role_bytes(layer, Role.EXPERT) // max(self.n_experts, 1)

    # -- bytes and work of a step
    def distinct_experts(self, batch: int = 1) -> float:
        """How many experts of a layer `batch` tokens touch together, if every choice is equally likely:
        E (1 - (1 - A/E)^B)."""
        if self.n_experts == 0:
            return 0.0
        return float(self.n_experts * (1 - (1 - self.n_experts_used / self.n_experts) ** batch))

    def step_bytes(self, batch: int = 1, distinct: float | None = None) -> float:
        """Weight bytes that one decode step of `batch` sequences reads; `distinct` experts a layer (default: by
        the uniform prior). KV cache not included. Of the embedding, one row a sequence."""
        if distinct is None:
            distinct = self.distinct_experts(batch)
        rows = batch * self.embed_bytes / self.vocab_size
        layers = sum(self.home_bytes(i) + distinct * self.expert_bytes(i) for i in range(self.n_layers))
        return rows + layers + self.head_bytes

    def active_bytes_per_token(self, batch: int = 1, distinct: float | None = None) -> float:
        """`step_bytes` shared among the batch's tokens."""
        return self.step_bytes(batch, distinct) / batch

    def flops_per_token(self, depth: int = 0) -> int:
        """Multiply-adds counted as 2: every active matrix once (the embedding is a lookup), and attention over
        `depth` earlier tokens and itself."""
        matrices = sum(self._active(t, t.n_params) for t in self.tensors if t.role not in (Role.EMBED, Role.NORM))
        if self.has_tied_head:
            matrices += self.vocab_size * self.d_model
        attention = 2 * self.n_layers * self.n_heads * self.head_dim * (depth + 1)  # q.k and p.v
        return 2 * (matrices + attention)

    def kv_bytes_per_token(self, element_bytes: int = 2) -> int:
        """Keys and values of all layers for one position."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * element_bytes

    # -- inside
    @cached_property
    def _by_layer(self) -> tuple[dict[Role, int], ...]:
        layers: tuple[dict[Role, int], ...] = tuple({} for _ in range(self.n_layers))
        for t in self.tensors:
            if t.layer is not None:
                layers[t.layer][t.role] = layers[t.layer].get(t.role, 0) + t.n_bytes
        return layers

    def _sum(self, layer: int | None, role: Role) -> int:
        return sum(t.n_bytes for t in self.tensors if t.layer == layer and t.role is role)

    def _active(self, tensor: TensorShape, amount: int) -> int:
        if tensor.role is not Role.EXPERT:
            return amount
        return amount * self.n_experts_used // self.n_experts
