"""How the families write a tool call: a row each in `DIALECTS`, chosen by the marks that a model's template speaks of.

Read from the published templates (tests/golden/templates); a test renders calls by each and reads them back. A model
whose template speaks of none of them gets Hermes's format when a call is forced, and plain text otherwise.
"""

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from motley.serve.tools.call import Call, Tools, call, calls_of, of_pairs

Read = Callable[[str, Tools], list[Call]]


@dataclass(frozen=True)
class Pairs:
    """How a key and its value are written where arguments are no JSON."""

    before: str
    between: str
    after: str


@dataclass(frozen=True)
class Dialect:
    """`spoken`: all of these are in the template. A call stands between `open` and `close` ("": up to the answer's
    end); `read` takes what is between; ValueError, or nothing, where that is none. `bare`: `open` is part of it, and
    counts only at the answer's start. For forced calls: `around`, what surrounds the arguments, with {name} in it;
    `pairs`, where they are no JSON."""

    name: str
    spoken: tuple[str, ...]
    open: str
    close: str
    read: Read
    bare: bool = False
    around: tuple[str, str] | None = None
    pairs: Pairs | None = None
    inner: tuple[str, ...] = ()  # marks that `read` needs to see

    @property
    def marks(self) -> tuple[str, ...]:
        """That may be control tokens of the model."""
        return (self.open, self.close, *self.inner)


def _json(body: str, tools: Tools) -> list[Call]:
    return calls_of(json.loads(body))


def _json_in_turn(body: str, tools: Tools) -> list[Call]:
    """JSON values with nothing but `;` and space between."""
    decoder, found, at = json.JSONDecoder(), list[Call](), 0
    while at < len(body := body.strip()):
        value, at = decoder.raw_decode(body, at)
        found += calls_of(value)
        at += len(body[at:]) - len(body[at:].lstrip(" \n;"))
    return found


_DEEPSEEK = re.compile(
    "<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>([^\\n]+)\\n```json\\n(.*?)\\n```|(.*?)<｜tool▁sep｜>(.*?))"
    "<｜tool▁call▁end｜>",
    re.DOTALL,
)


def _deepseek(body: str, tools: Tools) -> list[Call]:
    return [call((a or c).strip(), b or d) for a, b, c, d in _DEEPSEEK.findall(body)]


def _kimi(body: str, tools: Tools) -> list[Call]:
    found = []
    for part in body.split("<|tool_call_begin|>")[1:]:
        id, _, rest = part.partition("<|tool_call_argument_begin|>")
        name = id.strip().removeprefix("functions.").rpartition(":")[0]
        found.append(call(name, rest.partition("<|tool_call_end|>")[0]))
    return found


