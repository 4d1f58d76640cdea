"""The compiled half of NativeOps; see native/module.cpp. Arrays are numpy's, C-contiguous, of the exact type."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def isas() -> list[str]: ...

class Matrix:
    rows: int
    cols: int
    n_bytes: int

class ExpertSet:
    n_bytes: int

class Cache: ...

class Program:
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def mark(self) -> None: ...
    def call(self, work: Callable[[], None]) -> None: ...
    def run(self) -> list[float]: ...

class Device:
    isa: str
    threads: int
    def __init__(self, threads: int, isa: str, half_kv: bool, /) -> None: ...
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
    def cache(self, slots: int, context: int, kv_heads: int, head_dim: int, /) -> Cache: ...
    def embed(self, table: Array, ggml_type: int, cols: int, tokens: Array, out: Array, /) -> None: ...
    def rms_norm(self, x: Array, weight: Array, eps: float, out: Array, /) -> None: ...
    def linear(self, x: Array, weights: tuple[Matrix, ...], outs: tuple[Array, ...], /) -> None: ...
    def rope(self, x: Array, head_dim: int, positions: Array, dim: int, theta: float, interleaved: bool, /) -> None: ...
    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        cache: Cache,
        positions: Array,
        slots: Array,
        scale: float,
        out: Array,
        /,
    ) -> None: ...
    def router(self, x: Array, weight: Matrix, n_used: int, normalize: bool, ids: Array, weights: Array, /) -> None: ...
    def experts(self, x: Array, ids: Array, weights: Array, experts: ExpertSet, out: Array, /) -> None: ...
    def combine(self, x: Array, parts: list[Array], /) -> None: ...
    def add(self, x: Array, y: Array, /) -> None: ...
    def take(self, x: Array, rows: Array, out: Array, /) -> None: ...
    def program(self) -> Program: ...
    def read_gb_s(self, n_bytes: int, reps: int, /) -> float: ...
    def int8_gops(self) -> float: ...
    def f32_gflops(self) -> float: ...
