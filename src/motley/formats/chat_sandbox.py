"""Runs a chat template, which is a program that came with a model file, without trusting it.

jinja2's immutable sandbox keeps it away from Python's inside and from changing its arguments. What the sandbox does
not stop is work without end: nested loops, "a" * 10**9, strings that double, recursion. So everything that can loop or
grow is charged to a budget that grows with the conversation. Hostile and broken templates end in one exception each.
Tests: tests/unit/test_chat_hostile.py.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from time import monotonic
from typing import Any

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from motley.errors import FormatError, MotleyError, UsageError

MAX_SOURCE = 1 << 20  # characters; the longest templates in use have 20,000
STEPS = 500_000  # a chat of a hundred turns takes some thousands
STEPS_PER_CALL = 5
SECONDS = 10.0  # a backstop for what steps count too cheaply
STEPS_PER_CHARACTER = 100  # of the conversation
CHARACTERS_PER_STEP = 64
MAX_ARGUMENT = 10_000  # widths, precisions, counts
# methods that make a text of any size from a number or a table; no template in use needs them
REFUSED = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs", "translate", "format_map", "to_bytes"})
_WIDE = re.compile(r"\d{5,}|\*")


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


def _charge(steps: int = 1) -> None:
    _budget.get().charge(steps)


def _charge_size(value: Any) -> Any:
    """Charge a fresh value by its size, one level deep: all deeper ones were charged when they were made."""
    if isinstance(value, str):
        _charge(1 + len(value) // CHARACTERS_PER_STEP)
    else:
        _charge(1 + (len(value) if isinstance(value, list | tuple | dict | set) else 0))
    return value


def _charge_reading(value: Any) -> Any:
    """Charge for going through a value; what comes lazily is charged as it comes."""
    if isinstance(value, Iterator):
        return _counted(value)
    if isinstance(value, str):
        _charge(1 + len(value) // 8)
    elif isinstance(value, Sized):
        _charge(1 + len(value))
    return value


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _charge()
        yield item


def _check_arguments(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int | float) and not -MAX_ARGUMENT <= value <= MAX_ARGUMENT:
            raise Refused(f"it passes {value:.3g} to a filter or method")


def _check_growth(name: str, text: Any, arguments: tuple[Any, ...]) -> None:
    """Charge beforehand for the calls whose result can be as large as the product of what goes in."""
    texts = [argument for argument in arguments if isinstance(argument, str)]
    if name == "replace" and isinstance(text, str) and len(texts) == 2:
        _charge(text.count(texts[0]) * len(texts[1]) // CHARACTERS_PER_STEP)
    elif name == "join" and isinstance(text, str) and arguments:  # separator.join(items)
        _charge(len(text) * _length(arguments[0]) // CHARACTERS_PER_STEP)
    elif name == "join" and texts:  # items|join(separator)
        _charge(len(texts[0]) * _length(text) // CHARACTERS_PER_STEP)
    elif name == "indent" and isinstance(text, str):
        _charge(text.count("\n") * max(map(len, texts), default=MAX_ARGUMENT) // CHARACTERS_PER_STEP)
    elif name == "format" and isinstance(text, str):
        _check_format(text)
        _charge(text.count("{") * max(map(len, texts), default=0) // CHARACTERS_PER_STEP)


def _length(items: Any) -> int:
    return len(items) if isinstance(items, list | tuple | dict | str | set | range) else MAX_ARGUMENT


def _check_format(text: str) -> None:
    if _WIDE.search(text):
        raise Refused("it formats with a huge or computed width")


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A jinja2 filter whose arguments are checked, and whose work is charged. Where it takes jinja2's context or
    environment, that comes first."""

    @wraps(function)  # keeps jinja2's marks about the leading argument
    def guarded(*args: Any, **kwargs: Any) -> Any:
        own = 1 if hasattr(function, "jinja_pass_arg") else 0
        value, *rest = args[own:]
        _check_arguments([*rest, *kwargs.values()])
        _check_growth(name, value, (*rest, *kwargs.values()))
        made = function(*args[:own], _charge_reading(value), *rest, **kwargs)
        return _counted(made) if isinstance(made, Iterator) else _charge_size(made)

    return guarded


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A jinja2 test (`x is eq y`), whose work is charged."""

    @wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        for arg in args[1 if hasattr(function, "jinja_pass_arg") else 0 :]:
            if isinstance(arg, Sized):
                _charge_reading(arg)
        return function(*args, **kwargs)

    return metered


class _Meter(NodeTransformer):
    """Puts the budget into the template's tree: loops count, what is joined, cut out or compared is charged."""

    def __init__(self, environment: "Sandbox") -> None:
        self._environment = environment

    def _through(self, node: nodes.Node | None, name: str) -> nodes.Filter:
        made = nodes.Filter(node, name, [], [], None, None)
        return made.set_environment(self._environment)  # type: ignore[return-value]

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self._through(node.iter, "motley_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._through(node, "motley_sized")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._through(node.expr, "motley_read")
        return node

    def visit_Operand(self, node: nodes.Operand) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._through(node.expr, "motley_read")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return self._through(node, "motley_sized") if isinstance(node.arg, nodes.Slice) else node

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:
        self.generic_visit(node)
        node.filter = self._through(node.filter, "motley_sized")
        return node


class _MeteredCode(CodeGenerator):
    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        assert isinstance(self.environment, Sandbox)
        super().visit_Template(_Meter(self.environment).visit(node), frame)


class _Generation(Extension):
    """`{% generation %}` marks what an assistant said, for training; here it is its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    code_generator_class = _MeteredCode
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
        for name in ("center", "wordwrap", "slice", "batch", "urlize", "xmlattr"):
            del self.filters[name]
        self.filters = {name: _guarded(name, function) for name, function in self.filters.items()}
        self.filters |= {
            "tojson": _guarded("tojson", _tojson),
            "motley_counted": _counted,
            "motley_sized": _charge_size,
            "motley_read": _charge_reading,
        }
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: _metered(function) for name, function in tests.items()}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in REFUSED and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise Refused(f"it reaches for {attribute!r} of a {type(obj).__name__}")

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _charge(STEPS_PER_CALL)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _check_arguments([*args, *kwargs.values()])
            _check_growth(__obj.__name__, owner, args)
            _charge(len(owner) // CHARACTERS_PER_STEP)
        original = getattr(__obj, "__wrapped__", None)  # the sandbox's own `format`
        if isinstance(getattr(original, "__self__", None), str):
            _check_arguments([*args, *kwargs.values()])
            _check_growth("format", original.__self__, (*args, *kwargs.values()))  # type: ignore[union-attr]
        return _charge_size(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _check_product(left, right)
        elif operator == "**" and not (abs(left) <= 1 << 64 and abs(right) <= 64):
            raise Refused("it raises a number to a huge power")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return _charge_size(super().call_binop(context, operator, left, right))


def _check_product(left: Any, right: Any) -> None:
    for items, times in ((left, right), (right, left)):
        if isinstance(items, str | list | tuple) and isinstance(times, int):
            _charge(len(items) * max(times, 0) // (CHARACTERS_PER_STEP if isinstance(items, str) else 1))
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 4096:
        raise Refused("it computes with huge numbers")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja2's own filter escapes for HTML, which models were not trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise UsageError(f"the model's chat template refuses this conversation: {str(message)[:300]}")


def _strftime_now(form: str) -> str:
    if re.search(r"\d{3,}", form) or len(form) > 100:
        raise Refused("it formats the date with a huge width")
    return datetime.now().strftime(form)


def compile_template(source: str, name: str) -> Template:
    """`name` is the metadata key, for messages."""
    if len(source) > MAX_SOURCE:
        raise FormatError(f"{name} has {len(source)} characters; at most {MAX_SOURCE} are accepted")
    _budget.set(Budget(0))
    try:
        return Sandbox().from_string(source)
    except TemplateSyntaxError as error:
        raise FormatError(f"{name} is not a valid template: line {error.lineno}: {error.message}") from error
    except (Exception, RecursionError) as error:
        raise FormatError(f"{name} is not a valid template: {_said(error)}") from error


def render_template(template: Template, name: str, variables: Mapping[str, Any], characters: int) -> str:
    """`characters`: the conversation's size, which the template's work may grow with."""
    _budget.set(Budget(characters))
    pieces = []
    try:
        for piece in template.generate(**variables):
            pieces.append(_charge_size(piece))
    except Refused as error:
        raise FormatError(f"{name} is refused: {error}") from error
    except SecurityError as error:
        raise FormatError(f"{name} is refused: {_said(error)}") from error
    except MotleyError:
        raise
    except (Exception, RecursionError) as error:
        raise FormatError(f"{name} fails on this conversation: {_said(error)}") from error
    return "".join(pieces)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}".removesuffix(": ")
