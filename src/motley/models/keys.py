"""Keys: typed access to one architecture's metadata, and what must not be overlooked in it."""

from collections.abc import Mapping
from typing import Any

from motley.errors import FormatError, UnsupportedError
from motley.formats.metadata import get_bool, get_float, get_int, get_list, get_str

# Keys that change the arithmetic, and the values at which they change nothing. A family that reads one knows what to
# do.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none",),
    "attention.clamp_kqv": (0.0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "router_logit_softcapping": (0.0,),
    "attention.temperature_scale": (0.0,),
    "attention.scale": (0.0,),
    "attention.shared_kv_layers": (0,),
    "embedding_length_per_layer_input": (0,),
    "expert_weights_scale": (0.0, 1.0),
    "expert_shared_count": (0,),
    "expert_shared_feed_forward_length": (0,),
    "expert_group_count": (0, 1),
    "expert_latent_length": (0,),
    "leading_dense_block_count": (0,),
    "interleave_moe_layer_step": (0, 1),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0),
    "attention.indexer.top_k": (0,),
}


class Keys:
    """Typed access to one architecture's keys, which GGUF prefixes with its name; remembers what was asked for."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self.metadata, self.architecture = metadata, architecture
        self._read: set[str] = set()

    def name(self, key: str) -> str:
        self._read.add(key)
        return f"{self.architecture}.{key}"

    def expect(self, *keys: str) -> None:
        """A layer will read these."""
        self._read.update(keys)

    def has(self, key: str) -> bool:
        return self.name(key) in self.metadata

    def whole(self, key: str, *default: int) -> int:
        return get_int(self.metadata, self.name(key), *default)

    def real(self, key: str, *default: float) -> float:
        return get_float(self.metadata, self.name(key), *default)

    def flag(self, key: str, *default: bool) -> bool:
        return get_bool(self.metadata, self.name(key), *default)

    def word(self, key: str, *default: str) -> str:
        return get_str(self.metadata, self.name(key), *default)

    def flags(self, key: str) -> list[bool]:
        return get_list(self.metadata, self.name(key), bool)

    def per_layer(self, key: str, n_layers: int, *default: int) -> list[int]:
        """One number a layer, written once where all are equal."""
        if isinstance(self.metadata.get(self.name(key)), list):
            values = get_list(self.metadata, self.name(key), int)
            if len(values) < n_layers:
                raise FormatError(f"metadata key {self.name(key)} has {len(values)} numbers for {n_layers} layers")
            return values[:n_layers]
        return [self.whole(key, *default)] * n_layers

    def require_harmless(self) -> None:
        """UnsupportedError for a key that changes the arithmetic and that nobody asked for."""
        for key, values in HARMLESS.items():
            value = self.metadata.get(f"{self.architecture}.{key}", values[0])
            if key not in self._read and value not in values:
                raise UnsupportedError(
                    f"{self.architecture}.{key} = {value!r} is not supported here (only {values[0]!r} is)"
                )
