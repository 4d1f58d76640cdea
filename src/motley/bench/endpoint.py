"""A client of one OpenAI endpoint: finds out what the server takes, then asks and times what comes back.

What it learns at the start (`Endpoint.open`): the model, whether completions or chat, which fields beyond OpenAI's it
takes (to go on to the full length, to leave caches alone), whether it tells usage while it streams, how it counts.
Needs httpx2 (extra `endpoint`). The key is read by the caller, sent in one header, and never written anywhere.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal
from urllib.parse import urlsplit

from motley.bench.load import Seen
from motley.bench.prompts import Counting, texts
from motley.bench.served import Server
from motley.bench.sse import MalformedStream, events
from motley.errors import MotleyError, UsageError

try:
    import httpx2 as httpx
except ImportError:  # said by `require_client`, when somebody wants it
    httpx = None  # type: ignore[assignment]

CONNECT_S, READ_S = 10.0, 600.0  # a slow machine's long prompt takes minutes
MOST_RETRIES, MOST_WAIT_S = 5, 30.0  # of a server that is full
NO_CONNECTION = "no connection"
PROBE_TOKENS, FEW_WORDS, MANY_WORDS = 4, 8, 72
# Beyond OpenAI's fields: go on after an end token (llama.cpp, vLLM, SGLang), don't answer from the cache (llama.cpp).
EXTRAS: dict[str, Any] = {"ignore_eos": True, "cache_prompt": False}
USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}
TOKENIZERS = ("/tokenize", "/extras/tokenize")  # llama.cpp and vLLM; llama-cpp-python

Api = Literal["completions", "chat"]


def require_client() -> None:
    if httpx is None:
        raise UsageError("--endpoint needs the package httpx2: pip install 'motley-moe[endpoint]'")


class Failed(Exception):
    """One request that was not answered in full; the text names the kind: `HTTP 500`, `closed early`."""

    def __init__(self, kind: str, retry_s: float | None = None, body: str = "") -> None:
        super().__init__(kind)
        self.kind, self.retry_s, self.body = kind, retry_s, body


@dataclass(frozen=True)
class Address:
    """Where the server is, and how it knows us."""

    base: str  # ends in /v1
    key: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str, key: str | None = None) -> "Address":
        """`http://host:8080`, with /v1 or without. UsageError for anything that should not be in a result's command."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--endpoint {url!r}: give an address such as http://127.0.0.1:8080")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError("--endpoint: leave user, password and query out of the address; --api-key-env names a key")
        path = parts.path.rstrip("/")
        return cls(f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}", key)

    @property
    def root(self) -> str:
        return self.base.removesuffix("/v1")

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass
class Answer:
    """A request in progress."""

    seen: Seen
    tokens: int | None = None  # by the server's usage
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    finished: bool = False


