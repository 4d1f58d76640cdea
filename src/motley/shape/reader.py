"""Reading a catalogue file into a Spec: every key, type and value checked.

What is wrong is one UsageError that names the file, the table and the key. The format is described in docs/shapes.md.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TypeVar

from motley.errors import UsageError
from motley.shape.mix import is_mix
from motley.shape.spec import FfnSpec, MixerSpec, Mtp, Spec

_CHOICES = {
    "gate": ("", "element", "head"),
    "bias": ("", "qkv", "all"),
    "qk_norm": ("", "head", "full"),
    "published_active_excludes": ("", "embedding", "embedding and head"),
}

_T = TypeVar("_T")


def read_spec(table: Mapping[str, object], where: str) -> Spec:
    """A catalogue file's content. Raises UsageError naming `where` and the key."""
    plain = {k: v for k, v in table.items() if k not in ("mixer", "ffn", "mtp", "shipped")}
    nested: dict[str, object] = {
        "mixer": {k: _record(MixerSpec, v, f"{where} [mixer.{k}]") for k, v in _tables(table, "mixer", where).items()},
        "ffn": {k: _record(FfnSpec, v, f"{where} [ffn.{k}]") for k, v in _tables(table, "ffn", where).items()},
    }
    shipped = _table(table.get("shipped", {}), f"{where} [shipped]")
    for label, mix in shipped.items():
        if not isinstance(mix, str) or not is_mix(mix):
            raise UsageError(f"{where} [shipped]: {label} = {mix!r} is not a quantisation that Motley can count")
    nested["shipped"] = shipped
    mtp = table.get("mtp")
    if mtp is not None:
        plain["mtp"] = _record(Mtp, _table(mtp, f"{where} [mtp]"), f"{where} [mtp]")
    return _record(Spec, {**plain, **nested}, where)


def _tables(table: Mapping[str, object], key: str, where: str) -> dict[str, dict[str, object]]:
    """The tables under `key`, with `like = "F"` replaced by that table's keys."""
    found = {k: _table(v, f"{where} [{key}.{k}]") for k, v in _table(table.get(key, {}), f"{where} [{key}]").items()}
    for letter, own in found.items():
        if not re.fullmatch("[A-Z]", letter):
            raise UsageError(f"{where}: [{key}.{letter}] must be named by one capital letter")
        base = own.pop("like", None)
        if base is None:
            continue
        if base not in found or base == letter:
            raise UsageError(f"{where}: [{key}.{letter}] is like {base!r}, which is not another [{key}] table")
        found[letter] = {**found[str(base)], **own}
    return found


def _table(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be a table, not {value!r}")
    return dict(value)


def _record(kind: type[_T], table: Mapping[str, object], where: str) -> _T:
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(table) - set(known)):
        raise UsageError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(known)}")
    missing = [f.name for f in known.values() if f.name not in table and f.default is f.default_factory is MISSING]
    if missing:
        raise UsageError(f"{where}: {', '.join(missing)} missing")
    return kind(**{key: _value(value, known[key].type, f"{where}: {key}") for key, value in table.items()})


def _value(value: object, kind: object, what: str) -> object:
    if kind is bool:
        good = isinstance(value, bool)
    elif kind is int:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    elif kind is float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    elif kind is str:
        good = isinstance(value, str)
    elif kind == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return tuple(value)
        good = False
    else:  # nested records, made by us
        return value
    if not good:
        raise UsageError(f"{what} = {value!r} is not a {getattr(kind, '__name__', 'list of strings')} that can be")
    choices = _CHOICES.get(what.rsplit(": ", 1)[-1]) if kind is str else None
    if choices and value not in choices:
        raise UsageError(f"{what} = {value!r}: choose one of {', '.join(repr(c) for c in choices)}")
    return value
