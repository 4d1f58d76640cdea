"""Profile: what an engine reaches on a class of hardware. Catalogue figures in, a `Device` out.

Owns `profiles.toml`, which `benchmarks/prediction/fit.py` writes from published measurements: for each class
the share of the vendor's bandwidth that products of weights reach and the launches of a step and a layer; for each
engine a factor on them. What was never measured on a class is the median of all classes. docs/prediction.md derives it.
"""

import tomllib
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from motley.errors import UsageError
from motley.lab.hardware import Hardware
from motley.lab.lab import Device

_TYPICAL_RATIO = 0.06  # 16-bit TFLOPS for each GB/s, where a device's rate is not known


@dataclass(frozen=True)
class Profile:
    """Of one engine on one class of hardware. Shares are of what the vendor states."""

    bandwidth_share: float  # reading weights for one token
    expert_share: float  # chosen experts, against other weights
    cache_share: float  # reading the KV cache
    gemm_share: float  # many tokens: of the dense 16-bit rate
    step_us: float
    layer_us: float
    routed_us: float
    recurrent_us: float
    exchange_us: float  # software of one exchange between nodes, this side
    sigma: float  # relative spread of measured speeds around predictions

    def times(self, other: dict[str, float]) -> "Profile":
        """With factors on some of its figures."""
        return Profile(**{f.name: getattr(self, f.name) * other.get(f.name, 1.0) for f in fields(Profile)})


@cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads((files("motley.lab") / "profiles.toml").read_text())


def engines() -> list[str]:
    return sorted(_table()["engine"])


def profile(cls: str, engine: str) -> Profile:
    """Raises UsageError with the nearest names for an unknown engine."""
    table = _table()
    if engine not in table["engine"]:
        near = get_close_matches(engine, engines(), n=3, cutoff=0.4) or engines()
        raise UsageError(f"unknown engine {engine!r}: did you mean {' or '.join(near)}?")
    base = Profile(**(table["any"] | table["class"].get(cls, {})))
    return base.times(table["engine"][engine])


def device(hardware: Hardware, engine: str = "motley", name: str = "", node: str = "") -> Device:
    """As a lab has it. `name` and `node` default to the hardware's key."""
    p = profile(hardware.cls, engine)
    bandwidth = hardware.bandwidth_gb_s
    rate = (hardware.fp16_measured_tflops or hardware.fp16_tflops or bandwidth * _TYPICAL_RATIO) * 1e3
    own = _table().get("device", {}).get(hardware.key, {}).get("speed", 1.0)
    return Device(
        name=name or hardware.key,
        node=node or name or hardware.key,
        kind=hardware.kind,
        memory_bytes=hardware.usable_bytes,
        threads=1,
        read_gb_s=own * bandwidth * p.bandwidth_share,
        int8_gops=own * rate * p.gemm_share / 0.5,
        f32_gflops=own * rate * p.gemm_share,
        op_overhead_us=0.0,
        step_us=p.step_us / own,
        layer_us=p.layer_us / own,
        routed_us=p.routed_us / own,
        recurrent_us=p.recurrent_us / own,
        exchange_us=p.exchange_us,
        expert_share=p.expert_share,
        cache_gb_s=own * bandwidth * p.cache_share,
        sigma=p.sigma,
        source=f"catalogue: {hardware.key}, {engine}",
    )
