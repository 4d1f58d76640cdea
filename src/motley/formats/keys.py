"""Keys: one architecture's metadata (GGUF keys `<architecture>.*`), each value checked for its type and for sense.

Remembers what was asked for, so that a key that changes the arithmetic can't be overlooked (`models.registry`). Errors
are FormatErrors that name the key.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from motley.errors import FormatError
from motley.formats.metadata import get_bool, get_float, get_int, get_list, get_str, shown


class Keys:
    """`read`: the keys that were asked for, without the architecture's name. `default`: the key is optional."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self.metadata, self.architecture = metadata, architecture
        self.read: set[str] = set()

    def name(self, key: str) -> str:
        self.read.add(key)
        return f"{self.architecture}.{key}"

    def has(self, key: str) -> bool:
        return self.name(key) in self.metadata

    def whole(self, key: str, *default: int) -> int:
        """From 0 to 2^31 - 1."""
        return self._size(key, get_int(self.metadata, self.name(key), *default))

    def real(self, key: str, *default: float) -> float:
        value = get_float(self.metadata, self.name(key), *default)
        if not isfinite(value):
            raise FormatError(f"metadata key {shown(self.name(key))} is {value}; convert the model again")
        return value

    def flag(self, key: str, *default: bool) -> bool:
        return get_bool(self.metadata, self.name(key), *default)

    def word(self, key: str, *default: str) -> str:
        return get_str(self.metadata, self.name(key), *default)

    def of_layer(self, key: str, layer: int, *default: int) -> int:
        """Of one number for all layers, or one a layer."""
        if not isinstance(self.metadata.get(self.name(key)), list):
            return self.whole(key, *default)
        return self._size(key, self._at(key, get_list(self.metadata, self.name(key), int), layer))

    def most(self, key: str, *default: int) -> int:
        """The largest, of one number for all layers or one a layer."""
        if not isinstance(self.metadata.get(self.name(key)), list):
            return self.whole(key, *default)
        return self._size(key, max(get_list(self.metadata, self.name(key), int), default=0))

    def flag_of_layer(self, key: str, layer: int) -> bool:
        return bool(self._at(key, get_list(self.metadata, self.name(key), bool), layer))

    def _at(self, key: str, values: list[Any], layer: int) -> Any:
        if layer >= len(values):
            raise FormatError(f"metadata key {shown(self.name(key))} has {len(values)} values, none for layer {layer}")
        return values[layer]

    def _size(self, key: str, value: int) -> int:
        if not 0 <= value < 1 << 31:
            raise FormatError(f"metadata key {shown(self.name(key))} is {value}: not a size; convert the model again")
        return value
