"""A tool call as the API gives it, and what the formats have in common."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Tools = Mapping[str, Mapping[str, Any]]  # parameters' schema by name

_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Call:
    name: str
    arguments: str  # JSON


def call(name: object, arguments: object) -> Call:
    """`arguments`: an object, or the JSON of one. ValueError where it is no call."""
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(arguments, dict):
        raise ValueError("no call")
    spelled = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    spelled.encode()  # half of a surrogate pair is no text that could be sent: UnicodeEncodeError is a ValueError
    return Call(name, spelled)


def calls_of(value: object) -> list[Call]:
    """Of {"name", "arguments" or "parameters"}, or a list of such."""
    if isinstance(value, list):
        return [found for item in value for found in calls_of(item)]
    if not isinstance(value, dict):
        raise ValueError("no call")
    function = value.get("function")
    inner = function if isinstance(function, dict) else value
    return [call(inner.get("name"), inner.get("arguments", inner.get("parameters", {})))]


def typed(text: str, name: str, key: str, tools: Tools) -> Any:
    """What a value written as plain text means: a string where the tool's schema wants one, else the JSON it is."""
    properties = tools.get(name, {}).get("properties")
    schema = properties.get(key) if isinstance(properties, Mapping) else None
    kind = schema.get("type") if isinstance(schema, Mapping) else None  # a schema may be `true`, too
    if kind == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return {"None": None, "True": True, "False": False}.get(text, text)  # as templates written in Python show them


def of_pairs(name: str, pairs: Sequence[tuple[str, str]], tools: Tools) -> Call:
    return call(name, {key: typed(value, name, key, tools) for key, value in pairs})
