"""Lab: the devices and links at hand, measured by `motley probe` or written from the catalogue. A TOML file.

Units are in the names: bytes, GB/s (1e9 bytes), Gop/s (1e9 operations, a multiply-accumulate counted as 2),
microseconds. Reading and writing the file is `toml`'s work.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Self

from motley.errors import UsageError

if TYPE_CHECKING:
    from motley.lab.joins import Joins

MOST_DEVICES = 2048  # of a lab that is planned: half a minute
GEMM_SHARE = 0.5  # of `int8_gops` that products of many tokens reach, where a device's kernels were not measured
_STORED_SHARE = 0.7  # of the repacked layout's speed, where reading weights as they are stored was not measured


@dataclass(frozen=True)
class Kernel:
    """What a device's own kernels reach on weights of one quantisation."""

    quant: str  # "q8_0", ...
    gemm_gops: float  # many tokens
    matvec: tuple[tuple[int, float], ...]  # one token: (bytes of a working set, GB/s of weights), ascending
    stored: tuple[tuple[int, float], ...] = ()  # likewise of weights as the file has them, put in order at every use

    def as_stored(self) -> "Kernel":
        """For weights that are not repacked."""
        return replace(self, matvec=self.stored or tuple((n, rate * _STORED_SHARE) for n, rate in self.matvec))

    def matvec_gb_s(self, n_bytes: float) -> float:
        """For a working set of `n_bytes`: between the measured ones by its logarithm, beyond them the outermost."""
        below = self.matvec[0]
        for point in self.matvec:
            if point[0] >= n_bytes:
                part = log(n_bytes / below[0]) / log(point[0] / below[0]) if point[0] > below[0] else 0.0
                return below[1] + max(0.0, part) * (point[1] - below[1])
            below = point
        return below[1]


@dataclass(frozen=True)
class Device:
    """One memory with compute on it. The optional figures refine the cost model; absent, it makes do without."""

    name: str
    node: str  # the process that owns it
    kind: str  # "cpu", "cuda", "metal", ...
    memory_bytes: int  # what Motley may use
    threads: int
    read_gb_s: float  # achievable sequential read with `threads`
    int8_gops: float
    f32_gflops: float
    op_overhead_us: float  # one small op on all threads, dispatch included
    source: str = "measured"
    call_us: float = 0.0  # one small op that needs a single thread (norm, rope, add)
    attention_gflops: float = 0.0  # of attention over a prompt; 0: as `f32_gflops`
    elements_g_s: float = 0.0  # 1e9 elements a second through a norm of many tokens; 0: not counted
    pack_gb_s: float = 0.0  # repacking weights at load, into memory the machine has at hand; 0: not measured
    upload_gb_s: float = 0.0  # weights as the file has them, brought here during a step; 0: not known, none are
    step_us: float = 0.0  # once a step: launching a graph, synchronising, sampling
    layer_us: float = 0.0  # once a layer: launches that no other figure holds
    routed_us: float = 0.0  # more of them where a layer has experts
    recurrent_us: float = 0.0  # more of them where a layer keeps a state instead of a cache
    latent_us: float = 0.0  # more of them where a layer's cache is latent
    sparse_us: float = 0.0  # more of them where a layer chooses which parts of its cache to read
    exchange_us: float = 0.0  # this side's software of an exchange with another node; 0: so many calls (predict.cost)
    reduce_us: float = 0.0  # one all-reduce among the members of a group that works as one device (lab.group)
    reduce_gb_s: float = 0.0  # its bandwidth
    expert_share: float = 1.0  # of the rate of other weights, that chosen experts are read at
    expert_gemm_share: float = 1.0  # likewise with many tokens
    cache_gb_s: float = 0.0  # reading the KV cache; 0: as `read_gb_s`
    sigma: float = 0.0  # relative spread of measured speeds around predicted ones; 0: as for measured figures
    prefill_sigma: float = 0.0  # likewise with prompts
    kernels: tuple[Kernel, ...] = ()

    def kernel(self, quant: str) -> Kernel | None:
        return next((k for k in self.kernels if k.quant == quant), None)


@dataclass(frozen=True)
class Link:
    """Between two nodes (or two devices, by name), or two groups of them (`mac*`: see `joins`); symmetric."""

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

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises UsageError naming the file, the key and what is accepted."""
        from motley.lab.toml import parse_lab

        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise UsageError(
                f"cannot read the lab file {path} ({reason}): name one that `motley probe -o FILE` wrote"
            ) from None
        devices, links = parse_lab(text, str(path))
        return cls(devices, links)

    def dumps(self) -> str:
        from motley.lab.toml import format_lab

        return format_lab(self.devices, self.links)

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.dumps())

    def device(self, name: str) -> Device:
        if name in self._positions:
            return self.devices[self._positions[name]]
        raise UsageError(f"the lab has no device {name!r}: it has {shortened([d.name for d in self.devices])}")

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {d.name: i for i, d in reversed(list(enumerate(self.devices)))}

    @cached_property
    def joins(self) -> "Joins":
        """Which link joins each pair of devices."""
        from motley.lab.joins import Joins

        return Joins(self.devices, self.links)

    def link(self, a: str, b: str) -> Link:
        """The link between devices `a` and `b`. Devices of one node need none: their exchange is a call.
        Raises UsageError where the lab has none."""
        from motley.lab.joins import LOCAL, MISSING

        first, second = self.device(a), self.device(b)
        i, j = self._positions[a], self._positions[b]
        found = int(self.joins.index[i, j])
        if found == MISSING:
            raise UsageError(f"the lab has no link between {a} and {b}: add a [[link]] with a = {a!r} and b = {b!r}")
        if found == LOCAL:
            gb_s = max(min(first.read_gb_s, second.read_gb_s), 1e-9)
            return Link(a, b, "local", 0.0, gb_s, "same node")
        return self.links[found]

    def missing_links(self) -> list[tuple[str, str]]:
        """Pairs of devices that nothing joins."""
        return [(self.devices[i].name, self.devices[j].name) for i, j in self.joins.missing]

    def with_stored(self, names: Iterable[str]) -> Self:
        """As it is when these devices leave their weights as the file has them."""
        stored = set(names)
        return self._with(
            replace(d, kernels=tuple(k.as_stored() for k in d.kernels)) if d.name in stored else d for d in self.devices
        )

    def with_uploads_to(self, names: Iterable[str]) -> Self:
        """As it is when only these devices take weights during a step."""
        able = set(names)
        return self._with(
            replace(d, upload_gb_s=0.0) if d.upload_gb_s and d.name not in able else d for d in self.devices
        )

    def _with(self, devices: Iterable[Device]) -> Self:
        """With other figures of its devices."""
        found = type(self)(tuple(devices), self.links)
        if "joins" in vars(self):  # the same: they go by names and nodes
            vars(found)["joins"] = self.joins
        return found

    def subset(self, names: Iterable[str]) -> Self:
        """Only these devices; links between them stay."""
        kept = set(names)
        devices = tuple(d for d in self.devices if d.name in kept)
        return type(self)(devices, self.links)


def shortened(names: Sequence[str], most: int = 8) -> str:
    """`a, b, c`; of many names the first and how many more."""
    more = len(names) - most
    return ", ".join(names) if more <= 1 else ", ".join(names[:most]) + f" and {more:,} more"


def missing_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return shortened([f"{a} - {b}" for a, b in pairs])