class Endpoint:
    """`async with Endpoint.open(address, model) as endpoint`."""

    def __init__(self, client: Any, address: Address, model: str, software: str) -> None:
        self._client, self._address, self._model = client, address, model
        self._software = software
        self._api: Api = "completions"
        self._more: dict[str, Any] = {}
        self._tokenizer: str | None = None
        self.tells_usage = False
        self.counting = Counting()
        self._counted_by: Literal["tokenize", "usage", "words"] = "words"
        self._seeds = count(1)

    @classmethod
    @asynccontextmanager
    async def open(cls, address: Address, model: str | None = None, connections: int = 64) -> "AsyncIterator[Endpoint]":
        """MotleyError where nobody answers, or nothing that is known."""
        require_client()
        timeout = httpx.Timeout(READ_S, connect=CONNECT_S)
        limits = httpx.Limits(max_connections=connections + 4, max_keepalive_connections=connections + 4)
        async with httpx.AsyncClient(headers=address.headers, timeout=timeout, limits=limits) as client:
            try:
                name, software = await _model(client, address, model)
                endpoint = cls(client, address, name, software)
                await endpoint._learn()
            except httpx.HTTPError as error:
                raise MotleyError(f"{address.base} does not answer: {error or type(error).__name__}") from None
            yield endpoint

    @property
    def server(self) -> Server:
        return Server(
            url=self._address.base,
            model=self._model[:300],
            api=self._api,
            software=self._software[:300],
            extras=tuple(name for name in EXTRAS if name in self._more),
            prompts_counted_by=self._counted_by,
        )

    def prompts(self, tokens: int) -> Iterator[tuple[str, int]]:
        """Texts of about `tokens` tokens, and how many they are as far as is known before they are sent."""
        words = self.counting.words(tokens)
        for text in texts(words, next(self._seeds)):
            yield text, self.counting.tokens(words)

    async def ask(self, prompt: str, prompt_tokens: int, output: int) -> tuple[Seen, int]:
        """The answer's times and tokens, and how many of the prompt's came from the server's cache. Failed if it was
        not answered in full. A server that is full (429) is not asked again here."""
        body = self._body(prompt, output)
        answer = Answer(Seen(time.perf_counter(), prompt_tokens=prompt_tokens))
        try:
            async with self._client.stream("POST", self._url, json=body) as response:
                if response.status_code != 200:
                    text = (await response.aread())[:2000].decode(errors="replace")
                    raise Failed(f"HTTP {response.status_code}", _retry_s(response.headers), text)
                if "json" in response.headers.get("content-type", ""):
                    raise Failed("no stream")
                async for data in events(response.aiter_bytes()):
                    if data.strip() == "[DONE]":
                        answer.finished = True
                        break
                    _take(answer, data)
        except httpx.TimeoutException:
            raise Failed("timeout") from None
        except httpx.HTTPError as error:
            early = answer.seen.arrivals or isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError))
            raise Failed("closed early" if early else NO_CONNECTION) from None
        except MalformedStream:
            raise Failed("malformed stream") from None
        return self._whole(answer), answer.cached_tokens

    def _whole(self, answer: Answer) -> Seen:
        seen = answer.seen
        if not seen.arrivals:
            raise Failed("empty answer" if answer.finished else "closed early")
        if not answer.finished:
            raise Failed("closed early")
        seen.output_tokens = answer.tokens or len(seen.arrivals)
        seen.prompt_tokens = answer.prompt_tokens or seen.prompt_tokens
        return seen

    @property
    def _url(self) -> str:
        return self._address.base + ("/completions" if self._api == "completions" else "/chat/completions")

    def _body(self, prompt: str, output: int) -> dict[str, Any]:
        asked = (
            {"prompt": prompt} if self._api == "completions" else {"messages": [{"role": "user", "content": prompt}]}
        )
        standard = {"model": self._model, "max_tokens": output, "temperature": 0, "stream": True}
        return {**standard, **asked, **self._more}

    async def _learn(self) -> None:
        await self._learn_fields()
        found = []
        for words in (FEW_WORDS, MANY_WORDS):
            text = next(texts(words, next(self._seeds)))
            try:
                found.append((words, await self._count(text)))
            except Failed as error:
                raise MotleyError(_refused(self._url, error)) from None
        (few, small), (many, large) = found
        if small and large:
            self.counting = Counting.of([(few, small), (many, large)])

    async def _learn_fields(self) -> None:
        """The most that the server takes: it may refuse fields that it does not know, or have no completions at all."""
        refused: Failed | None = None
        apis: tuple[Api, ...] = ("completions", "chat")
        for api in apis:
            for more in ({**USAGE, **EXTRAS}, {**USAGE}, {**EXTRAS}, {}):
                self._api, self._more = api, more
                try:
                    await self._patiently(next(texts(FEW_WORDS, next(self._seeds))), PROBE_TOKENS)
                except Failed as error:
                    refused = error
                    if error.kind in ("HTTP 404", "HTTP 405", "HTTP 501"):
                        break  # not these fields, but the whole path
                    if error.kind not in ("HTTP 400", "HTTP 422"):
                        raise MotleyError(_refused(self._url, error)) from None
                else:
                    return
        assert refused
        raise MotleyError(_refused(self._url, refused))

    async def _count(self, text: str) -> int | None:
        """Tokens of a text as a prompt, by the server's usage or its tokenizer."""
        answer, told = await self._patiently(text, PROBE_TOKENS)  # of one alone nothing may be seen
        if told:
            self.tells_usage, self._counted_by = True, "usage"
            return answer.prompt_tokens
        for path in TOKENIZERS if self._tokenizer is None else (self._tokenizer,):
            if (n := await self._tokenized(path, text)) is not None:
                self._tokenizer, self._counted_by = path, "tokenize"
                return n
        return None

    async def _patiently(self, text: str, output: int) -> tuple[Seen, bool]:
        """As `ask`, again where the server is full; and whether it told the prompt's tokens."""
        for _ in range(MOST_RETRIES):
            try:
                seen, _ = await self.ask(text, 0, output)
            except Failed as error:
                if error.retry_s is None:
                    raise
                await asyncio.sleep(error.retry_s)
            else:
                return seen, seen.prompt_tokens > 0
        raise Failed("HTTP 429")

    async def _tokenized(self, path: str, text: str) -> int | None:
        body = {"content": text, "prompt": text, "input": text, "model": self._model}
        try:
            response = await self._client.post(self._address.root + path, json=body)
            found = response.json() if response.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return None
        tokens = found.get("tokens") if isinstance(found, dict) else None
        return len(tokens) if isinstance(tokens, list) and tokens else None