def _glm(body: str, tools: Tools) -> list[Call]:
    name = body.partition("<arg_key>")[0].strip()
    pairs = re.findall(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", body, re.DOTALL)
    return [of_pairs(name, pairs, tools)]


def _qwen_coder(body: str, tools: Tools) -> list[Call]:
    found = []
    for name, inner in re.findall(r"<function=([^>\n]+)>(.*?)</function>", body, re.DOTALL):
        pairs = re.findall(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", inner, re.DOTALL)
        found.append(of_pairs(name, pairs, tools))
    return found


def _minimax(body: str, tools: Tools) -> list[Call]:
    found = []
    for name, inner in re.findall(r'<invoke name="([^"\n]+)">(.*?)</invoke>', body, re.DOTALL):
        pairs = re.findall(r'<parameter name="([^"\n]+)">(.*?)</parameter>', inner, re.DOTALL)
        found.append(of_pairs(name, pairs, tools))
    return found


def _mistral(body: str, tools: Tools) -> list[Call]:
    if "[ARGS]" not in body:
        return _json(body, tools)
    parts = [part.partition("[ARGS]") for part in body.split("[TOOL_CALLS]")]
    return [call(name.strip().partition("[CALL_ID]")[0], arguments) for name, _, arguments in parts]


def _llama(body: str, tools: Tools) -> list[Call]:
    """JSON objects, or calls as Python spells them."""
    body = body.strip()
    try:
        return _json_in_turn(body, tools)
    except ValueError:
        return _pythonic(body)


def _pythonic(body: str) -> list[Call]:
    """`[f(a=1), g()]`, literals only."""
    try:
        tree = ast.parse(body, mode="eval").body
        items = tree.elts if isinstance(tree, ast.List) else [tree]
        found = []
        for item in items:
            if not isinstance(item, ast.Call) or item.args:
                raise ValueError("no call")
            found.append(call(ast.unparse(item.func), {k.arg: ast.literal_eval(k.value) for k in item.keywords}))
    except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError("no call") from error
    return found


def _gemma(body: str, tools: Tools) -> list[Call]:
    match = re.fullmatch(r"\s*call:([^{\s]+)(\{.*\})\s*", body, re.DOTALL)
    if match is None:
        raise ValueError("no call")
    return [call(match[1], json.loads(_gemma_json(match[2])))]


def _gemma_json(text: str) -> str:
    """Strings stand between <|"|> marks, keys bare."""
    parts = text.split('<|"|>')
    for i in range(0, len(parts), 2):
        bare = re.sub(r"([{,]\s*)([A-Za-z_][\w.-]*)\s*:", r'\1"\2":', parts[i])
        parts[i] = re.sub(r"\b(None|True|False)\b", lambda m: {"None": "null"}.get(m[0], m[0].lower()), bare)
    for i in range(1, len(parts), 2):
        parts[i] = json.dumps(parts[i])
    return "".join(parts)


_DEEPSEEK_MARKS = ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>")
_GLM_MARKS = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
HERMES = Dialect(
    "hermes",
    ("<tool_call>",),
    "<tool_call>",
    "</tool_call>",
    _json,
    around=('<tool_call>\n{"name": "{name}", "arguments": ', "}\n</tool_call>"),
)
DIALECTS = (
    Dialect(
        "deepseek",
        ("<｜tool▁calls▁begin｜>", "```json"),
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        _deepseek,
        around=(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n",
            "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        inner=_DEEPSEEK_MARKS,
    ),
    Dialect(
        "deepseek-v3.1",
        ("<｜tool▁calls▁begin｜>",),
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        _deepseek,
        around=(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        inner=_DEEPSEEK_MARKS,
    ),
    Dialect(
        "kimi",
        ("<|tool_calls_section_begin|>",),
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        _kimi,
        around=(
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>",
            "<|tool_call_end|><|tool_calls_section_end|>",
        ),
        inner=("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    ),
    Dialect(
        "minimax",
        ("minimax:tool_call",),
        "<minimax:tool_call>",
        "</minimax:tool_call>",
        _minimax,
        around=('<minimax:tool_call>\n<invoke name="{name}">\n', "</invoke>\n</minimax:tool_call>"),
        pairs=Pairs('<parameter name="', '">', "</parameter>\n"),
    ),
    Dialect("gemma", ("<|tool_call>",), "<|tool_call>", "<tool_call|>", _gemma, inner=('<|"|>',)),
    Dialect(
        "glm",
        ("<tool_call>", "<arg_key>"),
        "<tool_call>",
        "</tool_call>",
        _glm,
        inner=_GLM_MARKS,
        around=("<tool_call>{name}\n", "</tool_call>"),
        pairs=Pairs("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
    ),
    Dialect(
        "qwen-coder",
        ("<tool_call>", "<function="),
        "<tool_call>",
        "</tool_call>",
        _qwen_coder,
        around=("<tool_call>\n<function={name}>\n", "</function>\n</tool_call>"),
        pairs=Pairs("<parameter=", ">\n", "\n</parameter>\n"),
    ),
    HERMES,
    Dialect(
        "granite",
        ("<|tool_call|>",),
        "<|tool_call|>",
        "",
        _json,
        around=('<|tool_call|>[{"name": "{name}", "arguments": ', "}]"),
    ),
    Dialect(
        "mistral",
        ("[TOOL_CALLS]", "[ARGS]"),
        "[TOOL_CALLS]",
        "",
        _mistral,
        around=("[TOOL_CALLS]{name}[ARGS]", ""),
        inner=("[ARGS]", "[CALL_ID]"),
    ),
    Dialect(
        "mistral-nemo",
        ("[TOOL_CALLS]",),
        "[TOOL_CALLS]",
        "",
        _mistral,
        around=('[TOOL_CALLS][{"name": "{name}", "arguments": ', "}]"),
    ),
    Dialect("llama-4", ("<|python_start|>",), "<|python_start|>", "<|python_end|>", _llama),
    Dialect(
        "llama",
        ("<|start_header_id|>",),
        "{",
        "",
        _llama,
        bare=True,
        around=('{"name": "{name}", "parameters": ', "}"),
    ),
)


@dataclass(frozen=True)
class Thinking:
    open: str
    close: str


THINKING = (
    Thinking("<think>", "</think>"),
    Thinking("[THINK]", "[/THINK]"),
    Thinking("<|channel>thought\n", "<channel|>"),
)


def dialect_of(template: str) -> Dialect | None:
    for dialect in DIALECTS:
        if all(mark in template for mark in dialect.spoken):
            return dialect
    return None


def thinking_of(template: str) -> Thinking | None:
    for thinking in THINKING:
        if thinking.close in template or thinking.open.strip() in template:
            return thinking
    return None


def is_harmony(template: str) -> bool:
    """gpt-oss's channels, which are no marks around something: `reader.Harmony`."""
    return "<|channel|>" in template and "<|message|>" in template
