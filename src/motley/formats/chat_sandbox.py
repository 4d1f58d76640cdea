"""Runs a chat template, which is a program that came with a model file, without trusting it.

jinja2's immutable sandbox keeps it away from Python's inside and from changing its arguments. What the sandbox does
not stop is work without end: nested loops, "a" * 10**9, strings that double, recursion. So everything that can loop or
grow is charged to a budget that grows with the conversation. Hostile and broken templates end in one exception each.

What the template says itself is kept apart from what it was given (`motley.formats.prompt`): its literals are marked
where the code for them is made, and everything that joins or cuts text here keeps the marks.
Tests: tests/unit/test_chat_hostile.py, test_prompt.py; test_templates.py holds the whole against `transformers`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Template, TemplateSyntaxError, nodes, pass_eval_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import sync_do_join
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from motley.errors import FormatError, MotleyError, UsageError
from motley.formats.chat_budget import (
    CHARACTERS_PER_STEP,
    STEPS_PER_CALL,
    Refused,
    charge,
    charge_reading,
    charge_size,
    check_arguments,
    check_format,
    check_growth,
    check_product,
    counted,
    guarded,
    metered,
    start_budget,
)
from motley.formats.prompt import Prompt, has_own, is_own, joined, written

MAX_SOURCE = 1 << 20  # characters; the longest templates in use have 20,000
# methods that make a text of any size from a number or a table; no template in use needs them
REFUSED = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs", "translate", "format_map", "to_bytes"})


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
        parts = [self._through(part, "motley_read") for part in node.nodes]
        return self._through(nodes.List(parts).set_environment(self._environment), "motley_joined")

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


def _literal(value: Any) -> str:
    """The code for a constant: its strings, also those in lists and the like, are the template's own. (Not those marked
    `safe`: such a string escapes what it meets, and so must stay what it is.)"""
    if type(value) is str:
        return f"environment.literal({value!r})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "(" + "".join(f"{_literal(item)}, " for item in value) + ")" if isinstance(value, tuple) else repr(value)


class _MeteredCode(CodeGenerator):
    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        assert isinstance(self.environment, Sandbox)
        super().visit_Template(_Meter(self.environment).visit(node), frame)

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        self.write(_literal(node.value))


class _Generation(Extension):
    """`{% generation %}` marks what an assistant said, for training; here it is its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    code_generator_class = _MeteredCode
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    literal = staticmethod(lru_cache(4096)(written))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=_finalize,
        )
        for name in ("center", "wordwrap", "slice", "batch", "urlize", "xmlattr"):
            del self.filters[name]
        self.filters |= {"tojson": _tojson, "join": _join}
        self.filters = {name: _told(guarded(name, function)) for name, function in self.filters.items()}
        self.filters |= {
            "motley_counted": counted,
            "motley_sized": charge_size,
            "motley_read": charge_reading,
            "motley_joined": _concatenated,
        }
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: metered(function) for name, function in tests.items()}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    @staticmethod
    def concat(pieces: Iterable[str]) -> Prompt:
        """What a block puts out: plain strings are the template's text, and all else went through `_finalize`."""
        return joined(written(piece) if type(piece) is str else piece for piece in pieces)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in REFUSED and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise Refused(f"it reaches for {attribute!r} of a {type(obj).__name__}")

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        charge(STEPS_PER_CALL)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            check_arguments([*args, *kwargs.values()])
            check_growth(__obj.__name__, owner, args)
            charge(len(owner) // CHARACTERS_PER_STEP)
        original = getattr(__obj, "__wrapped__", None)  # the sandbox's own `format`
        if isinstance(getattr(original, "__self__", None), str):
            check_arguments([*args, *kwargs.values()])
            check_growth("format", original.__self__, (*args, *kwargs.values()))  # type: ignore[union-attr]
        made = charge_size(super().call(__context, __obj, *args, **kwargs))
        owner = getattr(original, "__self__", owner)
        return _of_origin(made, owner, *args, *kwargs.values())

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            check_product(left, right)
        elif operator == "**" and not (abs(left) <= 1 << 64 and abs(right) <= 64):
            raise Refused("it raises a number to a huge power")
        elif operator == "%" and isinstance(left, str):
            check_format(left, right)
        elif operator == "+" and _is_text(left) and _is_text(right):
            return charge_size(joined((left, right)))
        made = charge_size(super().call_binop(context, operator, left, right))
        return _of_origin(made, left, *(right if isinstance(right, tuple) else (right,)))


def _is_text(value: Any) -> bool:
    """Strings; not Markup, which has rules of its own."""
    return type(value) in (str, Prompt)


def _finalize(value: Any) -> Any:
    value = charge_reading(value)
    return value if isinstance(value, Prompt) else Prompt(str(value))


def _concatenated(values: Iterable[Any]) -> Prompt:
    made = joined(value if isinstance(value, Prompt) else str(value) for value in values)
    charge_size(made)
    return made


def _of_origin(made: Any, *sources: Any) -> Any:
    """A string that a call or filter made is the template's if all that went in was; what knows better, stays."""
    if type(made) is str:
        made = Prompt(made)
    if type(made) is Prompt and not has_own(made) and sources and all(map(is_own, sources)):
        return written(made)
    return made


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose result says where it is from."""

    @wraps(function)
    def told(*args: Any, **kwargs: Any) -> Any:
        own = 1 if hasattr(function, "jinja_pass_arg") else 0
        return _of_origin(function(*args, **kwargs), *args[own:], *kwargs.values())

    return told


@pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """jinja2's, which forgets where its items are from unless the text between them knows."""
    return sync_do_join(context, value, d or Prompt(), attribute)


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
    start_budget(0)
    try:
        return Sandbox().from_string(source)
    except TemplateSyntaxError as error:
        raise FormatError(f"{name} is not a valid template: line {error.lineno}: {error.message}") from error
    except (Exception, RecursionError) as error:
        raise FormatError(f"{name} is not a valid template: {_said(error)}") from error


def render_template(template: Template, name: str, variables: Mapping[str, Any], characters: int) -> Prompt:
    """`characters`: the conversation's size, which the template's work may grow with."""
    start_budget(characters)
    pieces = []
    try:
        for piece in template.generate(**variables):
            pieces.append(charge_size(piece))
    except Refused as error:
        raise FormatError(f"{name} is refused: {error}") from error
    except SecurityError as error:
        raise FormatError(f"{name} is refused: {_said(error)}") from error
    except MotleyError:
        raise
    except (Exception, RecursionError) as error:
        raise FormatError(f"{name} fails on this conversation: {_said(error)}") from error
    return Sandbox.concat(pieces)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}".removesuffix(": ")
