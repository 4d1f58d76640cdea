"""Labs by file, by name or by shorthand: whatever stands behind `--lab`. Owns `labs.toml`, the labs that ship."""

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path

from motley.errors import UsageError
from motley.lab.lab import Lab
from motley.lab.shorthand import assemble
from motley.lab.wiring import Assembly


@dataclass(frozen=True)
class NamedLab:
    name: str
    shorthand: str
    about: str


@cache
def named_labs() -> tuple[NamedLab, ...]:
    table = tomllib.loads((files("motley.lab") / "labs.toml").read_text("utf-8"))
    return tuple(NamedLab(**row) for row in table["lab"])


def find_lab(text: str, engine: str = "motley") -> Assembly:
    """A file where there is one of that name, else a lab that ships, else shorthand. `engine`: whose speeds devices
    of the catalogue get. Raises UsageError."""
    try:
        path = Path(text)
        if path.is_file():
            return Assembly(Lab.load(text))
        if text and path.is_dir():
            raise UsageError(f"{text} is a folder: name a lab file in it, or write shorthand")
    except OSError:  # a long text is no file's name
        pass
    if text.strip().lower() not in _by_name() and ("/" in text or text.endswith(".toml")):
        raise UsageError(
            f"cannot read the lab file {text}: it is not there; `motley probe -o {text}` measures this machine"
        )
    return described(text, engine)


def described(text: str, engine: str = "motley") -> Assembly:
    """`find_lab` of what is no file: reads none, whoever wrote the text."""
    by_name = _by_name()
    if text.strip().lower() in by_name:
        return assemble(by_name[text.strip().lower()].shorthand, engine)
    try:
        return assemble(text, engine)
    except UsageError as error:
        near = get_close_matches(text.strip().lower(), by_name, n=3, cutoff=0.7)
        if near:
            raise UsageError(f"unknown lab {text!r}: did you mean {' or '.join(near)}?") from None
        raise error from None


def _by_name() -> dict[str, NamedLab]:
    return {lab.name: lab for lab in named_labs()}
