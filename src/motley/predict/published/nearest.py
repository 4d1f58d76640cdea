"""The published measurements nearest to a question, to be shown beside a prediction.

Owns `measured.csv`: one line for each (model, quantisation, device, engine, depth, batch), the median of those who
measured it, with a source. Written by `benchmarks/prediction/run.py`.
"""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import log

from motley.errors import UsageError
from motley.lab.hardware import Hardware, hardware
from motley.lab.lab import Device, Lab
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

COLUMNS: tuple[str, ...] = (
    "model",
    "kind",
    "quant",
    "device",
    "n_devices",
    "engine",
    "test",
    "active_gb",
    "tokens_per_s",
)
COLUMNS += ("times", "source")
_OTHER_CLASS = 1.0  # another class of device is as far as e times the bytes
_SAME_CLASS = 0.3
_FEW = 3


@dataclass(frozen=True)
class Measured:
    """`times`: how many published it; tokens a second of all sequences together."""

    model: str
    kind: str  # "moe" or "dense"
    quant: str
    device: str  # a key of the hardware catalogue
    n_devices: int
    engine: str
    test: str  # "tg128@d512", "pp512x4"
    active_gb: float  # weights that a token reads
    tokens_per_s: float
    times: int
    source: str

    def __str__(self) -> str:
        where = f"{self.n_devices}x {self.device}" if self.n_devices > 1 else self.device
        source = f" ({self.source})" if self.source else ""
        what = " ".join(filter(None, (self.model, self.quant)))
        return f"{what} on {where} with {self.engine}, {self.test}: {self.tokens_per_s:.4g} tokens/s{source}"

    @property
    def workload(self) -> Workload:
        return Workload.parse(self.test)


@cache
def every_measured() -> tuple[Measured, ...]:
    text = (files("motley.predict.published") / "measured.csv").read_text(encoding="utf-8")
    return tuple(
        Measured(
            r["model"],
            r["kind"],
            r["quant"],
            r["device"],
            int(r["n_devices"]),
            r["engine"],
            r["test"],
            float(r["active_gb"]),
            float(r["tokens_per_s"]),
            int(r["times"]),
            r["source"],
        )
        for r in csv.DictReader(text.splitlines())
    )


def nearest(shape: ModelShape, lab: Lab, used: Collection[str], workload: Workload, n: int = _FEW) -> list[Measured]:
    """The `n` nearest, at most one of each model on each device: by bytes of a token, devices, depth and batch. `used`:
    names of the lab's devices that hold anything. Empty where no device is the catalogue's."""
    devices = [h for name in used if (h := described(lab.device(name))) is not None]
    if not devices:
        return []
    active = shape.active_bytes_per_token() / 1e9
    of_kind = [m for m in every_measured() if m.workload.kind == workload.kind]
    found: dict[tuple[str, str], Measured] = {}
    kind = "moe" if shape.n_experts else "dense"
    for m in sorted(of_kind, key=lambda m: _distance(m, active, devices, workload) + 0.5 * (m.kind != kind)):
        found.setdefault((m.model, m.device), m)
        if len(found) == n:
            break
    return list(found.values())


def described(device: Device) -> Hardware | None:
    """The catalogue's entry that a lab's device was made from."""
    key = device.source.removeprefix("catalogue: ").partition(",")[0]
    if key == device.source:
        return None
    try:
        return hardware(key)
    except UsageError:
        return None


def _distance(m: Measured, active: float, devices: list[Hardware], workload: Workload) -> float:
    told = m.workload
    apart = abs(log(m.active_gb / active)) + min(_between(m.device, h) for h in devices)
    apart += 0.15 * abs(log((told.depth + 512) / (workload.depth + 512)))
    return apart + 0.3 * abs(log(told.batch / workload.batch)) + 0.2 * abs(log(m.n_devices / max(1, len(devices))))


@cache
def _between(key: str, other: Hardware) -> float:
    one = hardware(key)
    if one.base == other.base:
        return 0.0
    step = _SAME_CLASS if one.cls == other.cls else _OTHER_CLASS
    return step + abs(log(one.bandwidth_gb_s / other.bandwidth_gb_s))
