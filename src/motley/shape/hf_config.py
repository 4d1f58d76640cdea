"""Typed access to a Hugging Face `config.json`: a missing or misshapen key is one FormatError that names it."""

from collections.abc import Mapping
from dataclasses import dataclass
from sys import float_info

from motley.errors import FormatError


@dataclass(frozen=True)
class Config:
    """`prefix`: what stands before a key in messages."""

    values: Mapping[str, object]
    prefix: str = ""

    def has(self, *keys: str) -> bool:
        return any(self.values.get(key) is not None for key in keys)

    def whole(self, *keys: str, default: int | None = None, most: int = (1 << 31) - 1) -> int:
        """Of the first key that is there, from 0 to `most`. A list of equal numbers, one a layer, is the number."""
        key = next((key for key in keys if self.has(key)), keys[0])
        value = self.values.get(key)
        if isinstance(value, list) and value and all(each == value[0] for each in value):
            value = value[0]
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, value, "a whole number")
        if not 0 <= value <= most:
            raise self._wrong(key, value, f"from 0 to {most}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= float_info.max:
            raise self._wrong(key, value, "a number")
        return float(value)

    def table(self, key: str) -> "Config":
        """Empty where it is not there."""
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "a table")
        return Config(value, f"{self.prefix}{key}.")

    def entries(self, key: str) -> list[object]:
        """A list; empty where it is not there."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(key, value, "a list")
        return value

    def _wrong(self, key: str, value: object, wanted: str) -> FormatError:
        return FormatError(f"config.json: {self.prefix}{key} must be {wanted}, not {str(value)[:60]!r}")
