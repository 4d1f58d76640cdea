"""What a published row asks of each class of hardware, per unit of the profile's figures.

The cost model itself is asked, with devices that have one finite figure each: so the fit sees the same bytes,
operations and launches that `motley predict` will price, and the sum is the model's own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from motley.errors import MotleyError
from motley.lab.hardware import Hardware
from motley.lab.lab import Device
from motley.lab.profile import driver, tflops
from motley.predict.cost import CostModel
from motley.predict.predict import price
from motley.predict.published import words
from motley.predict.published.question import Question, Refused, ask
from motley.predict.published.rows import Row
from motley.predict.workload import Workload

TERMS = (
    "read",  # ms reading other weights at the vendor's bandwidth
    "read_experts",
    "compute",  # ms computing at the dense 16-bit rate
    "compute_experts",
    "cache",  # ms reading the KV cache at the vendor's bandwidth
    "attend",  # ms of attention at the dense 16-bit rate
    "step",  # launches and exchanges, each 1 us long, in ms
    "layer",
    "routed",
    "recurrent",
    "latent",
    "sparse",
    "exchange",
    "reduce",
    "link",  # ms that the links themselves take
)
_FAST = 1e15


@dataclass(frozen=True)
class Part:
    """One step's features on one device [TERMS]."""

    cls: str
    driver: str
    key: str
    terms: NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A row with what it takes: time = sum over kinds of steps (how many x sum over parts)."""

    row: Row
    question: Question
    steps: tuple[tuple[float, tuple[Part, ...]], ...]

    @property
    def tokens(self) -> int:
        return self.question.tokens

    @property
    def devices(self) -> str:
        return "+".join(h.base for _, h in self.question.members)

    @property
    def model(self) -> str:
        """Of its tensors: two names of one shape are one model."""
        shape = self.question.stated.shape
        return f"{shape.n_layers}x{shape.d_model}, {shape.n_params}"

    @property
    def kind(self) -> str:
        return "moe" if self.question.stated.shape.n_experts else "dense"

    @property
    def ideal_ms(self) -> float:
        """Reading every byte once at the vendor's bandwidth, and nothing else."""
        read = [TERMS.index(name) for name in ("read", "read_experts", "cache")]
        return float(sum(weight * p.terms[read].sum() for weight, parts in self.steps for p in parts))

    @property
    def measured_ms(self) -> float:
        assert self.row.tokens_per_s is not None
        return 1e3 * self.tokens / self.row.tokens_per_s


def cases(rows: Iterable[Row]) -> Iterator[Case | tuple[Row, str]]:
    """A case for each row, or the reason why there is none."""
    for row in rows:
        try:
            yield case(row)
        except (Refused, MotleyError) as error:
            yield row, str(error)


def case(row: Row) -> Case:
    question = ask(row)
    return Case(row, question, tuple((times, _parts(question, w)) for times, w in question.steps))


_known: dict[object, tuple[Part, ...]] = {}  # tables ask the same of many backends


def _parts(question: Question, workload: Workload) -> tuple[Part, ...]:
    key = question.same, workload
    if key not in _known:
        _known[key] = _asked(question, workload)
    return _known[key]


def _asked(question: Question, workload: Workload) -> tuple[Part, ...]:
    classes = {h.key: h for _, h in question.members}
    lab, _ = question.lab(lambda h, engine, backend: _only(h, ""))
    model = CostModel(question.stated.shape, lab, workload)
    parts = []
    for key, h in classes.items():
        values = [_priced(model, question, term, key) for term in TERMS[:-1]]
        link = _priced(model, question, "link", key) if not parts else 0.0
        parts.append(Part(h.cls, driver(h, words.backend(question.row.backend)), h.base, np.array([*values, link])))
    return tuple(parts)


def _priced(model: CostModel, question: Question, term: str, key: str) -> float:
    """Milliseconds of a step on devices where only `term` of hardware `key` takes time."""

    def device_of(h: Hardware, engine: str, backend: str) -> Device:
        return _only(h, term if h.key == key else "")

    lab, placement = question.lab(device_of, reduce_us=1.0 if term == "reduce" else 0.0)
    if term != "link":
        lab = replace(lab, links=tuple(replace(k, rtt_us=0.0, gb_s=_FAST) for k in lab.links))
        lab = replace(lab, devices=tuple(_freed(d, term) for d in lab.devices))
    return price(model.on(lab), placement).ms_per_step


def _freed(d: Device, term: str) -> Device:
    """A group without its link's own latency; `reduce` keeps 1 us."""
    if not d.reduce_gb_s:
        return d
    return replace(d, reduce_us=1.0 if term == "reduce" else 0.0, reduce_gb_s=_FAST)


def _only(h: Hardware, term: str) -> Device:
    rate = tflops(h) * 1e3
    infinite = Device(
        name=h.key,
        node=h.key,
        kind=h.kind,
        memory_bytes=h.usable_bytes,
        threads=1,
        read_gb_s=_FAST,
        int8_gops=_FAST,
        f32_gflops=_FAST,
        op_overhead_us=0.0,
        attention_gflops=_FAST,
    )
    match term:
        case "read":
            return replace(infinite, read_gb_s=h.bandwidth_gb_s, expert_share=_FAST, cache_gb_s=_FAST)
        case "read_experts":
            return replace(infinite, expert_share=h.bandwidth_gb_s / _FAST)
        case "compute":
            return replace(infinite, int8_gops=2 * rate, f32_gflops=rate, expert_gemm_share=_FAST)
        case "compute_experts":
            return replace(infinite, expert_gemm_share=rate / _FAST, int8_gops=2 * _FAST)
        case "cache":
            return replace(infinite, cache_gb_s=h.bandwidth_gb_s)
        case "attend":
            return replace(infinite, attention_gflops=rate)
        case "step" | "layer" | "routed" | "recurrent" | "latent" | "sparse" | "exchange":
            return replace(infinite, **{f"{term}_us": 1.0})
    return infinite
