"""Routes: which experts each token chose, per layer.

A trace is an `.npz` (numpy's columns) with

    experts       integers [layers, tokens, A], most wanted first; zeros in a layer without experts
    n_experts     E
    routed        bool [layers]: which layers have experts; absent: all have
    domain        integers [tokens]: which text each token is of; absent: all are of one
    domain_names  [texts]: their names

Other arrays in it are not read. Consecutive tokens of a text are consecutive in it. `motley trace-routes` writes one;
the tokens themselves are not in it, so that a trace may be shown where its text may not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from motley.errors import FormatError, UsageError
from motley.shape.model import ModelShape

NEEDED = {"experts", "n_experts"}
OPTIONAL = {"routed", "domain", "domain_names"}


@dataclass(frozen=True, eq=False)
class Routes:
    chosen: NDArray[np.int32]  # [tokens, layers, A]
    n_experts: int
    routed: NDArray[np.bool_] | None = None  # [layers]; None: every layer has experts
    domain: NDArray[np.int32] | None = None  # [tokens], indices into `names`
    names: Sequence[str] = field(default_factory=tuple)  # of the texts

    def __post_init__(self) -> None:
        if self.chosen.ndim != 3 or 0 in self.chosen.shape or not np.issubdtype(self.chosen.dtype, np.integer):
            raise FormatError(
                f"a route trace is integers [tokens, layers, A], not {self.chosen.dtype} {self.chosen.shape}"
            )
        low, high = int(self.chosen.min()), int(self.chosen.max())
        if low < 0 or high >= self.n_experts:
            raise FormatError(f"the route trace names experts {low}..{high}, the model has 0..{self.n_experts - 1}")
        tokens, layers, _ = self.chosen.shape
        if self.routed is not None and (self.routed.shape != (layers,) or self.routed.dtype != np.bool_):
            raise FormatError(f"the route trace's `routed` must be bool [{layers}], not {self.routed.shape}")
        if self.domain is not None and not _fits(self.domain, tokens, len(self.names)):
            raise FormatError(
                f"the route trace's `domain` must be [{tokens}] of 0..{len(self.names) - 1}, one of each text at least"
            )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises UsageError if it cannot be read, FormatError if it is no trace."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if not set(arrays) >= NEEDED:
                    raise FormatError(
                        f"{path} holds {', '.join(arrays) or 'nothing'}: a trace holds experts, n_experts"
                    )
                found: dict[str, NDArray[Any]] = {name: arrays[name] for name in set(arrays) & (NEEDED | OPTIONAL)}
        except OSError as error:
            raise UsageError(f"cannot read the route trace {path}: {error}") from None
        except (ValueError, BadZipFile, EOFError, TypeError) as error:
            raise FormatError(f"{path} is not a route trace (.npz): {error}") from None
        experts, n_experts = found["experts"], found["n_experts"]
        if experts.ndim != 3 or n_experts.ndim or not np.issubdtype(experts.dtype, np.integer):
            raise FormatError(
                f"{path}: experts must be integers [layers, tokens, A], not {experts.dtype} {experts.shape}"
            )
        chosen = np.ascontiguousarray(experts.transpose(1, 0, 2), np.int32)
        names = tuple(str(name) for name in found.get("domain_names", np.array([])).ravel())
        return cls(chosen, int(n_experts), found.get("routed"), found.get("domain"), names)

    def save(self, path: str | Path) -> None:
        kind = np.uint8 if self.n_experts <= 256 else np.uint16
        experts = np.ascontiguousarray(self.chosen.transpose(1, 0, 2)).astype(kind)
        more: dict[str, Any] = {}
        if self.routed is not None:
            more["routed"] = self.routed
        if self.domain is not None:
            more |= {"domain": self.domain.astype(np.uint16), "domain_names": np.array(list(self.names), np.str_)}
        with Path(path).open("wb") as file:  # numpy would add .npz to a name without it
            np.savez_compressed(file, experts=experts, n_experts=np.array(self.n_experts), **more)

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

    @cached_property
    def layers(self) -> list[int]:
        """Those with experts."""
        every = range(self.chosen.shape[1])
        return [i for i in every if self.routed is None or self.routed[i]]

    @cached_property
    def texts(self) -> list[tuple[str, "Routes"]]:
        """With their names; a trace that does not tell texts apart is one, without a name."""
        if self.domain is None:
            return [("", self)]
        parts = [self.chosen[self.domain == i] for i in range(len(self.names))]
        return [(name, Routes(part, self.n_experts, self.routed)) for name, part in zip(self.names, parts)]


def _fits(domain: NDArray[Any], tokens: int, texts: int) -> bool:
    return (
        domain.shape == (tokens,)
        and np.issubdtype(domain.dtype, np.integer)
        and sorted(set(domain.tolist())) == list(range(texts))
    )
