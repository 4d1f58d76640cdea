"""Profile: what an engine reaches on a class of hardware. Catalogue figures in, a `Device` out.

Owns `profiles.toml`, which `benchmarks/prediction/run.py` writes from published measurements. A figure (a share of the
vendor's bandwidth, microseconds of a layer's launches) is the median of all, times a factor of the program that drives
the device (cuda, metal, rocm, cpu), one of the hardware's class, one of the engine. A device that was measured has a
factor for its speed. How far measured speeds lie from predicted ones is there too. docs/prediction.md derives it.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from math import hypot
from typing import Any

from motley.errors import UsageError
from motley.lab.hardware import Hardware
from motley.lab.lab import GEMM_SHARE, Device

TYPICAL_TFLOPS = 0.06  # 16-bit, for each GB/s, where a device's rate is not known
_TO_COME = frozenset({"motley-tinygrad", "motley-mlx"})  # predicted as llama.cpp, which they have to reach
_UNTRIED = 0.25  # what that adds to a sigma, by judgement
# What drives a device of a kind, where nothing else is said.
DRIVERS = {"cuda": "cuda", "metal": "metal", "rocm": "rocm", "cpu": "cpu", "vulkan": "vulkan", "sycl": "vulkan"}
# The kinds of device an engine runs on, where that is not all; Ryzen AI Max counts as vulkan here, whatever drives it.
_RUNS_ON = {
    "mlx": ("metal",),
    "exo": ("metal",),
    "motley-mlx": ("metal",),
    "motley-native": ("cpu",),
    "distributed-llama": ("cpu",),
    "ds4": ("metal", "cuda"),
    "ik_llama.cpp": ("cuda", "cpu"),
    "ktransformers": ("cuda", "cpu"),
    "vllm": ("cuda", "rocm", "vulkan", "npu"),
    "sglang": ("cuda", "rocm", "npu"),
    "tensorrt-llm": ("cuda",),
}
# What can drive a device of a kind; a name that cannot is a slip of the table.
_ABLE = {
    "cuda": ("cuda", "vulkan"),
    "metal": ("metal", "vulkan"),
    "rocm": ("rocm", "hip", "rocwmma", "vulkan", "amdvlk"),
    "vulkan": ("vulkan", "amdvlk", "rocm"),
    "sycl": ("vulkan",),
}


@dataclass(frozen=True)
class Profile:
    """Of one engine on one class of hardware. Shares are of what the vendor states."""

    bandwidth_share: float  # reading weights for one token
    expert_share: float  # chosen experts, against other weights
    cache_share: float  # reading the KV cache
    gemm_share: float  # many tokens: of the dense 16-bit rate
    expert_gemm_share: float  # many tokens through experts, against other weights
    attend_share: float  # attention of many tokens: of the dense 16-bit rate
    step_us: float
    layer_us: float
    routed_us: float
    recurrent_us: float
    latent_us: float
    sparse_us: float
    exchange_us: float  # software of one exchange between nodes, this side
    reduce_us: float  # software of one all-reduce

    def times(self, factors: Mapping[str, float]) -> "Profile":
        return Profile(**{f.name: getattr(self, f.name) * factors.get(f.name, 1.0) for f in fields(Profile)})


@cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads((files("motley.lab") / "profiles.toml").read_text())


OWN = "motley"  # whichever of Motley's own the device has


def engines() -> list[str]:
    return sorted([OWN, *_table()["engine"]])


def own_engine(hardware: Hardware) -> str:
    """Motley's own on that kind of device."""
    return {"cpu": "motley-native", "metal": "motley-mlx"}.get(hardware.kind, "motley-tinygrad")


