"""Ask: what somebody wrote into the form or sent as JSON, as text and numbers, bounded but not yet understood."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from motley.errors import UsageError

MOST_TOKENS = 1_000_000

Name = Annotated[str, msgspec.Meta(max_length=200)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]

# What could turn or hide the text around it: controls, bidirectional marks and overrides, zero-width characters, tags;
# and lone surrogates, which are no text.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
MOST_MARKS = 3  # on one letter


class Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `batch` sequences at once, each with `depth` tokens of context before: `pp` prompt tokens read, `tg`
    generated; 0: that test is not asked for."""

    model: Name = ""  # empty: the bundled one
    quant: Annotated[str, msgspec.Meta(max_length=60)] = ""  # empty: the file's own, or q4_k
    pp: Tokens = 512
    tg: Tokens = 64
    depth: Tokens = 0
    batch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    hardware: Annotated[str, msgspec.Meta(max_length=300)] = ""  # empty: the host's
    note: Annotated[str, msgspec.Meta(max_length=1000)] = ""


NUMBERS = ("pp", "tg", "depth", "batch")


def from_fields(fields: Mapping[str, str]) -> Ask:
    """Of a form: empty numbers are the usual ones. UsageError says what is wrong with which field."""
    values: dict[str, Any] = {}
    for name in Ask.__struct_fields__:
        text = fields.get(name, "").strip()
        if name not in NUMBERS:
            values[name] = text
        elif text:
            if not re.fullmatch(r"[0-9]{1,9}", text):
                raise UsageError(f"{name}: {text[:30]!r} must be a whole number")
            values[name] = int(text)
    return from_values(values)


def from_values(values: object) -> Ask:
    """Texts are cleaned first: normalising can lengthen one, and what is kept must be short enough to be read again."""
    if isinstance(values, Mapping):
        values = {name: _cleaned(name, value) for name, value in values.items()}
    try:
        return msgspec.convert(values, Ask)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at ")
        raise UsageError(f"{where.strip('`').removeprefix('$.') or 'the request'}: {problem}") from None


def _cleaned(name: object, value: object) -> object:
    if not isinstance(value, str):
        return value
    return clean(value) if name == "note" else line(value)


def seen(text: str) -> str:
    """What of a text is seen and stays in its place: normalised, no towers of accents."""
    plain = _UNSEEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return plain if plain.isascii() else unicodedata.normalize("NFC", _without_towers(plain))


def _without_towers(text: str) -> str:
    """Before normalising, which sorts the marks of a letter in a time that grows with the square of their number."""
    kept, marks = [], 0
    for letter in text:
        marks = marks + 1 if unicodedata.combining(letter) or unicodedata.category(letter) == "Me" else 0
        if marks <= MOST_MARKS:
            kept.append(letter)
    return "".join(kept)


def clean(text: str) -> str:
    """That, without space around it and with few empty lines."""
    return re.sub(r"\n{3,}", "\n\n", seen(text)).strip()


def line(text: str) -> str:
    return re.sub(r"\s+", " ", clean(text)).strip()
