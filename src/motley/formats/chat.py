"""A conversation to the prompt text that the model was trained on, by the template in its file.

    chat = ChatTemplate.from_metadata(checkpoint.metadata)
    prompt = chat.render([{"role": "user", "content": "Hi"}])
    ids = tokenizer.encode_prompt(prompt, special=True)

A file without a template is a model that never learned to converse: the messages' texts are then the prompt as they
are, an empty line between two, and nothing is invented around them. So one message is simply continued.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Template

from motley.errors import UsageError
from motley.formats.chat_sandbox import compile_template, render_template
from motley.formats.metadata import get_list, get_str
from motley.formats.vocabulary import special_text

KEY = "tokenizer.chat_template"
Message = Mapping[str, Any]


class ChatTemplate:
    """`sources`: template texts by name; `default` is the one for conversations without tools."""

    def __init__(self, sources: Mapping[str, str], bos: str = "", eos: str = "") -> None:
        self._templates = {name: compile_template(source, _key(name)) for name, source in sources.items()}
        self._tokens = {"bos_token": bos, "eos_token": eos}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "ChatTemplate":
        """From `tokenizer.chat_template` and the named ones that `tokenizer.chat_templates` lists."""
        names = get_list(metadata, KEY + "s", str, [])
        sources = {name: get_str(metadata, _key(name)) for name in names}
        if KEY in metadata:
            sources["default"] = get_str(metadata, KEY)
        return cls(sources, special_text(metadata, "bos"), special_text(metadata, "eos"))

    @property
    def names(self) -> tuple[str, ...]:
        """The templates that the file has; none for a model that only continues text."""
        return tuple(self._templates)

    def render(
        self, messages: Sequence[Message], add_generation_prompt: bool = True, name: str | None = None, **variables: Any
    ) -> str:
        """The prompt for `messages` (each with `role` and `content`); BOS and the like are text in it.

        `variables` go to the template (`tools`, `enable_thinking`, ...); `name` picks a named one.
        A conversation that the template does not take: UsageError; a broken or hostile template: FormatError.
        """
        _check(messages)
        if not self._templates:
            return "\n\n".join(_text(message) for message in messages)
        template, key = self._pick(name, bool(variables.get("tools")))
        given = {**self._tokens, **variables, "messages": messages, "add_generation_prompt": add_generation_prompt}
        return render_template(template, key, given, _characters(given))

    def _pick(self, name: str | None, tools: bool) -> tuple[Template, str]:
        if name is None:
            name = "tool_use" if tools and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise UsageError(f"no chat template is named '{name}': the model has {', '.join(self._templates)}")
        return self._templates[name], _key(name)


def _key(name: str) -> str:
    return KEY if name == "default" else f"{KEY}.{name}"


def _check(messages: Sequence[Message]) -> None:
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise UsageError("messages must be a list of {'role': ..., 'content': ...}")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError(f"messages[{i}] must be an object with a 'role'")


def _text(message: Message) -> str:
    content: Any = message.get("content") or ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        return "".join(str(part["text"]) for part in content)
    raise UsageError("the model takes text only: 'content' must be a string or a list of {'type': 'text', 'text': ...}")


def _characters(value: Any, depth: int = 0) -> int:
    """How much text the template was given."""
    if isinstance(value, str):
        return 16 + len(value)
    if depth > 50:
        raise UsageError("messages are nested more than 50 deep")
    if isinstance(value, Mapping):
        return sum(_characters(k, depth + 1) + _characters(v, depth + 1) for k, v in value.items())
    if isinstance(value, Sequence):
        return sum(_characters(item, depth + 1) for item in value)
    return 1
