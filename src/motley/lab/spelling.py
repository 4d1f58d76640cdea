"""Spelling: the ways people write a catalogue's names, each belonging to one entry."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from motley.errors import UsageError


class Named(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...


Entry = TypeVar("Entry", bound=Named)


def by_spelling(entries: Iterable[Entry], plain: Callable[[str], str], what: str) -> dict[str, Entry]:
    """Keys, names and aliases, made `plain`, to their entry. Raises UsageError where a spelling names two."""
    found: dict[str, Entry] = {}
    for entry in entries:
        for text in (entry.key, entry.name, *entry.aliases):
            other = found.setdefault(plain(text), entry)
            if other is not entry:
                raise UsageError(f"{what} catalogue: {text!r} names both {other.key} and {entry.key}")
    return found
