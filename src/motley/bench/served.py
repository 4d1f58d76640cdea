"""The result of a bench of somebody's server: what can be seen through an OpenAI endpoint, and nothing that can't.

Prompts are timed by their TTFT, generation by what follows it; queueing, network and sampling are in both, so that
these are a server's figures, not an engine's. `parse_any` reads such a result or a placed one.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from motley.bench.load import LoadResult, validate_load
from motley.bench.measure import short_name
from motley.bench.records import Count, Name, Record, Size, Spread, Text, validate_spread
from motley.bench.result import MAX_FILE_BYTES, SCHEMA, Result, Skipped, checked_json, from_json, label_of, read_bounded
from motley.bench.suite import Load, Unit
from motley.errors import FormatError
from motley.predict.workload import Workload


class Server(Record, frozen=True, kw_only=True):
    """What answered, as far as it says."""

    url: Name  # without user, password, query
    model: Name
    api: Literal["completions", "chat"]
    software: Name = ""  # its Server header
    extras: tuple[Name, ...] = ()  # fields beyond OpenAI's that it took, such as ignore_eos
    prompts_counted_by: Literal["tokenize", "usage", "words"] = "words"


class Client(Record, frozen=True, kw_only=True):
    """Where the requests came from."""

    cpu: Name
    cores: Size
    os: Name
    python: Name


class ServedTest(Record, frozen=True, kw_only=True):
    """`ppN`: a prompt, by its TTFT. `tgN`: N tokens behind a prompt of `depth`, by the time after the first."""

    test: Annotated[str, msgspec.Meta(pattern="^(pp|tg)[1-9][0-9]{0,6}$")]
    depth: Count
    tokens_per_s: Spread  # of each request
    load: LoadResult

    @property
    def label(self) -> str:
        return label_of(self.test, self.depth, 1)


class ServedResult(Record, frozen=True, kw_only=True):
    """Everything that one `motley bench --endpoint` found out."""

    schema: Annotated[int, msgspec.Meta(ge=2, le=SCHEMA)] = SCHEMA
    kind: Literal["endpoint"]
    motley: Name
    date: Name
    command: Text
    commit: Name | None
    server: Server
    client: Client
    suite: Name | None = None
    sessions: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1000)] = ()
    results: Annotated[tuple[ServedTest, ...], msgspec.Meta(max_length=1000)] = ()
    loads: Annotated[tuple[LoadResult, ...], msgspec.Meta(max_length=1000)] = ()
    skipped: Annotated[tuple[Skipped, ...], msgspec.Meta(max_length=1000)] = ()


AnyResult = Result | ServedResult

SHORT_PROMPT = 16  # where generation starts at no depth: a server wants some prompt


def as_load(unit: Unit) -> tuple[Load | None, str]:
    """The requests that measure a test through HTTP; or None, and why not."""
    if isinstance(unit, Load):
        return unit, ""
    if unit.batch > 1:
        return None, "a server decides itself what it batches: the loads tell its speed with several requests"
    if unit.kind == "prefill":
        if unit.depth:
            return None, "a server's cache can't be filled to a depth beforehand"
        return Load(unit.tokens, 1, 1, per_slot=1), ""
    return Load(max(unit.depth, SHORT_PROMPT), unit.tokens, 1, per_slot=1), ""


def served_test(workload: Workload, load: LoadResult) -> ServedTest | None:
    """None where no answer was long enough to tell a speed."""
    if workload.kind == "prefill":
        speeds = [1e3 * r.prompt_tokens / r.ttft_ms for r in load.requests]
    else:
        speeds = [1e3 / r.tpot_ms for r in load.requests if r.tpot_ms]
    if not speeds:
        return None
    return ServedTest(test=short_name(workload), depth=workload.depth, tokens_per_s=Spread.of(speeds), load=load)


class _Kind(msgspec.Struct):
    kind: str = "placed"


def parse_any(data: bytes, origin: str = "result") -> AnyResult:
    """Parse and validate either kind. FormatError names `origin` and the field."""
    try:
        kind = msgspec.json.decode(data, type=_Kind).kind if len(data) <= MAX_FILE_BYTES else ""
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        kind = ""
    if kind != "endpoint":
        return from_json(data, origin)
    result = checked_json(data, ServedResult, origin)
    if not (result.results or result.loads):
        raise FormatError(f"{origin}: results: empty, and there are no loads either")
    for i, test in enumerate(result.results):
        validate_spread(test.tokens_per_s, f"{origin}: results[{i}].tokens_per_s")
        validate_load(test.load, f"{origin}: results[{i}].load")
    for i, load in enumerate(result.loads):
        validate_load(load, f"{origin}: loads[{i}]")
    return result


def load_any(path: Path) -> AnyResult:
    return parse_any(read_bounded(path), str(path))
