"""Requests made from an OpenAPI description: by schemathesis, and by crossing what it made.

Schemathesis alone makes some ten a second: most of its time goes into names that no record knows (every record may have
any others, of any depth; a chat request is 12 KB of them) and into drawing each of a request's hundred values anew. So
most of its requests are of a narrowed description (no unknown names, short lists and texts, numbers near the limits),
and from those most requests are crossed: at each name one of two parents' values, lists mixed. Right ones crossed
with right ones stay right, since nothing in the description ties one name to another. The rest is as schemathesis
makes it of the description as it stands.

Needs `pip install schemathesis`.
"""

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import hypothesis
import schemathesis
from schemathesis import GenerationMode

WHOLE = 0.03  # of an operation's with a body: schemathesis's own, uncrossed; the others' parents
AS_IT_STANDS = 0.03  # of those: of the description that was not narrowed
BODIES = 0.94  # of all requests: those of operations with a body
RIGHT = 0.6  # of the crossed: of parents that fit the description
SCALAR = {"anyOf": [{"type": kind} for kind in ("null", "boolean", "number")] + [{"type": "string", "maxLength": 20}]}

FORM = "application/x-www-form-urlencoded"
METHODS = ("get", "post", "put", "delete", "patch")


@dataclass(frozen=True)
class Asked:
    """`target`: path and query, as they are sent. `fits`: it was made to fit the description."""

    method: str
    target: str
    body: bytes | None
    fits: bool
    media: str = "application/json"


@dataclass(frozen=True)
class Narrowing:
    """`hints`: schemas by property name, instead of the description's. `always`: names that are never left out."""

    hints: dict[str, Any] = field(default_factory=dict)
    always: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """What schemathesis made for one operation: bodies are JSON values, or bytes that are none."""

    method: str
    target: str
    body: Any
    media: str


def described(document: dict[str, Any], n: int, seed: int, narrowing: Narrowing) -> Iterator[Asked]:
    rng = random.Random(seed)
    narrow = {**document, "components": {**document["components"]}}
    narrow["components"]["schemas"] = narrowed(document["components"]["schemas"], narrowing)
    operations = [(path, method) for path, item in document["paths"].items() for method in item if method in METHODS]
    with_body = [(p, m) for p, m in operations if "requestBody" in document["paths"][p][m]]
    for path, method in operations:
        if (path, method) in with_body:
            share = n * BODIES / len(with_body)
        else:
            share = n * (1 - BODIES if with_body else 1) / (len(operations) - len(with_body))
        yield from _of_operation(rng, document, narrow, path, method, max(2, round(share)))


def _of_operation(
    rng: random.Random, document: dict[str, Any], narrow: dict[str, Any], path: str, method: str, n: int
) -> Iterator[Asked]:
    body = "requestBody" in document["paths"][path][method]
    n_whole = max(8, round(n * WHOLE)) if body else n
    parents: dict[bool, list[Made]] = {True: [], False: []}
    for fits, mode in ((True, GenerationMode.POSITIVE), (False, GenerationMode.NEGATIVE)):
        wide = round(n_whole / 2 * AS_IT_STANDS) if body else 0
        parents[fits] = made(narrow, path, method, mode, n_whole // 2 - wide, rng.getrandbits(32))
        for whole in made(document, path, method, mode, wide, rng.getrandbits(32)) + parents[fits]:
            n -= 1
            yield _asked(whole, whole.body, fits)
    content = document["paths"][path][method].get("requestBody", {}).get("content", {})
    for media, examples in ((media, value["example"]) for media, value in content.items() if "example" in value):
        parents[True] += [Made(method.upper(), path, examples, media)] * n_whole
    if not parents[True]:
        return
    for _ in range(n if body else 0):
        fits = rng.random() < RIGHT or not parents[False]
        first, other = rng.choice(parents[fits]), rng.choice(parents[True])
        yield _asked(first, crossed(rng, first.body, other.body), fits)


def made(document: dict[str, Any], path: str, method: str, mode: GenerationMode, n: int, seed: int) -> list[Made]:
    """By schemathesis. Fewer than `n` where there are no more, as of a path without parameters."""
    found: list[Made] = []
    if n < 1:
        return found
    strategy = schemathesis.openapi.from_dict(document)[path][method.upper()].as_strategy(generation_mode=mode)

    @hypothesis.settings(
        max_examples=n,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.seed(seed)
    @hypothesis.given(strategy)
    def one(case: Any) -> None:
        found.append(_made(case))

    with suppress(hypothesis.errors.Unsatisfiable):  # a route without parameters has no wrong ones
        one()
    return found


def _made(case: Any) -> Made:
    sent = case.as_transport_kwargs(base_url="http://x")
    body: Any = None if isinstance(case.body, schemathesis.core.NotSet) else case.body
    if isinstance(body, dict | list | str | int | float) or body is None:
        return Made(case.method.upper(), _target(case, sent), body, case.media_type or "application/json")
    data = sent.get("data")
    return Made(
        case.method.upper(), _target(case, sent), data if isinstance(data, bytes) else b"", case.media_type or ""
    )


def _target(case: Any, sent: dict[str, Any]) -> str:
    from requests import Request

    url = str(Request(case.method, sent["url"], params=sent.get("params")).prepare().url)
    return url.removeprefix("http://x")


def _asked(of: Made, body: Any, fits: bool) -> Asked:
    if of.media == FORM and isinstance(body, dict):
        body = urlencode(body, errors="surrogatepass").encode()
    elif not isinstance(body, bytes) and of.method != "GET":
        body = json.dumps(body).encode()
    return Asked(of.method, of.target, body, fits, of.media)


def crossed(rng: random.Random, first: Any, other: Any) -> Any:
    """Of two JSON values one: names that both have stay, of the others half."""
    if isinstance(first, dict) and isinstance(other, dict):
        names = [name for name in {**first, **other} if (name in first and name in other) or rng.random() < 0.5]
        return {
            name: crossed(rng, first.get(name, other.get(name)), other.get(name, first.get(name))) for name in names
        }
    if isinstance(first, list) and isinstance(other, list):
        items = first + other
        return [crossed(rng, rng.choice(items), rng.choice(items)) for _ in range(rng.randint(1, 4))] if items else []
    leaf = first if rng.random() < 0.5 else other
    # 3.0 is an integer to JSON Schema, but not to this server: schemathesis's own requests are refused for it.
    return int(leaf) if isinstance(leaf, float) and leaf.is_integer() and rng.random() < 0.95 else leaf


def narrowed(schema: Any, by: Narrowing) -> Any:
    """Without names that a record does not know, with short lists and texts."""
    if isinstance(schema, list):
        return [narrowed(item, by) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: narrowed(value, by) for name, value in schema.items()}
    properties = found.get("properties")
    if found.get("type") == "object" and isinstance(properties, dict):
        found["properties"] = {name: by.hints.get(name, value) for name, value in properties.items()}
        found["required"] = [*found.get("required", []), *(name for name in by.always if name in properties)]
        found["additionalProperties"] = False
    elif found.get("type") == "object":
        found = {"additionalProperties": SCALAR, **found, "maxProperties": 3}
    elif found.get("type") == "array":
        found["maxItems"] = 3
    elif found.get("type") == "string":
        found.setdefault("maxLength", 20)
    return found
