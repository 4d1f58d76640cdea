"""The result of a bench: the JSON that `motley bench --json` writes, as typed data, and its validation.

Owns every key of the file. `load_result` reads files that others wrote: whatever is wrong with one becomes a
FormatError that names the field. Units stand in the names; `time` is in milliseconds per step. docs/metrics.md has the
formulas.
"""

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Annotated

import msgspec

from motley.errors import FormatError
from motley.lab.lab import Lab
from motley.lab.placement import Placement

MAX_FILE_BYTES = 32 << 20  # a result of a 100-layer, 512-expert model is about 2 MB

Name = Annotated[str, msgspec.Meta(max_length=300)]
Text = Annotated[str, msgspec.Meta(max_length=4000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Size = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Rate = Annotated[float, msgspec.Meta(gt=0)]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts: immutable, and nothing unknown is swallowed."""


class Spread(Record, frozen=True, kw_only=True):
    """Median, extremes and the raw samples, in the order in which they were taken."""

    median: Rate
    min: Rate
    max: Rate
    samples: Annotated[tuple[Rate, ...], msgspec.Meta(min_length=1, max_length=10_000)]

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        return cls(median=median(samples), min=min(samples), max=max(samples), samples=tuple(samples))


class Interval(Record, frozen=True, kw_only=True):
    """A prediction: eight of ten measurements should fall between p10 and p90."""

    p10: Rate
    p50: Rate
    p90: Rate


class TimeSplit(Record, frozen=True, kw_only=True):
    """Where a step's time goes: milliseconds per step at the homes. The parts add up to `ms_per_step`."""

    attention: Amount = 0.0
    router: Amount = 0.0
    experts: Amount = 0.0
    link: Amount = 0.0
    head: Amount = 0.0
    python: Amount = 0.0
    other: Amount = 0.0

    def parts(self) -> dict[str, float]:
        return {name: float(getattr(self, name)) for name in self.__struct_fields__}


def label_of(test: str, depth: int, batch: int) -> str:
    """`tg64`, `pp512 @ d1024`, `tg64 x 4`"""
    return f"{test}{f' @ d{depth}' if depth else ''}{f' x {batch}' if batch > 1 else ''}"


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

    MAX_REL_DIFF = 1e-4

    @property
    def passed(self) -> bool:
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
    n_experts: Size
    n_experts_used: Size
    d_expert: Size
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

    motley: Name
    date: Name  # ISO 8601, UTC
    command: Text
    commit: Name | None  # of the checkout that Motley ran from; "-dirty" where it had changes
    model: Model
    machine: Machine
    lab: Lab
    placement: Placement
    reasons: Annotated[tuple[Text, ...], msgspec.Meta(max_length=1000)] = ()  # why this placement: a clause each
    results: Annotated[tuple[TestResult, ...], msgspec.Meta(min_length=1, max_length=1000)]
    check: Check | None
    routes: RouteCounts | None = None  # [L][E] choices while the tests ran
    exchanges: tuple[Exchange, ...] = ()
    peers: tuple[PeerResult, ...] = ()
    peak_memory_bytes: dict[Name, Count] = {}  # resident, by device, from load to the last test


def to_json(result: Result) -> bytes:
    """Indented, with one line per list of plain values."""
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"


def from_json(data: bytes, origin: str = "result") -> Result:
    """Parse and validate. FormatError names `origin` and the field."""
    if len(data) > MAX_FILE_BYTES:
        raise FormatError(f"{origin}: {len(data)} bytes is too large for a bench result (limit {MAX_FILE_BYTES})")
    try:
        result = msgspec.json.decode(data, type=Result)
    except msgspec.ValidationError as error:
        raise FormatError(f"{origin}: {_sentence(str(error))}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(f"{origin}: not JSON: {error}") from None
    _validate(result, origin)
    return result


def load_result(path: Path) -> Result:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FormatError(f"{path}: too large for a bench result (limit {MAX_FILE_BYTES} bytes)")
        return from_json(path.read_bytes(), str(path))
    except OSError as error:
        raise FormatError(f"{path}: can't be read: {error.strerror}") from None


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

    for i, test in enumerate(result.results):
        _validate_spread(test.tokens_per_s, f"{origin}: results[{i}].tokens_per_s")
        p = test.predicted_tokens_per_s
        require(p is None or p.p10 <= p.p50 <= p.p90, f"results[{i}].predicted_tokens_per_s", "p10 <= p50 <= p90")
    for i, peer in enumerate(result.peers):
        for name in ("tokens_per_s", "motley_tokens_per_s", "ratio"):
            _validate_spread(getattr(peer, name), f"{origin}: peers[{i}].{name}")

    model, devices = result.model, {d.name for d in result.lab.devices}
    layers = result.placement.layers
    require(len(layers) == model.n_layers, "placement.layers", f"{len(layers)} layers; the model has {model.n_layers}")
    for i, layer in enumerate(layers):
        n = len(layer.experts)
        require(n == model.n_experts, f"placement.layers[{i}].experts", f"{n} given; the model has {model.n_experts}")
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


def _validate_spread(spread: Spread, field: str) -> None:
    if not all(map(math.isfinite, spread.samples)):
        raise FormatError(f"{field}.samples: must be finite")
    want = Spread.of(spread.samples)
    for name in ("median", "min", "max"):
        said, found = getattr(spread, name), getattr(want, name)
        if not math.isclose(said, found, rel_tol=1e-6):
            raise FormatError(f"{field}.{name}: says {said:g}, but the samples give {found:g}")
