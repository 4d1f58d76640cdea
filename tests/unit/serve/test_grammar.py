"""Grammars over the bundled model's vocabulary: whatever is chosen among the allowed tokens fits, and nothing hangs."""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest

from motley.bundled import model_path
from motley.engine.engine import Stream
from motley.engine.sampling import Sampling
from motley.formats.checkpoint import open_checkpoint
from motley.formats.tokenizer import Tokenizer
from motley.serve.choosing import Chooser
from motley.serve.grammar import Grammar, Grammars, json_rule
from motley.serve.problems import Problem
from motley.serve.service import problem_of
from motley.serve.tools.dialects import DIALECTS, THINKING, Dialect, Thinking
from motley.serve.tools.format import Format
from motley.serve.tools.reader import content_of

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 2},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}


@cache
def grammars() -> Grammars:
    tokenizer = Tokenizer.from_metadata(open_checkpoint(model_path()).metadata)
    return Grammars(tokenizer, tokenizer.vocab_size)


def drawn(grammar: Grammar, seed: int, most: int = 600) -> str:
    """The text of random allowed tokens, short ones rather than long."""
    tokenizer, rng = grammars()._tokenizer, np.random.default_rng(seed)
    lengths = np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])
    logits = rng.standard_normal((most, tokenizer.vocab_size)).astype(np.float32) - lengths.astype(np.float32)
    chooser = Chooser(Sampling(temperature=0.5, seed=seed), constraint=grammar)
    stream = Stream([1], most, Sampling(), frozenset())
    for row in logits:
        stream.answer.append(chooser(row, stream))
        assert chooser.error is None
        if chooser.complete or stream.answer[-1] in tokenizer.eos:
            return tokenizer.decode(stream.answer)
    raise AssertionError(f"no end: {tokenizer.decode(stream.answer)!r}")


