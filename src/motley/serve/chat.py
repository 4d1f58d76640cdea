"""`POST /v1/chat/completions`."""

import json
import secrets
import string
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from motley.errors import FormatError, UsageError
from motley.formats.prompt import Prompt
from motley.serve.asking import Asked, ask, odds_of
from motley.serve.events import DONE, Events, event, while_there
from motley.serve.grammar import Grammar
from motley.serve.problems import Problem
from motley.serve.read import decode
from motley.serve.records import (
    ChatRequest,
    Message,
    NamedTool,
    ObjectFormat,
    SchemaFormat,
    Tool,
    ToolCall,
    chat_request,
)
from motley.serve.sequence import Piece
from motley.serve.service import Service
from motley.serve.tools.call import Call
from motley.serve.tools.reader import Part, Reader, content_of

RESERVED = ("messages", "add_generation_prompt", "name", "tools")  # what a request may not set for a template
ID_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Chat:
    """A chat request, ready to run."""

    tokens: list[int]
    inside: bool  # the prompt began the reasoning
    tools: Mapping[str, Mapping[str, Any]]  # parameters by name; none where no call is to be read
    forced: bool
    single: bool  # one call at the most
    grammar: Grammar | None


async def chat_completions(request: Request) -> Response:
    service: Service = request.app.state.service
    read = decode(chat_request, await request.body(), service.limits)
    chat = await service.apart(_prepared, service, read)
    asked = ask(
        service,
        read,
        [chat.tokens],
        read.max_completion_tokens or read.max_tokens,
        kind="chatcmpl",
        n_odds=(read.top_logprobs or 0) if read.logprobs else None,
        shown=service.served.format.shown,
        grammar=chat.grammar,
    )
    asked.start()
    if read.stream:
        return Events(_stream(asked, chat), asked.close)
    return await while_there(request, _whole(asked, chat), asked.close)


# -- from the request to tokens


def _prepared(service: Service, request: ChatRequest) -> Chat:
    tools = _tools(request)
    prompt = _prompt(service, request, tools)
    inside = service.served.format.begins_inside(prompt)
    parameters = {tool.function.name: tool.function.parameters or {} for tool in tools}
    forced = _forced(request, parameters)
    return Chat(
        service.served.tokenizer.encode_prompt(prompt, special=True),
        inside,
        parameters,
        bool(forced),
        request.parallel_tool_calls is False,
        _grammar(service, request, forced, inside),
    )


def _tools(request: ChatRequest) -> list[Tool]:
    """Those that the model may call."""
    return [] if request.tool_choice == "none" else request.tools or []


def _forced(request: ChatRequest, tools: Mapping[str, Any]) -> dict[str, Any]:
    """Those of which one must be called; none where the model is free."""
    choice = request.tool_choice
    if choice in (None, "none", "auto"):
        return {}
    if not tools:
        raise Problem(400, "tool_choice: there are no tools", param="tool_choice")
    if not isinstance(choice, NamedTool):
        return dict(tools)
    if choice.function.name not in tools:
        raise Problem(400, f"tool_choice: no tool is named '{choice.function.name[:64]}'", param="tool_choice")
    return {choice.function.name: tools[choice.function.name]}


def _prompt(service: Service, request: ChatRequest, tools: list[Tool]) -> Prompt:
    variables = dict(request.chat_template_kwargs or {})
    if wrong := [name for name in RESERVED if name in variables]:
        raise Problem(400, f"chat_template_kwargs: {wrong[0]} can't be set there", param="chat_template_kwargs")
    if request.reasoning_effort:
        variables.setdefault("reasoning_effort", request.reasoning_effort)
    if tools:
        variables["tools"] = [_plain_tool(tool) for tool in tools]
    render = service.served.chat.render
    try:
        return render([_plain(message, spelled=False) for message in request.messages], **variables)
    except (UsageError, FormatError):
        if not any(message.tool_calls for message in request.messages):
            raise
        # Some templates want a call's arguments as an object, some as the text that they were spelled as.
        return render([_plain(message, spelled=True) for message in request.messages], **variables)


def _plain(message: Message, spelled: bool) -> dict[str, Any]:
    """As templates know messages."""
    plain: dict[str, Any] = msgspec.to_builtins(message)
    if isinstance(message.content, list):
        plain["content"] = "".join(part.text or "" for part in message.content)
    plain.setdefault("content", None if message.tool_calls else "")
    if message.tool_calls:
        plain["tool_calls"] = [_plain_call(call, spelled) for call in message.tool_calls]
    return plain


def _plain_call(call: ToolCall, spelled: bool) -> dict[str, Any]:
    arguments: Any = call.function.arguments
    if spelled and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not spelled and isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise Problem(400, "messages: a tool call's arguments are no JSON", param="messages") from None
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def _plain_tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.function.name, "description": tool.function.description or ""}
    return {"type": "function", "function": function | {"parameters": tool.function.parameters or {}}}


