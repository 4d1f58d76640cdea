"""What a chat template may spend. Everything in it that can loop, grow or be spelled out is charged here beforehand.

The budget grows with the conversation, so that long ones pass and bombs do not. Used by `chat_sandbox` only.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from functools import wraps
from time import monotonic
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

STEPS = 500_000  # a chat of a hundred turns takes some thousands
STEPS_PER_CALL = 5
SECONDS = 10.0  # a backstop for what steps count too cheaply
STEPS_PER_CHARACTER = 100  # of the conversation
CHARACTERS_PER_STEP = 64
MAX_ARGUMENT = 10_000  # widths, precisions, counts
_WIDE_PERCENT = re.compile(r"%(\([^)]*\))?[-+ #]*(\d{5,}|\d*\.\d{5,}|[\d.]*\*)")
_WIDE_BRACES = re.compile(r"\{[^{}]*:[^{}]*(\d{5,}|\{)")
# filters that look at a value, or its items one by one as they are asked for, but never spell it out
_LOOKING = frozenset(
    {"length", "count", "first", "last", "default", "d", "list", "attr", "items", "reverse"}
    | {"map", "select", "reject", "selectattr", "rejectattr"}
)


class Refused(SecurityError):
    """The template did what no chat template needs to do."""


class Budget:
    def __init__(self, characters: int) -> None:
        self.left = STEPS + STEPS_PER_CHARACTER * characters
        self.deadline = monotonic() + SECONDS * max(1, self.left / STEPS)

    def charge(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0 or monotonic() > self.deadline:
            raise Refused("it does not come to an end")


_budget: ContextVar[Budget] = ContextVar("budget")


def start_budget(characters: int) -> None:
    """For what this thread renders next: `characters` of conversation."""
    _budget.set(Budget(characters))


def charge(steps: int = 1) -> None:
    _budget.get().charge(steps)


def charge_size(value: Any) -> Any:
    """Charge a fresh value by its size, one level deep: all deeper ones were charged when they were made."""
    if isinstance(value, str):
        charge(1 + len(value) // CHARACTERS_PER_STEP)
    else:
        charge(1 + (len(value) if isinstance(value, list | tuple | dict | set) else 0))
    return value


def charge_looking(value: Any) -> Any:
    """Charge for going through a value once; what comes lazily is charged as it comes."""
    if isinstance(value, Iterator):
        return counted(value)
    charge(1 + (len(value) // (8 if isinstance(value, str) else 1) if isinstance(value, Sized) else 0))
    return value


def charge_reading(value: Any) -> Any:
    """Charge for spelling a value out: all that it holds, each time that it is held, however small it is in memory."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Namespace):
            raise Refused("it spells out a namespace")
        if isinstance(item, str):
            charge(1 + len(item) // CHARACTERS_PER_STEP)
        elif isinstance(item, Mapping):
            charge(1 + len(item))
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            charge(1 + len(item))
            waiting += item
        else:
            charge(1 + (len(item) if isinstance(item, range) else 0))
    return counted(value) if isinstance(value, Iterator) else value


def counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        charge()
        yield item


def check_arguments(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int | float) and not -MAX_ARGUMENT <= value <= MAX_ARGUMENT:
            raise Refused(f"it passes {value:.3g} to a filter or method")


def check_growth(name: str, text: Any, arguments: tuple[Any, ...]) -> None:
    """Charge beforehand for the calls whose result can be as large as the product of what goes in."""
    texts = [argument for argument in arguments if isinstance(argument, str)]
    if name == "replace" and isinstance(text, str) and len(texts) == 2:
        charge(text.count(texts[0]) * len(texts[1]) // CHARACTERS_PER_STEP)
    elif name == "join" and isinstance(text, str) and arguments:  # separator.join(items)
        charge(len(text) * _length(arguments[0]) // CHARACTERS_PER_STEP)
    elif name == "join" and texts:  # items|join(separator)
        charge(len(texts[0]) * _length(text) // CHARACTERS_PER_STEP)
    elif name == "indent" and isinstance(text, str):
        charge(text.count("\n") * max(map(len, texts), default=MAX_ARGUMENT) // CHARACTERS_PER_STEP)
    elif name == "format" and isinstance(text, str):
        check_format(text, arguments)


def _length(items: Any) -> int:
    return len(items) if isinstance(items, list | tuple | dict | str | set | range) else MAX_ARGUMENT


def check_format(text: str, arguments: Any) -> None:
    """Either kind of formatting: no huge or computed widths, and charged as if each field took all arguments."""
    if _WIDE_PERCENT.search(text) or _WIDE_BRACES.search(text):
        raise Refused("it formats with a huge or computed width")
    for _ in range(text.count("%") + text.count("{")):
        charge_reading(arguments)


def guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A jinja2 filter whose arguments are checked, and whose work is charged. Where it takes jinja2's context or
    environment, that comes first."""

    @wraps(function)  # keeps jinja2's marks about the leading argument
    def guarded(*args: Any, **kwargs: Any) -> Any:
        own = 1 if hasattr(function, "jinja_pass_arg") else 0
        value, *rest = args[own:]
        check_arguments([*rest, *kwargs.values()])
        check_growth(name, value, (*rest, *kwargs.values()))
        value = charge_looking(value) if name in _LOOKING else charge_reading(value)
        made = function(*args[:own], value, *rest, **kwargs)
        return counted(made) if isinstance(made, Iterator) else charge_size(made)

    return guarded


def metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A jinja2 test (`x is eq y`), whose work is charged."""

    @wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        own = 1 if hasattr(function, "jinja_pass_arg") else 0
        if len(args) > own + 1:  # a comparison
            for arg in args[own:]:
                charge_looking(arg) if isinstance(arg, Iterator) else charge_reading(arg)
        return function(*args, **kwargs)

    return metered


def check_product(left: Any, right: Any) -> None:
    for items, times in ((left, right), (right, left)):
        if isinstance(items, str | list | tuple) and isinstance(times, int):
            charge(len(items) * max(times, 0) // (CHARACTERS_PER_STEP if isinstance(items, str) else 1))
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 4096:
        raise Refused("it computes with huge numbers")