@pytest.mark.parametrize("seed", range(3))
def test_json_that_fits_its_schema(seed: int) -> None:
    found = json.loads(drawn(grammars().compile(f"start: content\ncontent: {json_rule(CITY)}", "test"), seed))
    assert set(found) == {"city", "unit", "days"}
    assert len(found["city"]) <= 12
    assert found["unit"] in ("C", "F")
    assert all(0 <= day <= 9 for day in found["days"])


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether the text is let through token by token, and may end there."""
    for token in grammars()._tokenizer.encode(text):
        if not grammar.allowed()[token]:
            return False
        grammar.accept(token)
    return grammar.complete or bool(grammar.allowed()[min(grammars()._tokenizer.eos)])


def spelled(dialect: Dialect, city: str, unit: str) -> str:
    """A call of get_weather as the family writes it."""
    assert dialect.around
    before, after = (part.replace("{name}", "get_weather") for part in dialect.around)
    if dialect.pairs is None:
        return before + json.dumps({"city": city, "unit": unit, "days": [1, 2]}) + after
    pairs = dialect.pairs
    written = [("city", city), ("unit", unit), ("days", "[1, 2]")]
    return before + "".join(pairs.before + k + pairs.between + v + pairs.after for k, v in written) + after


CALLING = [
    (dialect, thinking)
    for dialect in DIALECTS
    for thinking in (None, *THINKING[:2])
    if dialect.around and not (dialect.bare and thinking)
]


@pytest.mark.parametrize(
    ("dialect", "thinking"), CALLING, ids=[f"{d.name}, {t.open if t else 'plain'}" for d, t in CALLING]
)
def test_a_call_that_is_forced_is_one_that_is_read(dialect: Dialect, thinking: Thinking | None) -> None:
    fmt, tools = Format(dialect, thinking), {"clock": {}, "get_weather": CITY}
    for inside in [False, True] if thinking else [False]:
        thoughts = f"Hm, 1 < 2.\n{thinking.close}\n\n" if thinking else ""
        thoughts = thinking.open + thoughts if thinking and not inside else thoughts
        rule = fmt.calls_rule(grammars(), tools, inside)
        assert accepts(grammars().compile(rule, "tools"), thoughts + spelled(dialect, "Bonn", "C"))
        assert not accepts(grammars().compile(rule, "tools"), thoughts + spelled(dialect, "Bonn", "K"))
        assert not accepts(grammars().compile(rule, "tools"), thoughts + "No call at all.")
        reader = fmt.reader(tools, inside, forced=True)
        content, reasoning, calls = content_of(reader.push(thoughts + spelled(dialect, "Bonn", "C")) + reader.end())
        assert [(c.name, json.loads(c.arguments)) for c in calls] == [
            ("get_weather", {"city": "Bonn", "unit": "C", "days": [1, 2]})
        ]
        assert (content, reasoning) == ("", "Hm, 1 < 2." if thinking else "")


def test_harmony_s_calls_and_content() -> None:
    fmt, tools, value = Format(harmony=True), {"get_weather": CITY}, {"city": "Bonn", "unit": "C", "days": [1]}
    analysis = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    call = f" to=functions.get_weather<|channel|>commentary json<|message|>{json.dumps(value)}"
    final = f"<|channel|>final<|message|>{json.dumps(value)}"
    for before in ("", analysis):
        rule = fmt.calls_rule(grammars(), tools, False)
        assert accepts(grammars().compile(rule, "tools"), before + call)
        assert not accepts(grammars().compile(rule, "tools"), before + final)
        reader = fmt.reader(tools, False, forced=True)
        _, reasoning, calls = content_of(reader.push(before + call) + reader.end())
        assert [json.loads(c.arguments) for c in calls] == [value]
        assert reasoning == ("Hm." if before else "")
        rule = fmt.content_rule(grammars(), CITY, False)
        assert accepts(grammars().compile(rule, "response_format"), before + final)
        assert not accepts(grammars().compile(rule, "response_format"), before + call)
        reader = fmt.reader({}, False, forced=False)
        content, _, _ = content_of(reader.push(before + final) + reader.end())
        assert json.loads(content) == value


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "file:///etc/passwd"},
        {"$ref": "http://127.0.0.1:9/schema"},
        {"type": "strin"},
        {"type": "object", "properties": 3},
        {"enum": []},
    ],
)
def test_schemas_that_are_none_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(Problem, match="response_format: "):
        grammars().compile(f"start: content\ncontent: {json_rule(schema)}", "response_format")


HOSTILE: list[dict[str, Any]] = [
    {"type": "string", "pattern": "(((a{1,300}){1,300}){1,300}){1,300}"},
    {"type": "string", "pattern": "(a|b|ab)*c{50000}"},
    {"anyOf": [{"type": "string", "pattern": f"a{{{i}}}b*.*{i}.*"} for i in range(500)]},
    {"type": "array", "minItems": 10**9, "items": {"type": "integer"}},
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1000)}},
]


@pytest.mark.parametrize("schema", HOSTILE, ids=lambda schema: str(schema)[:40])
def test_hostile_schemas_end_themselves(schema: dict[str, Any]) -> None:
    """Refused, or worked on within the budget: here, for the first tokens."""
    try:
        grammar = grammars().compile(f"start: content\ncontent: {json_rule(schema)}", "response_format")
    except Problem:
        return
    chooser = Chooser(Sampling(temperature=1.0), constraint=grammar)
    stream = Stream([1], 20, Sampling(), frozenset())
    while chooser.error is None and not chooser.complete and len(stream.answer) < 20:
        stream.answer.append(chooser(np.zeros(grammars()._vocab_size, np.float32), stream))
    assert chooser.error is None or problem_of(chooser.error).status == 400  # clients try a 500 again


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": []}, "properties"),
        ({"properties": {"a": {}}, "required": 3}, "required"),
        ({"properties": {"a": {"type": "string", "enum": 3}}}, "enum"),
    ],
)
def test_tools_that_are_no_schema(schema: dict[str, Any], says: str) -> None:
    fmt = Format(next(d for d in DIALECTS if d.name == "glm"))
    with pytest.raises(Problem, match=says):
        fmt.calls_rule(grammars(), {"f": schema}, False)
