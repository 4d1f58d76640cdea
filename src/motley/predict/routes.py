"""Routes: which experts each token chose, per layer.

A trace is an `.npz` with `experts`, integers [layers, tokens, A], and `n_experts`; other arrays in it are not read.
Consecutive tokens are consecutive in a text.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError, UsageError
from motley.shape.model import ModelShape


@dataclass(frozen=True, eq=False)
class Routes:
    chosen: NDArray[np.int32]  # [tokens, layers, A]
    n_experts: int

    def __post_init__(self) -> None:
        if self.chosen.ndim != 3 or 0 in self.chosen.shape or not np.issubdtype(self.chosen.dtype, np.integer):
            raise FormatError(
                f"a route trace is integers [tokens, layers, A], not {self.chosen.dtype} {self.chosen.shape}"
            )
        low, high = int(self.chosen.min()), int(self.chosen.max())
        if low < 0 or high >= self.n_experts:
            raise FormatError(f"the route trace names experts {low}..{high}, the model has 0..{self.n_experts - 1}")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises UsageError if it cannot be read, FormatError if it is no trace."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if not {"experts", "n_experts"} <= set(arrays):
                    raise FormatError(
                        f"{path} holds {', '.join(arrays) or 'nothing'}: a trace holds experts, n_experts"
                    )
                experts, n_experts = arrays["experts"], arrays["n_experts"]
        except OSError as error:
            raise UsageError(f"cannot read the route trace {path}: {error}") from None
        except (ValueError, BadZipFile, EOFError) as error:
            raise FormatError(f"{path} is not a route trace (.npz): {error}") from None
        if experts.ndim != 3 or n_experts.ndim or not np.issubdtype(experts.dtype, np.integer):
            raise FormatError(
                f"{path}: experts must be integers [layers, tokens, A], not {experts.dtype} {experts.shape}"
            )
        return cls(np.ascontiguousarray(experts.transpose(1, 0, 2), np.int32), int(n_experts))

    def save(self, path: str | Path) -> None:
        kind = np.uint8 if self.n_experts <= 256 else np.uint16
        experts = np.ascontiguousarray(self.chosen.transpose(1, 0, 2)).astype(kind)
        np.savez_compressed(path, experts=experts, n_experts=np.array(self.n_experts))

    def check(self, shape: ModelShape) -> None:
        """Raises UsageError where the trace is another model's."""
        _, layers, used = self.chosen.shape
        wanted = (shape.n_experts, shape.n_experts_used)
        if layers < shape.n_layers or (self.n_experts, used) != wanted:
            raise UsageError(
                f"the route trace has {layers} layers and chose {used} of {self.n_experts} experts; "
                f"{shape.name} has {shape.n_layers} and chooses {wanted[1]} of {wanted[0]}"
            )

    def popularity(self, layer: int) -> NDArray[np.float64]:
        """[E]: how often each expert of `layer` was chosen, per token; sums to A."""
        counts = np.bincount(self.chosen[:, layer].ravel(), minlength=self.n_experts)
        return counts / len(self.chosen)
