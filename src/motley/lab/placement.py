"""Placement: for every layer its home device, and for each routed expert the device that holds it.

Where memory is left an expert may have copies on further devices. Then each step chooses, for every expert that its
tokens want, the holder that would be done first (`choice`), going by the paces in the placement: the same tokens always
choose the same holders, and who computes an expert does not change the answer.

Pure data between `plan` (which makes it), `predict` (which prices it) and `engine` (which runs it).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """About how fast a holder is, for choosing between copies."""

    device: str
    start_us: float  # until its first expert can begin: the exchange; 0 at home
    expert_us: float  # each expert, for one token
    token_us: float = 0.0  # each further token of the same expert


@dataclass(frozen=True)
class LayerPlacement:
    home: str  # device with norms, attention, KV cache, router, shared experts
    experts: tuple[str, ...]  # device of each expert, by global expert id; length E, or empty in a layer without
    copies: tuple[tuple[int, str], ...] = ()  # further holders: (expert, device), ascending
    paces: tuple[Pace, ...] = ()  # of every holder, the home first; only where there are copies
    projections: tuple["RowsPart", ...] = ()  # every part of q's, k's and v's rows, the home first; none: all there
    streaming: "Streaming | None" = None  # None: whoever holds an expert computes it, in every step

    @property
    def holders(self) -> list[str]:
        """All devices with experts of this layer."""
        return list(dict.fromkeys([*self.experts, *(device for _, device in self.copies)]))


@dataclass(frozen=True)
class Streaming:
    """In steps of at least `tokens` tokens the home computes what `devices`, of its own node, hold of a layer's
    experts: it takes the weights of the chosen ones from the model's file, `at_once` experts at a time, and keeps
    none."""

    devices: tuple[str, ...]
    tokens: int
    at_once: int


@dataclass(frozen=True)
class RowsPart:
    """Rows [first, end), of the output matrix (the tokens whose logits the device computes) or of a layer's q, k and v
    projections, counted from one to the next."""

    device: str
    first: int
    end: int


@dataclass(frozen=True)
class Placement:
    """The embedding lives with the first layer's home, final norm and head with the last layer's home. The head's
    matrix may be split by rows: then `head` has every part, ascending, the last layer's home first."""

    layers: tuple[LayerPlacement, ...]
    head: tuple[RowsPart, ...] = ()

    def experts_on(self, layer: int, device: str) -> list[int]:
        """Copies included."""
        placed = self.layers[layer]
        held = {e for e, d in enumerate(placed.experts) if d == device}
        return sorted(held.union(e for e, d in placed.copies if d == device))

    def home_layers(self, device: str) -> list[int]:
        return [i for i, layer in enumerate(self.layers) if layer.home == device]
