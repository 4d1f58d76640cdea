"""Names of many devices in few words: `mac0-mac15, gpu3 and 40 more`."""

import re
from collections.abc import Sequence
from itertools import groupby

from motley.lab.lab import shortened

_RUN = 3  # numbered names in a row that are worth shortening
_NUMBERED = re.compile(r"(.*?)(\d+)")


def listed(names: Sequence[str], most: int = 6) -> str:
    """In their order; numbered ones that follow each other as `mac0-mac15`."""
    parts: list[str] = []
    numbered = [(i, *_split(name)) for i, name in enumerate(names)]
    for _, group in groupby(numbered, lambda row: (row[1], row[2] - row[0])):
        run = [names[row[0]] for row in group]
        parts += [f"{run[0]}-{run[-1]}"] if len(run) >= _RUN else run
    if len(parts) <= most:
        return ", ".join(parts)
    return shortened(list(names), most)


def _split(name: str) -> tuple[str, int]:
    match = _NUMBERED.fullmatch(name)
    return (match[1], int(match[2])) if match and len(match[2]) < 9 else (name, -1)


def by_number(name: str) -> tuple[str, int]:
    """Sorts `mac9` before `mac10`."""
    return _split(name)


def between(values: Sequence[float], form: str = "{:.0f}") -> str:
    """`3`, or `3 to 5`."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
