"""From a request's bytes to what is to be done, or a `Problem` that says what is wrong with it."""

import re
import secrets
from typing import Any, TypeVar

import msgspec
import numpy as np

from motley.engine.sampling import Sampling
from motley.errors import UsageError
from motley.serve.limits import Limits
from motley.serve.problems import Problem
from motley.serve.records import ChatRequest, CompletionRequest

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)  # an unclosed one, to the end: linear in any case
_ID = re.compile("[0-9]{1,9}")  # of a token; longer ones Python may refuse to read
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

Request = TypeVar("Request", ChatRequest, CompletionRequest)


def decode(decoder: msgspec.json.Decoder[Request], body: bytes, limits: Limits) -> Request:
    check_depth(body, limits.json_depth)
    try:
        request = decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or None
        raise Problem(400, f"{param}: {message}" if param else message, param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON: {error}") from None
    _check(request, limits)
    return request


def check_depth(body: bytes, most: int) -> None:
    """Before anything is built of it: brackets outside strings."""
    if body.count(b"[") + body.count(b"{") <= most:
        return
    brackets = np.frombuffer(_STRING.sub(b"", body).translate(None, delete=_NO_BRACKETS), np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    if len(brackets) and int(np.where(opening, 1, -1).cumsum().max()) > most:
        raise Problem(400, f"the body is nested more than {most} deep")


def _check(request: ChatRequest | CompletionRequest, limits: Limits) -> None:
    for name, size, most in (
        ("n", request.n or 1, limits.choices),
        ("top_logprobs", _top(request), limits.top_logprobs),
        ("logit_bias", len(request.logit_bias or ()), limits.logit_bias),
    ):
        if size > most:
            raise Problem(400, f"{name}: {size} is more than this server's {most}", param=name)
    if isinstance(request, ChatRequest):
        _check_chat(request, limits)
    else:
        _check_completion(request)


def _top(request: ChatRequest | CompletionRequest) -> int:
    return (request.top_logprobs if isinstance(request, ChatRequest) else request.logprobs) or 0


def _check_chat(request: ChatRequest, limits: Limits) -> None:
    if len(request.messages) > limits.messages:
        raise Problem(400, f"messages: more than this server's {limits.messages}", param="messages")
    if len(request.tools or ()) > limits.tools:
        raise Problem(400, f"tools: more than this server's {limits.tools}", param="tools")
    if request.top_logprobs and not request.logprobs:
        raise Problem(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    for message in request.messages:
        if isinstance(message.content, list) and any(part.type != "text" for part in message.content):
            raise Problem(400, "messages: this server takes text only; leave out other parts", param="messages")


def _check_completion(request: CompletionRequest) -> None:
    for name in ("echo", "suffix"):
        if getattr(request, name):
            raise Problem(400, f"{name} is not done here: leave it out", param=name)
    if (request.best_of or 1) > (request.n or 1):
        raise Problem(400, "best_of above n is not done here: leave it out", param="best_of")


def stops_of(request: ChatRequest | CompletionRequest, limits: Limits) -> list[str]:
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > limits.stops:
        raise Problem(400, f"stop: {len(stops)} strings are more than this server's {limits.stops}", param="stop")
    if any(len(stop) > limits.stop_characters for stop in stops):
        raise Problem(400, f"stop: a string is longer than {limits.stop_characters} characters", param="stop")
    return [stop for stop in stops if stop]


def sampling_of(request: ChatRequest | CompletionRequest, choice: int) -> Sampling:
    """Of the answer number `choice`; without a seed, one that nobody knows."""
    seed = secrets.randbits(63) if request.seed is None else request.seed
    top_p = 1.0 if request.top_p is None else request.top_p
    try:
        return Sampling(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_k=max(0, request.top_k or 0),
            top_p=max(top_p, 1e-9),  # 0 is what some clients send for the single best
            min_p=request.min_p or 0.0,
            repetition_penalty=request.repetition_penalty or 1.0,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            seed=(seed + choice) % 2**64,
        )
    except UsageError as error:
        raise Problem(400, str(error)) from None


def bias_of(request: ChatRequest | CompletionRequest, vocab_size: int) -> dict[int, float]:
    found = {}
    for token, bias in (request.logit_bias or {}).items():
        if not (_ID.fullmatch(token) and int(token) < vocab_size):
            raise Problem(400, f"logit_bias: {token[:20]!r} is no token id of this model", param="logit_bias")
        found[int(token)] = bias
    return found


def prompts_of(request: CompletionRequest, limits: Limits) -> list[str | list[int]]:
    """One for each answer that is asked for (`n` apart): texts, or token ids."""
    given: Any = request.prompt
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(item, int) for item in given):
        return [given]
    if not given or any(isinstance(item, int) for item in given):
        raise Problem(400, "prompt: a text, a list of texts, of token ids, or of such lists", param="prompt")
    if len(given) * (request.n or 1) > limits.choices:
        raise Problem(400, f"prompt: this server gives {limits.choices} answers at once at the most", param="prompt")
    return list(given)
