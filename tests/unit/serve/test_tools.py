"""Tool calls and reasoning: what the published templates write is read back; cuts don't matter; nothing is lost."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley.formats.chat import ChatTemplate
from motley.serve.tools.call import Call
from motley.serve.tools.dialects import DIALECTS, HERMES, THINKING, dialect_of, is_harmony, thinking_of
from motley.serve.tools.reader import Harmony, Marked, Part, Plain, Reader, Said, content_of

GOLDEN = Path(__file__).parents[2] / "golden" / "templates" / "cases.json.gz"
TOOLS = {"get_weather": {"properties": {"city": {"type": "string"}, "days": {"type": "array"}}}, "clock": {}}

# The format that each published template speaks; those that are not here know no calls, or refuse the conversation.
SPEAKS = {
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek",
    "deepseek-ai-DeepSeek-V3.1": "deepseek-v3.1",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen-coder",
    "Qwen3.5-4B": "qwen-coder",
    "moonshotai-Kimi-K2": "kimi",
    "GLM-4.6": "glm",
    "GLM-4.7-Flash": "glm",
    "MiniMax-M2": "minimax",
    "openai-gpt-oss-120b": "harmony",
    "ibm-granite-granite-4.0": "hermes",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral-nemo",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral",
    "google-gemma-4-31B-it": "gemma",
    "inclusionai-ling-3.0-flash": "glm",
    "llama-3 style": "llama",
}
KNOWN_BUT_NOT_WRITTEN = {"ibm-granite-granite-3.3-2B-Instruct": "granite", "llama-4 style": "llama-4"}


@cache
def golden() -> dict[str, Any]:
    return json.loads(gzip.open(GOLDEN).read())


def written(template: str, conversation: str) -> tuple[str, str]:
    """The prompt, and the answer that the template writes for the conversation's first assistant message."""
    model, said = golden()["templates"][template], golden()["conversations"][conversation]
    chat = ChatTemplate({"default": model["source"]}, *model["tokens"])
    at = next(i for i, message in enumerate(said["messages"]) if message["role"] == "assistant")
    before = str.__str__(chat.render(said["messages"][:at], tools=said["tools"]))
    whole = str.__str__(chat.render(said["messages"][: at + 1], add_generation_prompt=False, tools=said["tools"]))
    common = next((i for i, (a, b) in enumerate(zip(before, whole)) if a != b), min(len(before), len(whole)))
    mark = whole.rfind("<", 0, common)
    common = mark if ">" not in whole[mark:common] else common  # a mark is not cut in two
    end = model["tokens"][1]
    answer = whole[common:].strip("\n")
    return before[:common], answer.removesuffix(end).removesuffix("<|eot_id|>").removesuffix("<|call|>")


def reader_for(template: str, prompt: str) -> Reader:
    source = golden()["templates"][template]["source"]
    if is_harmony(source):
        return Harmony(TOOLS)
    thinking = thinking_of(source)
    inside = thinking is not None and prompt.rstrip().endswith(thinking.open.strip())
    return Marked(dialect_of(source), thinking, TOOLS, inside)


def read(reader: Reader, text: str, size: int) -> list[Part]:
    parts: list[Part] = []
    for at in range(0, len(text), size):
        parts += reader.push(text[at : at + size])
    return parts + reader.end()


WRITTEN = [
    (template, conversation)
    for template in SPEAKS
    for conversation in ("call", "calls", "reasoning and call")
    if (template, conversation) != ("llama-3 style", "calls")  # it refuses two calls at once
]


@pytest.mark.parametrize(("template", "conversation"), WRITTEN)
def test_what_a_template_writes_is_read_back(template: str, conversation: str) -> None:
    prompt, answer = written(template, conversation)
    message = next(m for m in golden()["conversations"][conversation]["messages"] if m["role"] == "assistant")
    wanted = [(c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]]
    if template == "openai-gpt-oss-120b":
        wanted = wanted[:1]  # it writes one call at a time
    for size in (1, 7, 1000):
        content, reasoning, calls = content_of(read(reader_for(template, prompt), answer, size))
        assert [(c.name, json.loads(c.arguments)) for c in calls] == wanted
        assert "tool_call" not in content
        assert "[TOOL_CALLS]" not in content
        if "A tool knows." in answer:
            assert reasoning == "A tool knows."


@pytest.mark.parametrize(("template", "name"), [*SPEAKS.items(), *KNOWN_BUT_NOT_WRITTEN.items()])
def test_each_template_is_known_for_what_it_is(template: str, name: str) -> None:
    source = golden()["templates"][template]["source"]
    dialect = dialect_of(source)
    assert ("harmony" if is_harmony(source) else dialect and dialect.name) == name


