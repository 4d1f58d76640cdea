"""A model's way to write reasoning and calls: what reads its answers, and what makes it write one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from motley.formats.tokenizer import Tokenizer
from motley.serve.grammar import Grammars, json_rule
from motley.serve.problems import Problem
from motley.serve.tools.call import Tools
from motley.serve.tools.dialects import HERMES, Dialect, Pairs, Thinking, dialect_of, is_harmony, thinking_of
from motley.serve.tools.reader import Harmony, Marked, Plain, Reader

HARMONY_THINKING = Thinking("<|channel|>analysis<|message|>", "<|end|>")
HARMONY_AGAIN = "<|start|>assistant"  # before its next message
HARMONY_FINAL = "<|channel|>final<|message|>"
HARMONY_CALL = (" to=functions.{name}<|channel|>commentary json<|message|>", "")


@dataclass(frozen=True)
class Format:
    dialect: Dialect | None = None
    thinking: Thinking | None = None
    harmony: bool = False
    shown: Mapping[int, str] = field(default_factory=dict)  # control tokens that the readers have to see

    @classmethod
    def of(cls, sources: Sequence[str], tokenizer: Tokenizer) -> "Format":
        """By the templates' texts."""
        template = "\n".join(sources)
        dialect, thinking, harmony = dialect_of(template), thinking_of(template), is_harmony(template)
        marks = Harmony.MARKS if harmony else _marks(dialect, thinking)
        shown = {ids[0]: mark for mark in marks if len(ids := tokenizer.encode(mark, special=True)) == 1}
        return cls(dialect, thinking, harmony, {i: m for i, m in shown.items() if tokenizer.is_control(i)})

    def begins_inside(self, prompt: str) -> bool:
        """Whether the prompt has begun the reasoning."""
        return self.thinking is not None and prompt.rstrip().endswith(self.thinking.open.strip())

    def reader(self, tools: Tools, inside: bool, forced: bool) -> Reader:
        """`forced`: a call was made to be."""
        if self.harmony:
            return Harmony(tools)
        dialect = (self.dialect or HERMES) if forced else self.dialect
        if self.thinking is None and not (dialect and tools):
            return Plain()
        return Marked(dialect, self.thinking, tools, inside)

    def calls_rule(self, grammars: Grammars, tools: Tools, inside: bool) -> str:
        """One call of one of the tools, in Lark."""
        rules = [f"call{i}" for i in range(len(tools))]
        lines = [f"start: {self._before(grammars, inside)} ({' | '.join(rules)})", *self._thoughts(grammars)]
        for i, (name, schema) in enumerate(tools.items()):
            lines += self._call_rule(grammars, i, name, schema)
        return "\n".join(lines)

    def content_rule(self, grammars: Grammars, schema: Mapping[str, Any], inside: bool) -> str:
        """Content that fits a schema."""
        channel = grammars.literal(HARMONY_FINAL) if self.harmony else ""
        start = f"start: {self._before(grammars, inside)} {channel} content"
        return "\n".join([start, *self._thoughts(grammars), f"content: {json_rule(schema)}"])

    def _call_rule(self, grammars: Grammars, i: int, name: str, schema: Mapping[str, Any]) -> list[str]:
        dialect, literal = self.dialect or HERMES, grammars.literal
        around = HARMONY_CALL if self.harmony else dialect.around
        if around is None:
            raise Problem(400, f"tool_choice: a call can't be forced in this model's format ({dialect.name})")
        before, after = (literal(part.replace("{name}", name)) for part in around)
        if dialect.pairs is None or self.harmony:
            return [f"call{i}: {before} args{i} {after}", f"args{i}: {json_rule({'type': 'object', **schema})}"]
        rules, items = list[str](), list[str]()
        required = _list(schema, "required", [])
        for j, (key, value) in enumerate(_properties(schema).items()):
            items.append(f"pair{i}x{j}" + ("" if key in required else "?"))
            rules += _pair_rule(grammars, dialect.pairs, f"{i}x{j}", key, value)
        return [f"call{i}: {before} {' '.join(items)} {after}", *rules]

    def _before(self, grammars: Grammars, inside: bool) -> str:
        """Reasoning, if the model likes to."""
        if self.harmony:
            again = grammars.literal(HARMONY_AGAIN)
            return f"({grammars.literal(HARMONY_THINKING.open)} thoughts {again})?"
        if self.thinking is None:
            return ""
        return "thoughts space" if inside else f"({grammars.literal(self.thinking.open)} thoughts space)?"

    def _thoughts(self, grammars: Grammars) -> Iterable[str]:
        """Up to and with the mark that ends them."""
        thinking = HARMONY_THINKING if self.harmony else self.thinking
        if thinking is None:
            return []
        return [*_text_rule(grammars, "thoughts", thinking.close), r'space: ("\n" | "\n\n")?']


def _text_rule(grammars: Grammars, name: str, end: str) -> list[str]:
    """Any text up to and with `end`. (`suffix`, not `stop`: a token may hold the end and what comes after it.)"""
    literal = grammars.literal(end)
    if literal.startswith("<["):  # a control token, which no text can be
        return [f"{name}: {name}x {literal}", f"{name}x: /(?s:.*)/"]
    return [f"{name}[suffix={json.dumps(end)}]: /(?s:.*)/"]


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("properties", {})
    if not isinstance(found, dict):
        raise Problem(400, "tools: a schema's properties must be an object", param="tools")
    return found


def _list(schema: Mapping[str, Any], key: str, default: list[Any]) -> list[Any]:
    found = schema.get(key, default)
    if not isinstance(found, list):
        raise Problem(400, f"tools: a schema's {key} must be a list", param="tools")
    return found


def _pair_rule(grammars: Grammars, pairs: Pairs, name: str, key: str, schema: Any) -> list[str]:
    """A key and its value, where strings are written as they are."""
    before = grammars.literal(pairs.before + key + pairs.between)
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "string" and not schema.keys() & {"enum", "const"}:
        return [f"pair{name}: {before} text{name}", *_text_rule(grammars, f"text{name}", pairs.after)]
    if kind == "string":
        texts = _list(schema, "enum", [schema.get("const")])
        value = " | ".join(json.dumps(str(text), ensure_ascii=False) for text in texts)
        return [f"pair{name}: {before} ({value}) {grammars.literal(pairs.after)}"]
    rule = json_rule(schema if isinstance(schema, dict) else {})
    return [f"pair{name}: {before} value{name} {grammars.literal(pairs.after)}", f"value{name}: {rule}"]


def _marks(dialect: Dialect | None, thinking: Thinking | None) -> list[str]:
    marks = [thinking.open.strip(), thinking.close] if thinking else []
    return marks + list(dialect.marks) if dialect else marks
