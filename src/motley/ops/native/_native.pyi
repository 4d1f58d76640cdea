"""The compiled half of NativeOps; see native/module.cpp. Arrays are numpy's, C-contiguous, of the exact type."""

import mmap
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview | mmap.mmap

def isas() -> list[str]: ...

class Matrix:
    rows: int
    cols: int
    n_bytes: int

class ExpertSet:
    n_bytes: int
    def set_activation(self, activation: int, gate: Array | None, up: Array | None, down: Array | None, /) -> None: ...

class Cache:
    BESIDE: int
    head_dim: int
    value_dim: int
    n_bytes: int

class DeltaState:
    width: int
    n_bytes: int

class Program:
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def mark(self) -> None: ...
    def call(self, work: Callable[[], None]) -> None: ...
    def begin(self) -> None: ...
    def next(self) -> Callable[[], None] | None: ...
    def marks(self) -> list[float]: ...

class Ring:
    """native/ring.h: bytes from one process to another. `reader`: which side this is, or (`sleeps`) the other is."""

    def __init__(self, memory: Buffer, control: int, data: int, size: int, /) -> None: ...
    def push(self, parts: Sequence[Buffer], /) -> int: ...
    def pull(self, room: Buffer, seconds: float, /) -> int: ...
    def may_sleep(self, reader: bool, /) -> bool: ...
    def woke(self, reader: bool, /) -> None: ...
    def sleeps(self, reader: bool, /) -> bool: ...

class Device:
    isa: str
    threads: int
    def __init__(self, threads: int, isa: str, /) -> None: ...
    def busy_seconds(self) -> float: ...
    def close(self) -> None: ...
    def pack(
        self,
        data: Array,
        ggml_type: int,
        rows: int,
        cols: int,
        release: bool,
        watcher: Callable[[int], None] | None,
        /,
    ) -> Matrix: ...
    def stored(self, data: Array, ggml_type: int, rows: int, cols: int, /) -> Matrix: ...
    def pack_experts(
        self,
        gate: Array,
        gate_type: int,
        up: Array,
        up_type: int,
        down: Array,
        down_type: int,
        n_experts: int,
        d_model: int,
        d_expert: int,
        owned: list[int],
        release: bool,
        watcher: Callable[[int], None] | None,
        /,
    ) -> ExpertSet: ...
    def stored_experts(
        self,
        gate: Array,
        gate_type: int,
        up: Array,
        up_type: int,
        down: Array,
        down_type: int,
        n_experts: int,
        d_model: int,
        d_expert: int,
        owned: list[int],
        /,
    ) -> ExpertSet: ...
    def cache(
        self,
        slots: int,
        context: int,
        kv_heads: int,
        head_dim: int,
        value_dim: int,
        window: int,
        chunk: int,
        type: int,
        one: bool,
        /,
    ) -> Cache: ...
    def delta_state(
        self,
        slots: int,
        k_heads: int,
        v_heads: int,
        k_dim: int,
        v_dim: int,
        taps: int,
        eps: float,
        tiled: bool,
        /,
    ) -> DeltaState: ...
    def embed(self, table: Array, ggml_type: int, cols: int, tokens: Array, out: Array, /) -> None: ...
    def rms_norm(self, x: Array, weight: Array, eps: float, out: Array, /) -> None: ...
    def linear(self, x: Array, weights: tuple[Matrix, ...], outs: tuple[Array, ...], /) -> None: ...
    def rope(
        self,
        x: Array,
        head_dim: int,
        positions: Array,
        frequencies: Array,
        start: int,
        magnitude: float,
        interleaved: bool,
        /,
    ) -> None: ...
    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        cache: Cache,
        positions: Array,
        slots: Array,
        scale: float,
        sinks: Array | None,
        out: Array,
        /,
    ) -> None: ...
    def delta_net(
        self,
        qkv: Array,
        write: Array,
        keep: Array,
        conv: Array,
        dt: Array,
        rate: Array,
        state: DeltaState,
        positions: Array,
        slots: Array,
        out: Array,
        /,
    ) -> None: ...
    def router(
        self,
        x: Array,
        weight: Matrix,
        n_used: int,
        normalize: bool,
        sigmoid: bool,
        scale: float,
        n_groups: int,
        n_groups_used: int,
        group_sum: int,
        bias: Array | None,
        prior: Array | None,
        gain: Array | None,
        ids: Array,
        weights: Array,
        /,
    ) -> None: ...
    def heads_linear(self, x: Array, weight: Matrix, heads: int, out: Array, /) -> None: ...
    def activate(self, activation: int, gate: Array, up: Array, out: Array, /) -> None: ...
    def gate(self, x: Array, by: Array, function: int, /) -> None: ...
    def temper(self, x: Array, positions: Array, factor: float, length: int, /) -> None: ...
    def scale(self, x: Array, factor: float, /) -> None: ...
    def softcap(self, x: Array, cap: float, /) -> None: ...
    def add_bias(self, x: Array, bias: Array, /) -> None: ...
    def columns(self, x: Array, width: int, first: int, end: int, out: Array, /) -> None: ...
    def join(self, x: Array, width: int, y: Array, width_y: int, out: Array, /) -> None: ...
    def experts(self, x: Array, ids: Array, weights: Array, experts: ExpertSet, out: Array, /) -> None: ...
    def combine(self, x: Array, parts: list[Array], /) -> None: ...
    def add(self, x: Array, y: Array, /) -> None: ...
    def take(self, x: Array, rows: Array, out: Array, /) -> None: ...
    def program(self) -> Program: ...
    def read_gb_s(self, n_bytes: int, reps: int, /) -> float: ...
    def int8_gops(self) -> float: ...
    def f32_gflops(self) -> float: ...
