"""The result of a bench: the JSON that `motley bench --json` writes, as typed data, and its validation.

Owns every key of the file, with `records` and `load`. `load_result` reads files that others wrote: whatever is wrong
with one becomes a FormatError that names the field. `schema` is raised whenever keys are added; files of every older
schema load, as new keys have defaults. Units stand in the names; `time` is in milliseconds per step. docs/metrics.md
has the formulas.
"""

import math
from itertools import chain
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from motley.bench.load import LoadResult, validate_load
from motley.bench.records import (
    Amount,
    Count,
    Interval,
    Name,
    Rate,
    Record,
    Size,
    Spread,
    Text,
    validate_interval,
    validate_spread,
)
from motley.errors import FormatError
from motley.lab.lab import Lab
from motley.lab.placement import Placement

# 1: before suites (no `schema` key); 2: before weights were brought during a step; 3: before steps had a size
SCHEMA = 4
MAX_FILE_BYTES = 32 << 20  # a result of a 100-layer, 512-expert model is about 2 MB


class TimeSplit(Record, frozen=True, kw_only=True):
    """Where a step's time goes: milliseconds per step at the homes. The parts add up to `ms_per_step`."""

    attention: Amount = 0.0
    router: Amount = 0.0
    experts: Amount = 0.0
    link: Amount = 0.0
    head: Amount = 0.0
    python: Amount = 0.0
    other: Amount = 0.0
    upload: Amount | msgspec.UnsetType = msgspec.UNSET  # only where weights are brought during a step

    def parts(self) -> dict[str, float]:
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: float(ms) for name, ms in found.items() if ms is not msgspec.UNSET}


def label_of(test: str, depth: int, batch: int) -> str:
    """`tg64`, `pp512 @ d1024`, `tg64 x 4`"""
    return f"{test}{f' @ d{depth}' if depth else ''}{f' x {batch}' if batch > 1 else ''}"


class Clock(Record, frozen=True, kw_only=True):
    """One core's speed at a fixed piece of work (`bench.clock`), in rounds a second, right before and after a test."""

    before: Rate
    after: Rate
    throttled: Count | None = None  # thermal events that the system counted meanwhile; None: it counts none


class Energy(Record, frozen=True, kw_only=True):
    """Of the machine's processors while the samples ran, whoever used them."""

    joules_per_token: Rate
    watts: Rate
    source: Name  # "RAPL package-0"


class Activated(Record, frozen=True, kw_only=True):
    """Distinct experts that one decoding step of the batch reads in a layer: the mean over steps and layers."""

    measured: Rate
    uniform: Rate  # if every choice were equally likely: E (1 - (1 - A/E)^B)
    steps: Size


class Skipped(Record, frozen=True, kw_only=True):
    """A test of the suite that was not measured, and why."""

    test: Name
    why: Text


class TestResult(Record, frozen=True, kw_only=True):
    """One test: `ppN` reads N prompt tokens, `tgN` generates N tokens, with `depth` tokens already in the cache."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    test: Annotated[str, msgspec.Meta(pattern="^(pp|tg)[1-9][0-9]{0,6}$")]
    depth: Count
    batch: Size
    tokens_per_s: Spread
    ms_per_step: Rate
    predicted_tokens_per_s: Interval | None
    active_bytes_per_token: Size
    bandwidth_fraction: Amount | None  # None where one read of a weight serves several tokens
    read_gb_s: Rate  # right before and after this test
    time: TimeSplit
    clock: Clock | None = None
    energy: Energy | None = None
    experts_activated: Activated | None = None
    sparse_bandwidth_utilisation: Amount | None = None  # as `bandwidth_fraction`, with the experts the batch did read

    @property
    def label(self) -> str:
        return label_of(self.test, self.depth, self.batch)

    @property
    def measured_over_predicted(self) -> float | None:
        predicted = self.predicted_tokens_per_s
        return self.tokens_per_s.median / predicted.p50 if predicted else None


class Check(Record, frozen=True, kw_only=True):
    """The placed model's answer against one device's."""

    reference: Name
    max_abs_logit_diff: Amount
    max_rel_logit_diff: Amount
    greedy_tokens_equal: Count
    greedy_tokens_compared: Count
    logit_rows_compared: Count
    kinds_differ: bool = False  # the reference's kernels round activations, or don't, where the placed model's differ

    MAX_REL_DIFF = 1e-4
    MAX_REL_DIFF_OF_KINDS = 0.2  # what int8 activations do to a small model's logits: docs/devices.md
    TOKENS_OF_KINDS = 0.9  # of the greedy tokens

    @property
    def passed(self) -> bool:
        if self.kinds_differ:
            enough = self.TOKENS_OF_KINDS * self.greedy_tokens_compared
            return self.max_rel_logit_diff < self.MAX_REL_DIFF_OF_KINDS and self.greedy_tokens_equal >= enough
        return self.max_rel_logit_diff < self.MAX_REL_DIFF and self.greedy_tokens_equal == self.greedy_tokens_compared


class Model(Record, frozen=True, kw_only=True):
    """What ran: the shape's dimensions, and the file if there was one."""

    name: Name
    architecture: Name
    quant: Name
    n_layers: Size
    d_model: Size
    n_heads: Size
    n_kv_heads: Size
    head_dim: Size
    n_experts: Count  # 0: a dense model
    n_experts_used: Count
    d_expert: Count
    vocab_size: Size
    context: Size
    n_params: Size
    n_bytes: Size
    source: Text = ""
    file: Name | None = None
    file_hash: Name | None = None


