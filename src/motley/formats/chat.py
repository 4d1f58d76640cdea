"""A conversation to the prompt text that the model was trained on, by the template in its file.

    chat = ChatTemplate.from_metadata(checkpoint.metadata)
    prompt = chat.render([{"role": "user", "content": "Hi"}])
    ids = tokenizer.encode_prompt(prompt, special=True)

Renders as `transformers` does (apply_chat_template, 5.24). The prompt knows which of its characters the template wrote,
so that a message which spells a control token (`<|im_start|>`) never becomes one: give it to the tokenizer as it is.

A file without a template is a model that never learned to converse: the messages' texts are then the prompt as they
are, an empty line between two, and nothing is invented around them. So one message is simply continued.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from motley.errors import UsageError
from motley.formats.chat_sandbox import compile_template, render_template
from motley.formats.metadata import get_list, get_str
from motley.formats.prompt import Prompt, written
from motley.formats.vocabulary import special_text

KEY = "tokenizer.chat_template"
MAX_DEPTH = 50
Message = Mapping[str, Any]
# Templates put these between marks to make a token (`<|user|>`): they count as the template's own. Other roles don't.
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function", "ipython", "observation", "model"})
# Names that a message's reasoning goes by; the first is what templates read, gpt-oss's reads the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """`sources`: template texts by name; `default` is the one for conversations without tools."""

    def __init__(self, sources: Mapping[str, str], bos: str = "", eos: str = "") -> None:
        self._sources = dict(sources)
        self._templates = {name: compile_template(source, _key(name)) for name, source in sources.items()}
        self._tokens = {"bos_token": written(bos), "eos_token": written(eos)}

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

    @property
    def sources(self) -> tuple[str, ...]:
        """The templates' own texts."""
        return tuple(self._sources.values())

    def render(
        self, messages: Sequence[Message], add_generation_prompt: bool = True, name: str | None = None, **variables: Any
    ) -> Prompt:
        """The prompt for `messages` (each with `role` and `content`); BOS and the like are text in it.

        `variables` go to the template (`tools` as JSON schemas, `documents`, `enable_thinking`, ...); `name` picks a
        named one. A conversation that the template does not take: UsageError; a broken or hostile one: FormatError.
        """
        _check(messages)
        if not self._templates:
            return Prompt("\n\n".join(_text(message) for message in messages))
        name = self._pick(name, bool(variables.get("tools")))
        outside = {"tools": None, "documents": None, **variables}
        given = {
            **self._tokens,
            **{key: _plain(value) for key, value in outside.items()},
            "messages": [_message(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        prompt = render_template(self._templates[name], _key(name), given, _characters(given))
        return Prompt(prompt, prompt._own, self._sources[name])

    def _pick(self, name: str | None, tools: bool) -> str:
        if name is None:
            name = "tool_use" if tools and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise UsageError(f"no chat template is named '{name}': the model has {', '.join(self._templates)}")
        return name


def _key(name: str) -> str:
    return KEY if name == "default" else f"{KEY}.{name}"


def _check(messages: Sequence[Message]) -> None:
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise UsageError("messages must be a list of {'role': ..., 'content': ...}")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError(f"messages[{i}] must be an object with a 'role'")


def _message(message: Message) -> dict[str, Any]:
    """As templates expect one: no keys without a value, reasoning under the names that templates know."""
    made: dict[str, Any] = {key: value for key, value in _plain(message).items() if value is not None}
    if made["role"] in ROLES:
        made["role"] = written(made["role"])
    reasoning = next((made[key] for key in _REASONING if key in made), None)
    return made if reasoning is None else {"thinking": reasoning, **made, "reasoning_content": reasoning}


def _plain(value: Any, depth: int = 0) -> Any:
    """JSON's own types and nothing else, all text well-formed and from outside."""
    if depth > MAX_DEPTH:
        raise UsageError(f"messages are nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        return str.__str__(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_plain(key, depth + 1): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    raise UsageError(f"a message, tool or variable holds a {type(value).__name__}: only what JSON knows can be there")


def _text(message: Message) -> str:
    content: Any = _plain(message.get("content") or "")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        return "".join(str(part["text"]) for part in content)
    raise UsageError("the model takes text only: 'content' must be a string or a list of {'type': 'text', 'text': ...}")


def _characters(value: Any) -> int:
    """How much text the template was given."""
    if isinstance(value, str):
        return 16 + len(value)
    if isinstance(value, Mapping):
        return sum(_characters(k) + _characters(v) for k, v in value.items())
    return sum(map(_characters, value)) if isinstance(value, list) else 1
