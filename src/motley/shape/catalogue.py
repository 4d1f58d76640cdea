"""The catalogue: known models by name, one TOML file each in `catalogue/`, every one with its source."""

import tomllib
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from motley.errors import UsageError
from motley.shape.dims import Dims

_PUBLISHED = {"published_params", "published_active_params"}  # what the tests hold the shape against


@cache
def _entries() -> dict[str, dict[str, object]]:
    found = {}
    for file in (files("motley.shape") / "catalogue").iterdir():
        if file.name.endswith(".toml"):
            entry = tomllib.loads(file.read_text())
            unknown = set(entry) - {f.name for f in fields(Dims)} - _PUBLISHED
            if unknown:
                raise UsageError(f"shape catalogue {file.name}: unknown keys {', '.join(sorted(unknown))}")
            found[str(entry["name"])] = entry
    return found


def names() -> list[str]:
    return sorted(_entries())


def published(name: str) -> tuple[float, float] | None:
    """(total, active) parameters as published, where the entry has them."""
    entry = _entries()[name]
    if not set(entry) >= _PUBLISHED:
        return None
    return float(str(entry["published_params"])), float(str(entry["published_active_params"]))


def lookup(name: str) -> Dims:
    """Any case. Raises UsageError with the nearest names."""
    entry = _entries().get(name.lower())
    if entry is None:
        near = get_close_matches(name.lower(), names(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the catalogue has {', '.join(names())}"
        raise UsageError(f"unknown model shape {name!r}: {hint}")
    return Dims(**{k: v for k, v in entry.items() if k not in _PUBLISHED})  # type: ignore[arg-type]