class Machine(Record, frozen=True, kw_only=True):
    """Where the command ran. `read_gb_s` and `int8_gops` were measured in this run, with `threads`."""

    read_gb_s: Rate
    int8_gops: Rate | None
    threads: Size
    cpu: Name
    cores: Size  # that the command might use
    memory_bytes: Size
    os: Name
    python: Name
    cache_bytes: Count | None = None  # of the last level of caches, all of them together; None: unknown


class Exchange(Record, frozen=True, kw_only=True):
    """Traffic between two devices while tokens were generated, microseconds a round: `round_us` from sending to
    holding the answer; in `work_us` of it at least one side computed; the rest, `us_per_exchange`, is what being apart
    costs. `rtt_us` is the bare link's round trip of 16 KiB."""

    a: Name
    b: Name
    transport: Name
    count: Count
    per_token: Amount
    us_per_exchange: Amount
    round_us: Amount
    work_us: Amount
    rtt_us: Amount | None


class PeerResult(Record, frozen=True, kw_only=True):
    """A rival on the same file, machine and threads, run in turn with Motley: pair by pair, and so are the ratios."""

    peer: Name
    version: Name
    settings: dict[Name, bool | int | str]
    best: bool  # the fastest of the rival's settings for this test
    test: Name
    depth: Count
    batch: Size
    threads: Size
    tokens_per_s: Spread
    motley_tokens_per_s: Spread
    ratio: Spread  # Motley / rival

    @property
    def label(self) -> str:
        return label_of(self.test, self.depth, self.batch)


Row = Annotated[tuple[Count, ...], msgspec.Meta(max_length=8192)]
RouteCounts = Annotated[tuple[Row, ...], msgspec.Meta(max_length=1024)]


class Result(Record, frozen=True, kw_only=True):
    """Everything that one `motley bench` found out."""

    schema: Annotated[int, msgspec.Meta(ge=1, le=SCHEMA)] = 1
    motley: Name
    date: Name  # ISO 8601, UTC
    command: Text
    commit: Name | None  # of the checkout that Motley ran from; "-dirty" where it had changes
    model: Model
    machine: Machine
    lab: Lab
    placement: Placement
    reasons: Annotated[tuple[Text, ...], msgspec.Meta(max_length=1000)] = ()  # why this placement: a clause each
    results: Annotated[tuple[TestResult, ...], msgspec.Meta(max_length=1000)]
    check: Check | None
    routes: RouteCounts | None = None  # [L][E] choices while the tests ran
    exchanges: tuple[Exchange, ...] = ()
    peers: tuple[PeerResult, ...] = ()
    peak_memory_bytes: dict[Name, Count] = msgspec.field(default_factory=dict)  # resident, by device, over the run
    suite: Name | None = None
    sessions: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1000)] = ()  # when each began; several: resumed
    loads: Annotated[tuple[LoadResult, ...], msgspec.Meta(max_length=1000)] = ()
    skipped: Annotated[tuple[Skipped, ...], msgspec.Meta(max_length=1000)] = ()
    energy_why: Text = ""  # where there is none: why
    step_tokens: Size | msgspec.UnsetType = msgspec.UNSET  # the most that a step carried, where not 512


def to_json(result: Record) -> bytes:
    """Indented, with one line per list of plain values."""
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"


