"""Text that knows which of its characters a chat template wrote, and which came from outside.

A template writes control tokens as text (`<|im_start|>`). So can a user, and must not get them. Therefore what the
template itself says (its text, its literals, the names of roles) is `own`, and every operation keeps track: a control
token counts only where all of its characters are own (`Tokenizer.encode`). What no operation here accounts for comes
out as text from outside: a mistake costs the meaning of a token, never lets one in.
Tests: tests/unit/test_prompt.py.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, SupportsIndex

Spans = tuple[tuple[int, int], ...]  # [start, end), ascending, apart


class Prompt(str):
    """An immutable `str`; plain strings that meet it count as from outside. `_template` is the source that wrote it."""

    __slots__ = ("_own", "_template")
    _own: Spans
    _template: str

    def __new__(cls, text: str = "", own: Spans = (), template: str = "") -> "Prompt":
        made = super().__new__(cls, text)
        made._own, made._template = own, template
        return made

    def __str__(self) -> str:
        return self  # else str(prompt), which jinja2 likes to call, would forget

    def __add__(self, other: str) -> "Prompt":
        return joined((self, other))

    def __radd__(self, other: str) -> "Prompt":
        return joined((other, self))

    def __getitem__(self, key: SupportsIndex | slice) -> "Prompt":
        if not isinstance(key, slice):
            at = range(len(self))[key]
            return part(self, at, at + 1)
        start, stop, step = key.indices(len(self))
        return part(self, start, max(start, stop)) if step == 1 else Prompt(super().__getitem__(key))

    def strip(self, chars: str | None = None, /) -> "Prompt":
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> "Prompt":
        return part(self, len(self) - len(super().lstrip(chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> "Prompt":
        return part(self, 0, len(super().rstrip(chars)))

    def removeprefix(self, prefix: str, /) -> "Prompt":
        return part(self, len(self) - len(super().removeprefix(prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> "Prompt":
        return part(self, 0, len(super().removesuffix(suffix)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._found(super().split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._found(super().rsplit(sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        return self._found(super().splitlines(keepends))

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        return self._parted(super().partition(sep))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        return self._parted(super().rpartition(sep))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> "Prompt":
        if not old:
            return Prompt(super().replace(old, new, count))
        return joined(self.split(old, count), new)

    def join(self, items: Iterable[str], /) -> "Prompt":
        return joined(items, self)

    def upper(self) -> "Prompt":
        return self._as_long(super().upper())

    def lower(self) -> "Prompt":
        return self._as_long(super().lower())

    def capitalize(self) -> "Prompt":
        return self._as_long(super().capitalize())

    def title(self) -> "Prompt":
        return self._as_long(super().title())

    def _found(self, parts: list[str], separator: str | None = None) -> list[str]:
        """Parts that follow each other in this text, `separator` or only whitespace between -> with their origin."""
        found: list[str] = []
        at = 0
        for text in parts:
            at = self.index(text, at) if separator is None else at + len(separator) * bool(found)
            found.append(part(self, at, at + len(text)))
            at += len(text)
        return found

    def _parted(self, parts: tuple[str, str, str]) -> tuple[str, str, str]:
        left, middle, right = self._found([*parts], "")
        return left, middle, right

    def _as_long(self, text: str) -> "Prompt":
        """`text` stands character by character for this one; where its length changed, nobody knows."""
        if len(text) == len(self):
            return Prompt(text, self._own)
        return written(text) if is_own(self) else Prompt(text)


def written(text: str) -> Prompt:
    """`text` as the template's own."""
    return Prompt(text, ((0, len(text)),) if text else ())


def is_own(value: Any, start: int = 0, end: int | None = None) -> bool:
    """Whether a text is the template's own throughout, or from `start` to `end`."""
    if not isinstance(value, Prompt):
        return False
    end = len(value) if end is None else end
    at = bisect_right(value._own, (start, len(value))) - 1
    return start >= end or (at >= 0 and value._own[at][1] >= end)


def has_own(value: Prompt) -> bool:
    """Whether any of it is the template's."""
    return bool(value._own)


def reserved(prompt: Prompt, token: str) -> bool:
    """Whether the template itself speaks of `token`: then it is the template's to write, whatever its type."""
    return token in prompt._template and not token.isspace()


def part(text: Prompt, start: int, end: int) -> Prompt:
    cut = ((max(a, start) - start, min(b, end) - start) for a, b in text._own if a < end and b > start)
    return Prompt(str.__getitem__(text, slice(start, end)), tuple(cut))


def joined(items: Iterable[str], separator: str = "") -> Prompt:
    """One text of many; plain strings are from outside."""
    pieces: list[str] = []
    for item in items:
        pieces += [separator, item] if pieces and separator else [item]
    own: list[tuple[int, int]] = []
    at = 0
    for piece in pieces:
        for start, end in piece._own if isinstance(piece, Prompt) else ():
            if own and own[-1][1] == at + start:
                own[-1] = (own[-1][0], at + end)
            else:
                own.append((at + start, at + end))
        at += len(piece)
    return Prompt("".join(pieces), tuple(own))
