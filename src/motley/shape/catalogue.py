"""The catalogue: known models by name, one TOML file each in `catalogue/`, every one with its source."""

import re
import tomllib
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from motley.errors import UsageError
from motley.shape.spec import Spec, read_spec

_ENDINGS = re.compile(r"-(instruct|it|chat|base|gguf|hf)$")


@cache
def _specs() -> dict[str, Spec]:
    """By name. Read once, all of them: a name that two files claim is found at the first use."""
    found: dict[str, Spec] = {}
    for file in sorted((files("motley.shape") / "catalogue").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            where = f"shape catalogue {file.name}"
            try:
                table = tomllib.loads(file.read_text(encoding="utf-8"))
            except tomllib.TOMLDecodeError as error:
                raise UsageError(f"{where}: {error}") from None
            spec = read_spec(table, where)
            if found.setdefault(spec.name, spec) is not spec:
                raise UsageError(f"{where}: there is another {spec.name}")
    return found


@cache
def _spellings() -> dict[str, str]:
    """Every plain spelling of a name or alias -> name. A spelling that two models share is nobody's."""
    found: dict[str, str] = {}
    for spec in _specs().values():
        for spelling in {plain(s) for s in (spec.name, *spec.aliases)}:
            if spelling in found:
                raise UsageError(f"shape catalogue: {spec.name} and {found[spelling]} are both called {spelling}")
            found[spelling] = spec.name
    return found


def plain(name: str) -> str:
    """`Qwen/Qwen3-30B_A3B-Instruct-GGUF` -> `qwen3-30b-a3b`: case, owner, dots, underscores and usual endings aside."""
    found = re.sub(r"[\s_.:-]+", "-", name.strip().lower().rsplit("/", 1)[-1]).strip("-")
    while (shorter := _ENDINGS.sub("", found)) != found:
        found = shorter
    return found


def names() -> list[str]:
    return sorted(_specs())


def lookup(name: str) -> Spec:
    """Any usual spelling. Raises UsageError with the nearest names."""
    spelling = plain(name)
    found = _spellings().get(spelling)
    if found is None:
        close = get_close_matches(spelling, _spellings(), n=6, cutoff=0.4)
        near = list(dict.fromkeys(_spellings()[s] for s in close))[:3]
        hint = f"did you mean {' or '.join(near)}?" if near else f"the catalogue has {', '.join(names())}"
        raise UsageError(f"unknown model shape {name!r}: {hint}")
    return _specs()[found]