async def _model(client: Any, address: Address, wanted: str | None) -> tuple[str, str]:
    """The model's name, and the server's."""
    response = await client.get(f"{address.base}/models")
    software = response.headers.get("server", "")
    if response.status_code in (401, 403):
        raise UsageError(f"{address.base} wants a key: name the environment variable that holds it with --api-key-env")
    try:
        names = [str(model["id"]) for model in response.json()["data"]] if response.status_code == 200 else []
    except (ValueError, KeyError, TypeError):
        names = []
    if wanted:
        return wanted, software
    if len(names) != 1:
        which = f"it has {', '.join(names[:8])}" if names else f"{address.base}/models names none"
        raise UsageError(f"name the model with --model: {which}")
    return names[0], software


def _take(answer: Answer, data: str) -> None:
    now = time.perf_counter()
    try:
        chunk = json.loads(data)
        if not isinstance(chunk, dict):
            raise ValueError(data)
    except (ValueError, RecursionError):
        raise MalformedStream(data[:80]) from None
    if chunk.get("error"):
        raise Failed("error in the stream")
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        answer.tokens = _tokens(usage, "completion_tokens") or answer.tokens
        answer.prompt_tokens = _tokens(usage, "prompt_tokens") or answer.prompt_tokens
        details = usage.get("prompt_tokens_details")
        answer.cached_tokens = _tokens(details, "cached_tokens") if isinstance(details, dict) else 0
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            if _has_text(choice):
                answer.seen.arrivals.append(now)
            answer.finished = answer.finished or bool(choice.get("finish_reason"))


def _tokens(record: dict[str, Any], key: str) -> int:
    value = record.get(key)
    return value if isinstance(value, int) and 0 < value < 1 << 40 else 0


def _has_text(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    found = delta if isinstance(delta, dict) else choice
    return any(found.get(name) for name in ("text", "content", "reasoning_content", "reasoning", "tool_calls"))


def _retry_s(headers: Any) -> float | None:
    """How long a full server wants to be left alone; None where it did not say that it is full."""
    if "retry-after" not in headers:
        return None
    try:
        return min(MOST_WAIT_S, max(0.05, float(headers["retry-after"])))
    except ValueError:
        return 1.0  # a date


def _refused(url: str, error: Failed) -> str:
    remedy = {
        "HTTP 401": "name the environment variable that holds the key with --api-key-env",
        "HTTP 403": "name the environment variable that holds the key with --api-key-env",
        "HTTP 429": "it is full: try again when it is idle",
    }.get(error.kind, "is this an OpenAI endpoint, and does it serve the model?")
    body = " ".join(
        "".join(c if c.isprintable() else " " for c in error.body).split()
    )  # what they say, not what they do
    said = f" ({body[:200]})" if body else ""
    return f"{url} does not answer a small request: {error.kind}{said}; {remedy}"
