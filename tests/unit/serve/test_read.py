"""Requests from bytes: what is taken, what is refused and what for; nothing else can come out of it."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from motley.serve.limits import Limits
from motley.serve.problems import Problem
from motley.serve.read import bias_of, check_depth, decode, prompts_of, sampling_of, stops_of
from motley.serve.records import chat_request, completion_request

HI = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> Any:
    return decode(chat_request, json.dumps({"messages": HI, **fields}).encode(), Limits())


def test_what_is_not_known_is_ignored() -> None:
    assert chat(store=True, metadata={"a": 1}, service_tier="auto").messages[0].content == "Hi"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 100}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": 100, "logprobs": True}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tool_choice": "must"}, "tool_choice"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"stop": 3}, "stop"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Problem) as found:
        chat(**fields)
    assert (found.value.status, found.value.param) == (400, param)


def test_limits_on_stop_strings_and_biases() -> None:
    with pytest.raises(Problem, match="stop"):
        stops_of(chat(stop=["x"] * 100), Limits())
    with pytest.raises(Problem, match="stop"):
        stops_of(chat(stop="x" * 1000), Limits())
    assert stops_of(chat(stop=["", "a"]), Limits()) == ["a"]
    for token in ("-1", "x", "5000", "1.5", "٣", "", "9" * 5000, "0\n"):
        with pytest.raises(Problem, match="no token id"):
            bias_of(chat(logit_bias={token: 1}), 5000)
    assert bias_of(chat(logit_bias={"7": -100}), 5000) == {7: -100.0}


def test_seeds() -> None:
    request = chat(seed=-1, n=2)
    assert [sampling_of(request, i).seed for i in range(2)] == [2**64 - 1, 0]
    assert sampling_of(chat(), 0).seed != sampling_of(chat(), 0).seed


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (["a", [1]], ["a", [1]]),
    ],
)
def test_prompts(prompt: Any, found: Any) -> None:
    request = decode(completion_request, json.dumps({"prompt": prompt}).encode(), Limits())
    assert prompts_of(request, Limits()) == found


@pytest.mark.parametrize("prompt", [[], [1, "a"], [[1], 2], ["a"] * 100])
def test_prompts_that_are_none(prompt: Any) -> None:
    request = decode(completion_request, json.dumps({"prompt": prompt}).encode(), Limits())
    with pytest.raises(Problem, match="prompt"):
        prompts_of(request, Limits())


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def depth(value: Any) -> int:
    if isinstance(value, dict | list):
        return 1 + max((depth(v) for v in (value.values() if isinstance(value, dict) else value)), default=0)
    return 0


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(JSON, st.integers(1, 6))
@example({'a"]}[{': ["\\", "\\\\", "[", {"}": ['\\"']}]}, 2)
def test_depth_is_counted_outside_strings(value: Any, most: int) -> None:
    body = json.dumps(value).encode()
    if depth(value) > most:
        with pytest.raises(Problem, match="nested"):
            check_depth(body, most)
    else:
        check_depth(body, most)


NAMES = st.sampled_from(
    [
        *chat_request.type.__struct_fields__,
        *completion_request.type.__struct_fields__,
        "function",
        "type",
        "schema",
        "x",
    ]
)
NEAR = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.sampled_from(["text", "function", "auto", "user", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=15,
)


def refusal(decoder: Any, body: bytes) -> Problem | None:
    try:
        request = decode(decoder, body, Limits())
        sampling_of(request, 0)
        stops_of(request, Limits())
        bias_of(request, 100)
        if decoder is completion_request:
            prompts_of(request, Limits())
    except Problem as problem:
        return problem
    return None


@given(st.dictionaries(NAMES, NEAR, max_size=6))
def test_whatever_comes_is_read_or_refused(value: dict[str, Any]) -> None:
    for decoder in (chat_request, completion_request):
        for body in (json.dumps(value).encode(), json.dumps({"messages": HI, "prompt": "a", **value}).encode()):
            if problem := refusal(decoder, body):
                assert problem.status == 400
                assert json.loads(problem.body)["error"]["message"]


@given(st.binary(max_size=60))
def test_bytes_of_any_kind(body: bytes) -> None:
    with pytest.raises(Problem):
        decode(chat_request, body, Limits())


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"messages":' * 5_000, b'"' + b'\\"' * 500_000, b"{}" * 500_000])
def test_hostile_bodies_are_refused_at_once(body: bytes) -> None:
    with pytest.raises(Problem):
        decode(chat_request, body, Limits())