def from_json(data: bytes, origin: str = "result") -> Result:
    """Parse and validate. FormatError names `origin` and the field."""
    result = checked_json(data, Result, origin)
    _validate(result, origin)
    return result


AnyRecord = TypeVar("AnyRecord", bound=Record)


def checked_json(data: bytes, kind: type[AnyRecord], origin: str) -> AnyRecord:
    """Of that type, or a FormatError that names `origin` and the field."""
    if len(data) > MAX_FILE_BYTES:
        raise FormatError(f"{origin}: {len(data)} bytes is too large for a bench result (limit {MAX_FILE_BYTES})")
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        _require_our_kind(data, kind, origin)
        raise FormatError(f"{origin}: {_sentence(str(error))}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(f"{origin}: not JSON: {error}") from None


class _Head(msgspec.Struct):
    schema: int = 1
    kind: str = ""


def _require_our_kind(data: bytes, kind: type[Record], origin: str) -> None:
    """A newer file's keys, and those of another kind, are unknown here: say that, rather than name one of them."""
    try:
        head = msgspec.json.decode(data, type=_Head)
    except msgspec.MsgspecError:
        return
    if head.schema > SCHEMA:
        raise FormatError(
            f"{origin}: written by a newer Motley (schema {head.schema}, this one knows {SCHEMA}): update"
        )
    if head.kind == "endpoint" and kind is Result:
        raise FormatError(f"{origin}: measured through an endpoint, without a placement: only `motley report` reads it")


def load_result(path: Path) -> Result:
    return from_json(read_bounded(path), str(path))


def read_bounded(path: Path) -> bytes:
    """FormatError where it can't be read, or is larger than a result may be, whatever the file says of its size."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{path}: can't be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise FormatError(f"{path}: too large for a bench result (limit {MAX_FILE_BYTES} bytes)")
    return data


def _sentence(message: str) -> str:
    """msgspec says "Expected X, got Y - at `$.a[0].b`"; a person looks for the field first."""
    problem, _, where = message.partition(" - at ")
    field = where.strip("`").removeprefix("$.") or "the top level"
    return f"{field}: {problem[:300]}"


def _validate(result: Result, origin: str) -> None:
    """What types can't say: finite numbers, spreads that fit their samples, one placement for one model."""

    def require(ok: bool, field: str, problem: str) -> None:
        if not ok:
            raise FormatError(f"{origin}: {field}: {problem}")

    require(bool(result.results or result.loads), "results", "empty, and there are no loads either")
    for i, load in enumerate(result.loads):
        validate_load(load, f"{origin}: loads[{i}]")
    for i, test in enumerate(result.results):
        validate_spread(test.tokens_per_s, f"{origin}: results[{i}].tokens_per_s")
        validate_interval(test.predicted_tokens_per_s, f"{origin}: results[{i}].predicted_tokens_per_s")
    for i, peer in enumerate(result.peers):
        for name in ("tokens_per_s", "motley_tokens_per_s", "ratio"):
            validate_spread(getattr(peer, name), f"{origin}: peers[{i}].{name}")

    model, devices = result.model, {d.name for d in result.lab.devices}
    layers = result.placement.layers
    require(len(layers) == model.n_layers, "placement.layers", f"{len(layers)} layers; the model has {model.n_layers}")
    for i, layer in enumerate(layers):
        n = len(layer.experts)
        whole = n in (0, model.n_experts)  # 0: a dense layer, as the first ones of DeepSeek
        require(whole, f"placement.layers[{i}].experts", f"{n} given; the model has {model.n_experts}")
        unknown = {layer.home, *layer.experts} - devices
        require(not unknown, f"placement.layers[{i}]", f"device {min(unknown, default='')!r} is not in the lab")
    if result.routes is not None:
        right = len(result.routes) == model.n_layers and {len(r) for r in result.routes} == {model.n_experts}
        require(right, "routes", f"must be {model.n_layers} rows of {model.n_experts} counts")
    if result.check is not None:
        c = result.check
        require(c.greedy_tokens_equal <= c.greedy_tokens_compared, "check.greedy_tokens_equal", "more than compared")
    numbers = chain.from_iterable(
        (d.read_gb_s, d.int8_gops, d.f32_gflops, d.op_overhead_us) for d in result.lab.devices
    )
    require(all(math.isfinite(n) and n >= 0 for n in numbers), "lab.devices", "rates must be finite and >= 0")
