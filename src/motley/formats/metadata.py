"""Typed access to a checkpoint's metadata: a missing or wrongly typed key is one FormatError that names it.

Used by the models, the tokenizer and `shape_of`. Without `default` a key is required. Arrays come back as lists.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from motley.errors import FormatError

T = TypeVar("T")


class _Required:
    """Marks a key without a default; None stays free to be one."""


REQUIRED = _Required()


def get_int(metadata: Mapping[str, Any], key: str, default: int | _Required = REQUIRED) -> int:
    return int(_get(metadata, key, default, (int,), "an integer"))


def get_float(metadata: Mapping[str, Any], key: str, default: float | _Required = REQUIRED) -> float:
    """A float; an integer is taken as one."""
    return float(_get(metadata, key, default, (float, int), "a number"))


def get_str(metadata: Mapping[str, Any], key: str, default: str | _Required = REQUIRED) -> str:
    return str(_get(metadata, key, default, (str,), "a string"))


def get_bool(metadata: Mapping[str, Any], key: str, default: bool | _Required = REQUIRED) -> bool:
    return bool(_get(metadata, key, default, (bool,), "a boolean"))


def get_list(metadata: Mapping[str, Any], key: str, of: type[T], default: list[T] | _Required = REQUIRED) -> list[T]:
    """A list whose elements are all of type `of` (for `float`, integers are refused: GGUF arrays have one type)."""
    values: list[T] = _get(metadata, key, default, (list,), f"a list of {of.__name__}")
    for index, value in enumerate(values):
        if type(value) is not of:
            raise _wrong(f"{key}[{index}]", value, f"of type {of.__name__}")
    return values


def shown(value: object) -> str:
    """`repr`, cut to 60 characters: what a hostile file says must not flood an error message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _get(metadata: Mapping[str, Any], key: str, default: Any, kinds: tuple[type, ...], wanted: str) -> Any:
    try:
        value = metadata[key]
    except KeyError:
        if not isinstance(default, _Required):
            return default
        raise FormatError(
            f"metadata key {shown(key)} is missing: it must be {wanted}; "
            "convert the model again with a current converter"
        ) from None
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise _wrong(key, value, wanted)
    return value


def _wrong(key: str, value: object, wanted: str) -> FormatError:
    return FormatError(
        f"metadata key {shown(key)} must be {wanted}, not {type(value).__name__} {shown(value)}; "
        "convert the model again with a current converter"
    )