def _grammar(service: Service, request: ChatRequest, forced: dict[str, Any], inside: bool) -> Grammar | None:
    served, wanted = service.served, request.response_format
    if forced:
        rule, param = served.format.calls_rule(served.grammars, forced, inside), "tools"
    elif isinstance(wanted, ObjectFormat):
        rule, param = served.format.content_rule(served.grammars, {"type": "object"}, inside), "response_format"
    elif isinstance(wanted, SchemaFormat):
        schema = wanted.json_schema.schema or {"type": "object"}
        rule, param = served.format.content_rule(served.grammars, schema, inside), "response_format"
    else:
        return None
    if len(rule) > service.limits.schema_bytes:
        raise Problem(400, f"{param}: the schemas are longer than {service.limits.schema_bytes} bytes", param=param)
    return served.grammars.compile(rule, param)


# -- from pieces to the answer


def _reader(asked: Asked, chat: Chat) -> Reader:
    return asked.service.served.format.reader(chat.tools, chat.inside, chat.forced)


async def _stream(asked: Asked, chat: Chat) -> AsyncGenerator[bytes, None]:
    choices = [_Streamed(_reader(asked, chat), chat.single) for _ in asked.sequences]
    async for pieces in asked.pieces():
        out = []
        for choice, piece in pieces:
            for delta, odds, finish in choices[choice].deltas(piece):
                out.append(event(_chunk(asked, [_choice(asked, choice, {"delta": delta}, odds, finish)])))
        if out:
            yield b"".join(out)
    last = _chunk(asked, []) | {"usage": asked.usage(), "timings": asked.timings()}
    yield (event(last) if asked.usage_wanted else b"") + DONE


class _Streamed:
    """One choice's deltas."""

    def __init__(self, reader: Reader, single: bool) -> None:
        self._reader, self._single = reader, single
        self._begun, self._calls = False, 0

    def deltas(self, piece: Piece) -> list[tuple[dict[str, Any], Piece, str]]:
        """(delta, the piece whose odds go with it, finish)"""
        parts = self._reader.push(piece.text) + (self._reader.end() if piece.finish else [])
        found = [delta for part in parts if (delta := self._delta(part))]
        if not found and (piece.odds or piece.finish):
            found = [{}]
        if found and not self._begun:
            found[0] = {"role": "assistant", "content": "", **found[0]}
            self._begun = True
        last = len(found) - 1
        finish = _finish(piece.finish, self._calls)
        return [(delta, piece if i == 0 else Piece(), finish if i == last else "") for i, delta in enumerate(found)]

    def _delta(self, part: Part) -> dict[str, Any]:
        if not isinstance(part, Call):
            return {"reasoning_content" if part.reasoning else "content": part.text}
        if self._single and self._calls:
            return {}
        self._calls += 1
        return {"tool_calls": [{"index": self._calls - 1, **_call(part)}]}


async def _whole(asked: Asked, chat: Chat) -> Response:
    choices = []
    for choice, whole in enumerate(await asked.whole()):
        reader = _reader(asked, chat)
        content, reasoning, calls = content_of(reader.push(whole.text) + reader.end())
        calls = calls[:1] if chat.single else calls
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message |= {"content": content or None, "tool_calls": [_call(call) for call in calls]}
        choices.append(_choice(asked, choice, {"message": message}, whole, _finish(whole.finish, len(calls))))
    body = {
        "id": asked.id,
        "object": "chat.completion",
        "created": asked.created,
        "model": asked.model,
        "choices": choices,
        "usage": asked.usage(),
        "timings": asked.timings(),
    }
    return Response(msgspec.json.encode(body), media_type="application/json")


def _call(call: Call) -> dict[str, Any]:
    """Ids are nine letters and digits: some templates take no other."""
    id = "".join(secrets.choice(ID_LETTERS) for _ in range(9))
    return {"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _finish(finish: str, n_calls: int) -> str:
    return "tool_calls" if finish == "stop" and n_calls else finish


def _chunk(asked: Asked, choices: list[Any]) -> dict[str, Any]:
    chunk = {
        "id": asked.id,
        "object": "chat.completion.chunk",
        "created": asked.created,
        "model": asked.model,
        "choices": choices,
    }
    return chunk | {"usage": None} if asked.usage_wanted else chunk


def _choice(asked: Asked, index: int, said: dict[str, Any], piece: Piece, finish: str) -> dict[str, Any]:
    wanted = asked.sequences[index].chooser.n_odds is not None
    odds = {"content": [odds_of(asked.service, odds) for odds in piece.odds], "refusal": None} if wanted else None
    return {"index": index, **said, "logprobs": odds, "finish_reason": finish or None}
