"""Placement: for every layer its home device, and for each routed expert the device that holds it.

Pure data between `plan` (which makes it), `predict` (which prices it) and `engine` (which runs it).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerPlacement:
    home: str  # device with norms, attention, KV cache, router, shared experts
    experts: tuple[str, ...]  # device of each expert, by global expert id; length E


@dataclass(frozen=True)
class Placement:
    """The embedding lives with the first layer's home, final norm and head with the last layer's home."""

    layers: tuple[LayerPlacement, ...]

    def experts_on(self, layer: int, device: str) -> list[int]:
        return [e for e, d in enumerate(self.layers[layer].experts) if d == device]

    def home_layers(self, device: str) -> list[int]:
        return [i for i, layer in enumerate(self.layers) if layer.home == device]
