"""The catalogue: known models by name, one TOML file each in `catalogue/`, every one with its source."""

import re
from functools import cache
from pathlib import Path

from motley.errors import UsageError
from motley.shape.reader import read_spec
from motley.shape.spec import Spec

_ENDINGS = re.compile(r"-(instruct|it|chat|base|gguf|hf)$")
# What people add to a model's name for a file or an upload: precision, format, training stage, date.
_PACKAGING = re.compile(
    r"-(instruct|it|chat|base|pt|thinking|reasoning|preview|gguf|hf|mlx|awq|qat|mtp|ud|i1|fast|dynamic|autoround|unpacked"
    r"|v1|\d{4}|\d{6}|q\d(-k)?(-(xs|s|m|l|xl|0|1))?|iq\d-\w+|mxfp4(-q\d)?|nvfp4|fp8|fp16|bf16|f16|int[48]|\d-?bit|w\d+a\d+)$"
)

_FOLDER = Path(__file__).parent / "catalogue"


@cache
def _files() -> dict[str, Path]:
    """By name: a file is called as its model."""
    return {file.name.removesuffix(".toml"): file for file in sorted(_FOLDER.glob("*.toml"))}


@cache
def _spec(name: str) -> Spec:
    import tomllib  # not needed for shapes of files

    where = f"shape catalogue {name}.toml"
    try:
        spec = read_spec(tomllib.loads(_files()[name].read_text(encoding="utf-8")), where)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: {error}") from None
    if spec.name != name:
        raise UsageError(f"{where}: its model is called {spec.name}")
    return spec


@cache
def _names() -> dict[str, str]:
    """Every plain spelling of a name -> name. Reads no file."""
    return {plain(name): name for name in _files()}


@cache
def _spellings() -> dict[str, str]:
    """The same with aliases: reads all files. A spelling that two models claim is an error."""
    found: dict[str, str] = {}
    for name in _files():
        for spelling in {plain(s) for s in (name, *_spec(name).aliases)}:
            if spelling in found:
                raise UsageError(f"shape catalogue: {name} and {found[spelling]} are both called {spelling}")
            found[spelling] = name
    return found


def plain(name: str) -> str:
    """`Qwen/Qwen3-30B_A3B-Instruct-GGUF` -> `qwen3-30b-a3b`: case, owner, dots, underscores and usual endings aside."""
    found = re.sub(r"[\s_.:-]+", "-", name.strip().lower().rsplit("/", 1)[-1]).strip("-")
    while (shorter := _ENDINGS.sub("", found)) != found:
        found = shorter
    return found


def names() -> list[str]:
    return sorted(_files())


def find(name: str) -> str | None:
    """The catalogue's name of a model as people write it, with an uploader's prefix, a precision or a date; None where
    no entry is meant."""
    last = name.rsplit("/", 1)[-1]
    for start in (last, last.partition("_")[2]):  # `Qwen_Qwen3.5-9B-Q4_K_M.gguf`
        spelling = plain(start)
        while spelling:
            if known := _names().get(spelling) or _spellings().get(spelling):
                return known
            shorter = _PACKAGING.sub("", spelling)
            spelling = shorter if shorter != spelling else ""
    return None


def lookup(name: str) -> Spec:
    """Any usual spelling. Raises UsageError with the nearest names."""
    found = find(name)
    if found is None:
        from difflib import get_close_matches

        spelling = plain(name)
        close = get_close_matches(spelling[:80], _spellings(), n=6, cutoff=0.4)
        near = list(dict.fromkeys(_spellings()[s] for s in close))[:3]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(f"unknown model shape {name[:80]!r}: {hint}`motley plan --shapes` lists them")
    return _spec(found)
