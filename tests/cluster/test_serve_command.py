"""`motley serve` as its users meet it: a process of its own with the bundled model, and OpenAI's own client."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import openai
import psutil
import pytest
from openai import OpenAI

import motley
from motley.bundled import model_path
from motley.cli.session import local_seats
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.tokenizer import Tokenizer
from unit.labs import device, lab

HI = [{"role": "user", "content": "The sea"}]
KEY = "a key for tests"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Bonn", "Lyon"]}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": CITY}}


class Server:
    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.client = OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=60)
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)

    def get(self, path: str, headers: dict[str, str] | None = None) -> Any:
        request = Request(
            self.url.removesuffix("/v1") + path, headers={"authorization": f"Bearer {KEY}", **(headers or {})}
        )
        with urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def state(self) -> Any:
        return json.loads(self.get("/api/state"))


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    threads = [] if "--lab" in arguments else ["--threads", "1"]
    command = [sys.executable, "-m", "motley", "serve", "--port", "0", *threads, *arguments]
    environment = {**os.environ, "MOTLEY_API_KEY": KEY}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"http://\S+/v1", line):
                break
        else:
            raise AssertionError(f"the server ended with {process.wait()}")
        yield Server(process, found[0])
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--slots", "4", "--queue", "4") as found:
        yield found


def test_chat(server: Server) -> None:
    answer = server.client.chat.completions.create(model="any", messages=HI, max_tokens=12, temperature=0)  # type: ignore[arg-type]
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 12)
    assert answer.model_extra["timings"]["predicted_n"] == 12  # type: ignore[index]


def test_an_answer_is_what_the_model_gives_alone(server: Server) -> None:
    tokenizer = Tokenizer.from_metadata(open_checkpoint(model_path()).metadata)
    with motley.load(model_path(), threads=1, context=64) as model:
        tokens = list(model.generate(tokenizer.encode_prompt("The sea"), 24))
    answer = server.client.completions.create(model="any", prompt="The sea", max_tokens=24, temperature=0)
    assert answer.choices[0].text == tokenizer.decode(tokens, continues=True)


def test_a_stream_is_the_answer_in_pieces(server: Server) -> None:
    asked: dict[str, Any] = {"model": "any", "messages": HI, "max_tokens": 30, "temperature": 0.8, "seed": 5}
    whole = server.client.chat.completions.create(**asked)
    chunks = list(server.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    said = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in said) == whole.choices[0].message.content
    assert said[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in said if choice.finish_reason] == ["length"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 30
    assert not chunks[-1].choices


def test_seeds_and_choices(server: Server) -> None:
    asked: dict[str, Any] = {
        "model": "any",
        "prompt": ["One", "Two"],
        "n": 2,
        "max_tokens": 9,
        "temperature": 1,
        "seed": 3,
    }
    first, again = (server.client.completions.create(**asked) for _ in range(2))
    assert [c.text for c in first.choices] == [c.text for c in again.choices]
    assert [c.index for c in first.choices] == [0, 1, 2, 3]
    assert len({c.text for c in first.choices}) == 4
    assert first.usage is not None
    assert first.usage.completion_tokens == 36


def test_a_beginning_that_is_known_is_not_computed_again(server: Server) -> None:
    asked: dict[str, Any] = {
        "model": "any",
        "prompt": "A beginning of its own. " * 9,
        "max_tokens": 4,
        "temperature": 0,
    }
    first, again = (server.client.completions.create(**asked) for _ in range(2))
    assert first.choices[0].text == again.choices[0].text
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_logprobs(server: Server) -> None:
    answer = server.client.chat.completions.create(  # type: ignore[call-overload]
        model="any", messages=HI, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    for token in tokens:
        assert [token.top_logprobs[0].token, token.top_logprobs[0].logprob] == [token.token, token.logprob]
        assert len(token.top_logprobs) == 3
        assert token.logprob < 0
    old = server.client.completions.create(model="any", prompt="The sea", max_tokens=5, temperature=0, logprobs=2)
    assert old.choices[0].logprobs is not None
    assert "".join(old.choices[0].logprobs.tokens or []) == old.choices[0].text
    assert all(len(top) == 2 for top in old.choices[0].logprobs.top_logprobs or [])


def test_stop_strings(server: Server) -> None:
    asked: dict[str, Any] = {"model": "any", "prompt": "The sea", "max_tokens": 40, "temperature": 0}
    whole = server.client.completions.create(**asked).choices[0].text
    stop = whole[17:21]  # it may begin and end inside of tokens
    answer = server.client.completions.create(**asked, stop=["never said", stop])
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens < 40
    pieces = [chunk.choices[0].text for chunk in server.client.completions.create(**asked, stop=stop, stream=True)]
    assert "".join(pieces) == answer.choices[0].text


def test_json_that_fits_a_schema(server: Server) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    answer = server.client.chat.completions.create(  # type: ignore[call-overload]
        model="any", messages=HI, temperature=1, seed=2, max_tokens=200, response_format=wanted
    )
    assert answer.choices[0].finish_reason == "stop"
    found = json.loads(answer.choices[0].message.content)
    assert found["city"] in ("Bonn", "Lyon")
    assert isinstance(found["days"], int)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_tools(server: Server, choice: Any) -> None:
    asked: dict[str, Any] = {"model": "any", "messages": HI, "temperature": 1, "seed": 2, "max_tokens": 200}
    asked |= {"tools": [TOOL], "tool_choice": choice}
    answer = server.client.chat.completions.create(**asked)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Bonn", "Lyon")
    chunks = list(server.client.chat.completions.create(**asked, stream=True))
    (delta,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert (delta.index, delta.function.name, delta.function.arguments) == (0, "weather", call.function.arguments)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    said = {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]}
    again = server.client.chat.completions.create(model="any", messages=[*HI, said, result], tools=[TOOL], max_tokens=3)  # type: ignore[list-item]
    assert again.choices[0].finish_reason


def test_models(server: Server) -> None:
    (model,) = server.client.models.list().data
    assert server.client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("../../etc/passwd")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"temperature": 9999}, None),
        ({"max_tokens": 5000}, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "context_length_exceeded"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, None),
        ({"tool_choice": "required"}, None),
        ({"logit_bias": {"x": 1}}, None),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "file:///etc/passwd"}}}}, None),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, None),
    ],
)
def test_wrong_requests(server: Server, fields: dict[str, Any], code: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as found:
        server.client.chat.completions.create(**{"model": "any", "messages": HI, **fields})
    assert found.value.code == code
    assert found.value.type == "invalid_request_error"
    assert "root:" not in str(found.value)


def test_keys(server: Server) -> None:
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=server.url, api_key="wrong", max_retries=0).models.list()
    assert json.loads(server.get("/health", {"authorization": ""})) == {"status": "ok"}


def test_a_proxy_on_this_machine_may_keep_its_clients_name_for_it(server: Server) -> None:
    assert json.loads(server.get("/v1/models", {"host": "llm.example.com"}))["data"]


def test_a_full_queue_says_when_to_come_back(server: Server) -> None:
    asked: dict[str, Any] = {"model": "any", "prompt": "The sea", "max_tokens": 900, "temperature": 0, "stream": True}
    asked["extra_body"] = {"ignore_eos": True}
    streams = [server.client.completions.create(**asked) for _ in range(8)]
    with pytest.raises(openai.RateLimitError) as found:
        server.client.completions.create(**asked)
    assert int(found.value.response.headers["retry-after"]) >= 1
    assert found.value.code == "queue_full"
    for stream in streams:
        stream.close()
    until = time.monotonic() + 20
    while any(slot["state"] != "idle" for slot in server.state()["slots"]) or server.state()["queue"]:
        assert time.monotonic() < until, "streams that nobody reads go on"
        time.sleep(0.02)


def test_a_client_that_goes_before_its_answer_is_not_worked_for(server: Server) -> None:
    body = json.dumps({"prompt": "The sea", "max_tokens": 900, "ignore_eos": True}).encode()
    host, port = server.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port))) as sock:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {KEY}\r\n"
        sock.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        while all(slot["state"] == "idle" for slot in server.state()["slots"]):
            time.sleep(0.005)
    until = time.monotonic() + 20
    while any(slot["state"] != "idle" for slot in server.state()["slots"]):
        assert time.monotonic() < until
        time.sleep(0.005)
    assert 'motley_sequences_total{finish="cancelled"}' in server.get("/metrics")


def test_what_a_page_sees(server: Server) -> None:
    with urlopen(
        Request(server.url.removesuffix("/v1") + "/api/events", headers={"authorization": f"Bearer {KEY}"})
    ) as events:
        first = json.loads(events.readline().decode().removeprefix("data: "))
        assert set(first) >= {"model", "slots", "queue", "experts", "time", "tokens_per_s", "placed", "events"}
        server.client.completions.create(model="any", prompt="The sea", max_tokens=40)
        tokens, experts = first["totals"]["tokens"], sum(map(sum, first["experts"]))
        while not (tokens > first["totals"]["tokens"] and experts > sum(map(sum, first["experts"]))):
            line = events.readline().decode()
            if line.startswith("data: "):
                changed = json.loads(line.removeprefix("data: "))
                tokens = changed.get("totals", {"tokens": tokens})["tokens"]
                experts = sum(map(sum, changed["experts"])) if "experts" in changed else experts
    assert "placed" not in changed


def test_metrics_and_description(server: Server) -> None:
    lines = server.get("/metrics").splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values["motley_steps_total"]) == float(values["motley_scheduler_step_seconds_count"]) > 0
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} <= {
        name.split("{")[0].removesuffix("_count") for name in values
    } | {name.split("_bucket{")[0] for name in values}
    described = json.loads(server.get("/openapi.json"))
    assert "ChatRequest" in described["components"]["schemas"]


def test_logs_have_numbers_and_no_text(server: Server) -> None:
    secret = "xylophone"
    server.client.completions.create(model="any", prompt=secret, max_tokens=3)
    until = time.monotonic() + 20
    while not any('"completion_tokens":3' in line for line in server.lines):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert not any(secret in line for line in server.lines)


def test_raw_bytes_never_hurt(server: Server) -> None:
    host, port = server.url.split("/")[2].split(":")
    hostile = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 50_000,
        b"GET /%ff%00/../../etc/passwd HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil\r\n\r\n",
        b"GET /health HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nhost: localhost\r\n\r\n",
    ]
    for data in hostile:
        with socket.create_connection((host, int(port)), timeout=20) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                answer = sock.recv(100)
            except ConnectionError:
                continue
        assert b" 500 " not in answer
    assert json.loads(server.get("/health")) == {"status": "ok"}


def test_an_address_of_others_needs_a_key() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MOTLEY_API_KEY"}
    command = [sys.executable, "-m", "motley", "serve", "--host", "0.0.0.0", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert ended.returncode == 2
    assert "--api-key" in ended.stderr


def test_small_steps_over_nodes_give_the_same_text(server: Server) -> None:
    asked: dict[str, Any] = {"model": "any", "prompt": "The sea was calm. " * 9, "max_tokens": 20, "temperature": 0}
    with serving("--slots", "1", "--nodes", "2", "--step-tokens", "7") as small:
        found = small.client.completions.create(**asked)
    assert found.usage
    assert found.usage.prompt_tokens > 3 * 7
    assert found.choices[0].text == server.client.completions.create(**asked).choices[0].text


def test_a_lost_node_costs_no_token_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    shape = shape_of(open_checkpoint(model_path()))
    seats = local_seats(3, 2, shape, 1024, 1)  # the first can't hold the model
    lab(*(device(seat.name, seat.memory_bytes, threads=1) for seat in seats)).save(tmp_path / "lab.toml")
    with serving("--slots", "1", "--lab", str(tmp_path / "lab.toml")) as server:
        nodes = psutil.Process(server.process.pid).children(recursive=True)
        asked: dict[str, Any] = {"model": "any", "prompt": "The sea", "max_tokens": 150, "temperature": 0}
        asked |= {"extra_body": {"ignore_eos": True}}
        alone = server.client.completions.create(**asked).choices[0].text
        lost = next(name for name in server.state()["placed"]["nodes"] if name != "node0")
        stream = iter(server.client.completions.create(**asked, stream=True))
        said = [next(stream)]
        next(process for process in nodes if lost in process.cmdline()).kill()
        said += stream
        assert "".join(chunk.choices[0].text for chunk in said) == alone
        assert lost not in server.state()["placed"]["nodes"]
        assert lost in server.state()["events"][0]["text"]

        stream = server.client.completions.create(**asked, stream=True)
        next(iter(stream))
        watching = urlopen(
            Request(server.url.removesuffix("/v1") + "/api/events", headers={"authorization": f"Bearer {KEY}"})
        )
        server.process.send_signal(signal.SIGINT)
        assert [c.choices[0].finish_reason for c in stream if c.choices[0].finish_reason] == ["length"]  # it may end
        watching.read()  # to its end
        assert server.process.wait(30) == 0
        _, alive = psutil.wait_procs(nodes, timeout=20)
        assert not alive
    assert not any("Traceback" in line for line in server.lines)
