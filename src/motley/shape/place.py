"""Place and Facts: what a mix may look at when it chooses a tensor's precision."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from motley.shape.role import Role


@dataclass(frozen=True)
class Place:
    """One tensor of a model. `dims` row-major; `layer` None: outside the layers."""

    name: str
    role: Role
    layer: int | None
    dims: tuple[int, ...]

    @property
    def part(self) -> str:
        """`attn_v`, `ffn_down_exps`: the name without layer and ending."""
        stem = self.name.rsplit(".", 1)[0]
        return stem.split(".", 2)[2] if self.layer is not None else stem


@dataclass(frozen=True)
class Facts:
    """Of the whole model."""

    n_layers: int
    architecture: str = ""
    n_experts: int = 0
    group: int = 1  # query heads per key/value head
    tied: bool = False  # the embedding serves as head
    runs: bool = True  # Motley runs the family, and must be able to write what it states
    is_70b: bool = False  # llama.cpp treats a Llama of 80 layers apart
    value_order: Mapping[int, int] = field(default_factory=dict)  # layer -> how many before it have values, too
