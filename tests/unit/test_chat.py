"""Chat templates in the style of OLMoE's, Qwen3's and Mixtral's (our own words), variants, and models without one."""

import json
from typing import Any

import pytest

from motley.errors import FormatError, UsageError
from motley.formats.chat import ChatTemplate

OLMOE = """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}
{%- elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}
{%- elif message['role'] == 'assistant' %}
{%- if not loop.last %}{{ '<|assistant|>\n' + message['content'] + eos_token + '\n' }}
{%- else %}{{ '<|assistant|>\n' + message['content'] + eos_token }}{% endif %}
{%- endif %}
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}
{%- endfor %}"""

QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last_user=0) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' %}{%- set ns.last_user = messages|length - 1 - loop.index0 %}{%- break %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' and '</think>' in content and loop.index0 < ns.last_user %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""

MIXTRAL = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must take turns: user, assistant, user, ...') }}
{%- endif %}
{%- if message["role"] == "user" %}{{ ' [INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ ' ' + message['content'] + eos_token }}{% endif %}
{%- endfor %}"""

USER = {"role": "user", "content": "Hi <b> & ü"}
ASSISTANT = {"role": "assistant", "content": "<think>hm</think>\nHello"}
TURNS = [USER, ASSISTANT, {"role": "user", "content": "2+2?"}]


def metadata(template: str, **more: Any) -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": template,
        **more,
    }


def test_olmoe_style() -> None:
    chat = ChatTemplate.from_metadata(metadata(OLMOE))
    assert chat.render([USER]) == "<s><|user|>\nHi <b> & ü\n<|assistant|>\n"
    assert chat.render(TURNS[:2], add_generation_prompt=False) == (
        "<s><|user|>\nHi <b> & ü\n<|assistant|>\n<think>hm</think>\nHello</s>"
    )


def test_qwen3_style() -> None:
    chat = ChatTemplate.from_metadata(metadata(QWEN3))
    turn = "<|im_start|>{}\n{}<|im_end|>\n"
    start = "<|im_start|>assistant\n"
    told = turn.format("user", USER["content"]) + turn.format("assistant", "Hello") + turn.format("user", "2+2?")
    assert chat.render(TURNS) == told + start
    assert chat.render(TURNS, add_generation_prompt=False) == told
    assert chat.render(TURNS, enable_thinking=False) == told + start + "<think>\n\n</think>\n\n"
    tool = {"name": "f", "about": "<ü> & 'more'"}
    assert json.dumps(tool, ensure_ascii=False) in chat.render(TURNS, tools=[tool])  # not escaped for HTML


def test_mixtral_style() -> None:
    chat = ChatTemplate.from_metadata(metadata(MIXTRAL))
    assert chat.render([USER]) == "<s> [INST] Hi <b> & ü [/INST]"
    assert chat.render(TURNS).endswith("Hello</s> [INST] 2+2? [/INST]")
    with pytest.raises(UsageError, match="roles must take turns"):
        chat.render([USER, USER])


def test_named_variants() -> None:
    variants = {"tokenizer.chat_templates": ["tool_use", "brief"]}
    variants |= {"tokenizer.chat_template.tool_use": "tools!", "tokenizer.chat_template.brief": "brief!"}
    chat = ChatTemplate.from_metadata(metadata("default!", **variants))
    assert set(chat.names) == {"default", "tool_use", "brief"}
    assert chat.render([USER]) == "default!"
    assert chat.render([USER], tools=[{"name": "f"}]) == "tools!"
    assert chat.render([USER], name="brief") == "brief!"
    with pytest.raises(UsageError, match=r"'rag'.*default"):
        chat.render([USER], name="rag")


def test_without_a_template_a_message_is_continued_as_it_is() -> None:
    chat = ChatTemplate.from_metadata({"tokenizer.ggml.model": "gpt2"})
    assert chat.names == ()
    assert chat.render([{"role": "user", "content": "Once upon a time"}]) == "Once upon a time"
    assert chat.render(TURNS[:1] + TURNS[2:]) == "Hi <b> & ü\n\n2+2?"
    assert chat.render([{"role": "user", "content": [{"type": "text", "text": "a"}]}]) == "a"
    with pytest.raises(UsageError, match="text only"):
        chat.render([{"role": "user", "content": [{"type": "image_url"}]}])


def test_what_templates_may_use() -> None:
    def text(template: str, **variables: Any) -> str:
        return ChatTemplate({"default": template}).render([USER], **variables)

    assert text("{{ [1, {'a': 'é'}] | tojson }}") == '[1, {"a": "é"}]'
    assert text("{{ {'b': 1, 'a': [2]} | tojson(indent=2) }}") == json.dumps({"b": 1, "a": [2]}, indent=2)
    assert len(text("{{ strftime_now('%d %b %Y') }}")) == 11
    assert text("{% generation %}{{ messages[0].content }}{% endgeneration %}") == USER["content"]
    assert text("{{ '{} and {:>3}'.format(1, 2) }}") == "1 and   2"
    assert text("{{ '**bold** 123456 {} {:*>3}'.format(1, 2) }}") == "**bold** 123456 1 **2"
    assert text("{{ [1, {'a': (2, none)}] }}") == "[1, {'a': (2, None)}]"
    assert text("{{ 'a' * 3 ~ '-' * 2 }}{{ 2 ** 8 }}{{ '%d%%' % 5 }}") == "aaa--2565%"
    assert text("{{ messages | map(attribute='role') | join(', ') }}") == "user"
    assert text("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('a') }}{% set b %}{{ m(1) }}{% endset %}{{ b }}") == (
        "<a><1>"
    )
    assert text("a\n  {% if true %}\n  b\n  {% endif %}\nc") == "a\n  b\nc"
    assert text("{% for c in 'abc' %}{{ loop.index }}/{{ loop.length }}{{ c }}{% endfor %}") == "1/3a2/3b3/3c"
    assert text("{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}") == "123"


def test_long_conversations_fit_the_budget() -> None:
    turns = [{"role": role, "content": "word " * 2000} for _ in range(500) for role in ("user", "assistant")]
    for template in (OLMOE, QWEN3, MIXTRAL):
        assert len(ChatTemplate({"default": template}).render(turns)) > 10_000_000
    joined = (
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.content %}{% endfor %}{{ ns.t }}"
    )
    assert len(ChatTemplate({"default": joined}).render(turns)) == 10_000_000


@pytest.mark.parametrize("messages", ["Hi", {"role": "user"}, [{"content": "x"}], ["x"], [{"role": 1}], None])
def test_messages_of_a_wrong_form(messages: Any) -> None:
    for template in ({"default": OLMOE}, {}):
        with pytest.raises(UsageError, match="messages"):
            ChatTemplate(template).render(messages)


def test_a_conversation_that_the_template_cannot_take() -> None:
    with pytest.raises(FormatError, match=r"tokenizer\.chat_template fails.*"):
        ChatTemplate({"default": OLMOE}).render([{"role": "user", "content": None}])


def test_wrong_metadata() -> None:
    for wrong in (
        {"tokenizer.chat_template": 5},
        {"tokenizer.chat_template": "{% for %}"},
        {"tokenizer.chat_template": "x", "tokenizer.chat_templates": "tool_use"},
        {"tokenizer.chat_template": "x", "tokenizer.chat_templates": ["tool_use"]},
        metadata("x", **{"tokenizer.ggml.eos_token_id": 3}),
    ):
        with pytest.raises(FormatError, match="tokenizer"):
            ChatTemplate.from_metadata(wrong)