ANSWERS = {
    "granite": '[{"name": "clock", "arguments": {"zone": null}}]',
    "llama-4": '{"name": "clock", "parameters": {"zone": null}}',
}


@pytest.mark.parametrize("name", ANSWERS)
def test_formats_that_no_template_at_hand_writes(name: str) -> None:
    dialect = next(d for d in DIALECTS if d.name == name)
    parts = read(Marked(dialect, None, TOOLS), "Hm. " + dialect.open + ANSWERS[name] + dialect.close, 3)
    assert content_of(parts) == ("Hm.", "", [Call("clock", '{"zone": null}')])


def test_llama_s_calls_as_python_spells_them() -> None:
    dialect = next(d for d in DIALECTS if d.name == "llama-4")
    text = '<|python_start|>[get_weather(city="Köln", days=[1, 2]), clock()]<|python_end|>'
    _, _, calls = content_of(read(Marked(dialect, None, TOOLS), text, 4))
    assert [(c.name, json.loads(c.arguments)) for c in calls] == [
        ("get_weather", {"city": "Köln", "days": [1, 2]}),
        ("clock", {}),
    ]


NO_CALLS = ["{", "no call", "[" * 5000, '{"name": 3}', "f(" * 500, '{"name": "f", "arguments": 1}', ""]
NONE = [(d, body) for d in DIALECTS for body in NO_CALLS if body.startswith("{") or not d.bare]


@pytest.mark.parametrize(("dialect", "body"), NONE, ids=[f"{d.name}, {body[:9]}" for d, body in NONE])
def test_what_is_no_call_stays_text(dialect: Any, body: str) -> None:
    text = body if dialect.bare else dialect.open + body + dialect.close
    content, reasoning, calls = content_of(read(Marked(dialect, None, TOOLS), text, 11))
    assert (content, reasoning, calls) == (text, "", [])


def test_a_schema_that_only_says_yes_lets_a_value_be_what_it_is() -> None:
    glm = next(d for d in DIALECTS if d.name == "glm")
    text = "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>"
    for properties in ({"a": True}, {"a": None}, [], True):
        _, _, calls = content_of(read(Marked(glm, None, {"f": {"properties": properties}}), text, 9))
        assert calls == [Call("f", '{"a": 1}')]


def test_half_a_character_is_no_call() -> None:
    """What could not be sent."""
    body = '{"name": "clock", "arguments": {"zone": "\\ud83d"}}'
    content, _, calls = content_of(read(Marked(HERMES, None, TOOLS), f"<tool_call>{body}</tool_call>", 9))
    assert (content, calls) == (f"<tool_call>{body}</tool_call>", [])


HARMONY_CALL = "<|channel|>commentary to=functions.clock json<|message|>"


@pytest.mark.parametrize("body", ["[" * 100_000, '{"a":' * 100_000, "no call", '{"zone": "\\ud83d"}'])
def test_what_is_no_call_stays_text_in_harmony(body: str) -> None:
    assert content_of(read(Harmony(TOOLS), HARMONY_CALL + body, 50_000)) == (body, "", [])


def test_harmony_without_tools_knows_no_calls() -> None:
    assert content_of(read(Harmony({}), HARMONY_CALL + '{"zone": 1}', 7)) == ('{"zone": 1}', "", [])


PIECES = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            '{"name": "clock", "arguments": {}}',
            "<",
            "tool",
            " ",
            "\n",
            "x",
            "<tool_",
            "</thi",
        ]
    ),
    max_size=12,
)


@given(PIECES, st.integers(1, 9))
def test_cuts_do_not_matter(pieces: list[str], size: int) -> None:
    text = "".join(pieces)
    whole = content_of(read(Marked(HERMES, THINKING[0], TOOLS), text, len(text) or 1))
    assert content_of(read(Marked(HERMES, THINKING[0], TOOLS), text, size)) == whole


@given(PIECES)
def test_without_tools_and_reasoning_text_is_what_it_is(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert content_of(read(Plain(), text, 3)) == (text, "", [])
    assert content_of(read(Marked(HERMES, None, {}), text, 3))[0] == text


def test_reasoning_that_the_prompt_began() -> None:
    parts = read(Marked(None, THINKING[0], {}, inside=True), "\nWhy not.\n</think>\n\nYes.\n", 2)
    assert content_of(parts) == ("Yes.\n", "Why not.", [])


def test_harmony_s_channels() -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes, 1 < 2."
    assert content_of(read(Harmony(TOOLS), text, 5)) == ("Yes, 1 < 2.", "Hm.", [])


def test_text_comes_as_soon_as_it_is_sure() -> None:
    reader = Marked(HERMES, None, TOOLS)
    assert reader.push("One <") == [Said("One")]
    assert reader.push("b> two") == [Said(" <b> two")]
