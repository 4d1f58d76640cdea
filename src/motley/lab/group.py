"""A group: equal or unequal devices that split every matrix between them and work as one (tensor parallelism).

Each member reads its part of the weights; after attention and after the experts all add up what they have (all-reduce).
An even split waits for the slowest member, and holds as much as its smallest member allows.
"""

from collections.abc import Sequence
from dataclasses import replace

from motley.errors import UsageError
from motley.lab.lab import Device


def grouped(name: str, members: Sequence[Device], reduce_us: float, reduce_gb_s: float) -> Device:
    """The members as one device; `reduce_us` and `reduce_gb_s`: of one all-reduce among them."""
    if not members:
        raise UsageError(f"the group {name} has no members: give it at least one device")
    n = len(members)
    slowest = min(members, key=lambda d: d.read_gb_s)
    if n == 1:
        return replace(slowest, name=name, node=name)
    kernels = tuple(
        replace(k, gemm_gops=n * k.gemm_gops, matvec=tuple((size * n, rate * n) for size, rate in k.matvec), stored=())
        for k in slowest.kernels
    )
    return replace(
        slowest,
        name=name,
        node=name,
        memory_bytes=n * min(d.memory_bytes for d in members),
        read_gb_s=n * slowest.read_gb_s,
        cache_gb_s=n * slowest.cache_gb_s,
        int8_gops=n * min(d.int8_gops for d in members),
        f32_gflops=n * min(d.f32_gflops for d in members),
        attention_gflops=n * slowest.attention_gflops,
        reduce_us=reduce_us,
        reduce_gb_s=reduce_gb_s,
        kernels=kernels,
        sigma=max(d.sigma for d in members),
        source=f"{n} x {slowest.name}: {slowest.source}",
    )