def profile(hardware: Hardware, engine: str, backend: str = "") -> Profile:
    """`backend`: what drives the device, if it is not the usual. Raises UsageError with the nearest names for an
    unknown engine."""
    table = _table()
    engine = own_engine(hardware) if engine == OWN else engine
    if engine not in table["engine"]:
        near = get_close_matches(engine, engines(), n=3, cutoff=0.4) or engines()
        raise UsageError(f"unknown engine {engine!r}: did you mean {' or '.join(near)}?")
    own = table["engine"][engine]
    found = Profile(**table["any"])
    for kind, who in (("backend", driver(hardware, backend)), ("class", hardware.cls), ("engine", own.get("like", ""))):
        found = found.times(table[kind].get(who, {}))
    return found.times({key: value for key, value in own.items() if key not in ("like", "note")})


def engine_note(hardware: Hardware, engine: str) -> str:
    """A sentence where the engine was measured on other kinds of device only; else empty."""
    if hardware.kind in _RUNS_ON.get(engine, (hardware.kind,)):
        return ""
    others = " and ".join(_RUNS_ON[engine])
    return f"{engine} on {hardware.kind}: no measurement of that; predicted by what it reaches on {others}"


def driver(hardware: Hardware, backend: str = "") -> str:
    """What drives the device: `backend` if it can, else what usually does."""
    able = backend.split("+")[0].split("-")[0] in _ABLE.get(hardware.kind, ())
    return backend if able else DRIVERS.get(hardware.kind, "")


def known(hardware: Hardware) -> bool:
    """Whether the device itself was measured, working alone: only then its own speed is known."""
    return hardware.base in _table()["device"]


def speed(hardware: Hardware) -> float:
    """Of the device against its class."""
    return float(_table()["device"].get(hardware.base, 1.0))


def spread(domain: str, hardware: Hardware, doubted: bool = False) -> float:
    """Sigma of the logarithm of measured over predicted speed. `domain`: `decode moe`, `decode dense`, `prefill`,
    `batch` or `serving` on one device, or `several` of them. `doubted`: something that matters was not stated."""
    table = _table()["spread"]
    unseen = "" if known(hardware) else " unseen"
    for name in (f"{domain}{unseen} doubted", f"{domain}{unseen}") if doubted else (f"{domain}{unseen}",):
        if name in table:
            return float(table[name].get(hardware.cls, table[name]["any"]))
    raise UsageError(f"profiles.toml has no spread for {domain!r}: it has {', '.join(table)}")


def device(hardware: Hardware, engine: str = OWN, name: str = "", node: str = "", backend: str = "") -> Device:
    """As a lab has it. `name` and `node` default to the hardware's key."""
    engine = own_engine(hardware) if engine == OWN else engine
    p, own = profile(hardware, engine, backend), speed(hardware)
    untried = _UNTRIED if engine in _TO_COME else 0.0
    bandwidth, rate = hardware.bandwidth_gb_s * own, tflops(hardware) * 1e3 * own
    return Device(
        name=name or hardware.key,
        node=node or name or hardware.key,
        kind=hardware.kind,
        memory_bytes=hardware.usable_bytes,
        threads=1,
        read_gb_s=bandwidth * p.bandwidth_share,
        int8_gops=rate * p.gemm_share / GEMM_SHARE,
        f32_gflops=rate * p.gemm_share,
        op_overhead_us=0.0,
        attention_gflops=rate * p.attend_share,
        step_us=p.step_us / own,
        layer_us=p.layer_us / own,
        routed_us=p.routed_us / own,
        recurrent_us=p.recurrent_us / own,
        latent_us=p.latent_us / own,
        sparse_us=p.sparse_us / own,
        exchange_us=p.exchange_us,
        expert_share=p.expert_share,
        expert_gemm_share=p.expert_gemm_share,
        cache_gb_s=bandwidth * p.cache_share,
        sigma=hypot(spread("decode moe", hardware), untried),
        prefill_sigma=hypot(spread("prefill", hardware), untried),
        source=f"catalogue: {hardware.key}, {engine}",
    )


def tflops(hardware: Hardware) -> float:
    """Dense 16-bit rate that shares are of."""
    return hardware.fp16_measured_tflops or hardware.fp16_tflops or TYPICAL_TFLOPS * hardware.bandwidth_gb_s
