"""Lab: the devices and links at hand, measured by `motley probe` or written from the catalogue. A TOML file.

Units are in the names: bytes, GB/s (1e9 bytes), Gop/s (1e9 multiply-accumulates counted as 2), microseconds.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One memory with compute on it."""

    name: str
    node: str  # the process that owns it
    kind: str  # "cpu", "cuda", "metal", ...
    memory_bytes: int  # what Motley may use
    threads: int
    read_gb_s: float  # achievable sequential read with `threads`
    int8_gops: float
    f32_gflops: float
    op_overhead_us: float  # one small op, dispatch included
    source: str = "measured"


@dataclass(frozen=True)
class Link:
    """Between two devices' nodes; symmetric."""

    a: str
    b: str
    transport: str  # "tcp", "local", "memory", ...
    rtt_us: float  # round trip of 16 KiB
    gb_s: float
    source: str = "measured"


@dataclass(frozen=True)
class Lab:
    devices: tuple[Device, ...]
    links: tuple[Link, ...] = ()
