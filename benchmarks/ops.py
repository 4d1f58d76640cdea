"""What the native kernels do against what the machine can do: GB/s for one token, GMAC/s for many, op by op.

Synthetic random blocks of the OLMoE-1B-7B shape; no model is needed. Figures are medians, with the best beside them;
the ceilings are read in the same run, because they move on a shared machine. In a checkout: PYTHONPATH=src.

    python benchmarks/ops.py [--threads 1 2] [--quants q4_0 q4_k ...] [--tokens 512] [--isa avx512] [--json FILE]
    python benchmarks/ops.py --step q4_k [--head q6_k] [--depth 0 4096]     a whole model's decode step and prefill
"""

import argparse
import json
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from motley.formats.synth import random_blocks
from motley.formats.tensor import QuantTensor
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch, Rope, Routing, Upload
from motley.shape.quant import Quant

D, F, E, A, HEADS, N, V, LAYERS = 2048, 1024, 64, 8, 16, 128, 50304, 16  # OLMoE-1B-7B
ROUTING, ROPE = Routing(A, False), Rope(N, 10_000.0)

Row = dict[str, Any]


def seconds(call: Callable[[], object], reps: int = 9) -> tuple[float, float]:
    """Median and best time of one call, after one to warm up. On a busy machine the best is the telling one."""
    times = []
    for _ in range(reps + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times[1:]), min(times[1:])


def report(rows: list[Row], **row: Any) -> None:
    rows.append(row)
    print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v!s:>10}" for k, v in row.items()), flush=True)


def rates(work: float, unit: str, times: tuple[float, float]) -> Row:
    return {unit: work / times[0] / 1e9, f"best {unit}": work / times[1] / 1e9, "ms": times[0] * 1e3}


def floats(*dims: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(dims).astype(np.float32)


def random_tensor(quant: Quant, dims: tuple[int, ...], seed: int = 0) -> QuantTensor:
    n = int(np.prod(dims))
    data = random_blocks(np.random.default_rng(seed), quant, n // quant.block, dims[-1] ** -0.5)
    return QuantTensor("random", dims, quant, np.ascontiguousarray(data).view(np.uint8).reshape(-1))


def choices(tokens: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([tokens, seed])
    return np.array([rng.permutation(E)[:A] for _ in range(tokens)], np.int32)


def expert_tensors(quant: Quant, down: Quant | None = None) -> list[QuantTensor]:
    """One expert's random blocks repeated: quick to make, and the kernels do not look."""
    one = [random_tensor(quant, (F, D), 1), random_tensor(quant, (F, D), 2), random_tensor(down or quant, (D, F), 3)]
    return [QuantTensor(t.name, (E, *t.dims), t.quant, np.tile(t.data, E)) for t in one]


def bench_format(ops: NativeOps, quant: Quant, tokens: int, rows: list[Row]) -> None:
    """Packing, the experts of a few layers (more than caches hold), and a square linear."""
    name = {"quant": quant.name, "T": ops.threads}
    tensors = expert_tensors(quant)
    stored = sum(t.n_bytes for t in tensors)
    start = time.perf_counter()
    layers = [ops.experts_weight(*tensors, range(E)) for _ in range(4)]
    report(rows, op="pack", **name, GB_s=4 * stored / (time.perf_counter() - start) / 1e9)

    turn = count()
    as_stored = ops.experts_weight(*tensors, range(E), Upload(repack=False))
    picks, x, weights = [choices(1, i) for i in range(8)], floats(1, D), np.full((1, A), 1 / A, np.float32)
    t = seconds(lambda: ops.experts(x, picks[next(turn) % 8], weights, as_stored), 40)
    report(rows, op="experts x1, as stored", **name, **rates(A / E * stored, "GB_s", t))

    for n in (1, 2, 4, 8):
        x, weights = floats(n, D), np.full((n, A), 1 / A, np.float32)
        picks = [choices(n, i) for i in range(8)]

        def decode(x: np.ndarray = x, weights: np.ndarray = weights, picks: list[np.ndarray] = picks) -> None:
            i = next(turn)
            ops.experts(x, picks[i % 8], weights, layers[i % 4])

        touched = float(np.mean([len(np.unique(p)) for p in picks])) / E * stored
        report(rows, op=f"experts x{n}", **name, **rates(touched, "GB_s", seconds(decode, 40)))

    x, ids, weights = floats(tokens, D), choices(tokens), np.full((tokens, A), 1 / A, np.float32)
    t = seconds(lambda: ops.experts(x, ids, weights, layers[next(turn) % 4]), 5)
    report(rows, op=f"experts x{tokens}", **name, **rates(tokens * A * 3 * D * F, "GMAC_s", t))

    linears = [ops.weight(random_tensor(quant, (D, D))) for _ in range(4)]
    t = seconds(lambda: ops.linear(x, linears[next(turn) % 4]), 5)
    report(rows, op=f"linear x{tokens}", **name, **rates(tokens * D * D, "GMAC_s", t))


def bench_attention(ops: NativeOps, rows: list[Row]) -> None:
    caches = [ops.kv_cache(1, 4352, HEADS, N) for _ in range(4)]
    q = floats(256, D)
    for first in range(0, 4352, 256):
        batch = Batch([0] * 256, range(first, first + 256), [0] * 256, [])
        layer = count()
        t = seconds(lambda b=batch, n=layer: ops.attention(q, q, q, caches[next(n) % 4], b, N**-0.5), 3)
        if first in (0, 256, 3840):
            report(
                rows, op="attention x256", depth=first, T=ops.threads, **rates(256 * (first + 128) * D * 2, "GMAC_s", t)
            )
    one = q[:1].copy()
    for depth in (128, 1024, 4095):
        batch, layer = Batch([0], [depth], [0], []), count()
        t = seconds(lambda b=batch, n=layer: ops.attention(one, one, one, caches[next(n) % 4], b, N**-0.5), 60)
        report(rows, op="attention x1", depth=depth, T=ops.threads, **rates(4 * D * depth, "GB_s", t))


class Step:
    """All operations of an OLMoE step, in the order of models/layers.py."""

    def __init__(self, ops: NativeOps, quant: Quant, head: Quant, context: int) -> None:
        self.ops = ops
        tensors = expert_tensors(quant)
        square = random_tensor(quant, (D, D))
        self.norm = ops.weight(random_tensor(Quant.F32, (D,)))
        self.layers = [
            (
                [ops.weight(square) for _ in range(4)],
                ops.weight(random_tensor(Quant.F32, (E, D), i)),
                ops.experts_weight(*tensors, range(E)),
            )
            for i in range(LAYERS)
        ]
        one = random_tensor(head, (V // 64, D))
        table = QuantTensor("head", (V, D), head, np.tile(one.data, 64))
        self.embed, self.head = ops.table(table), ops.weight(table)
        self.caches = [ops.kv_cache(1, context, HEADS, N) for _ in range(LAYERS)]
        self.active_bytes = LAYERS * (4 * square.n_bytes + sum(t.n_bytes for t in tensors) * A // E) + table.n_bytes

    def __call__(self, batch: Batch) -> np.ndarray:
        ops = self.ops
        x = ops.embed(self.embed, batch.tokens)
        for i, ((wq, wk, wv, wo), router, experts) in enumerate(self.layers):
            h = ops.rms_norm(x, self.norm, 1e-5)
            q, k, v = ops.linear(h, wq, wk, wv)
            q, k = ops.rms_norm(q, self.norm, 1e-5), ops.rms_norm(k, self.norm, 1e-5)
            q, k = ops.rope(q, N, batch.positions, ROPE), ops.rope(k, N, batch.positions, ROPE)
            a = ops.attention(q, k, v, self.caches[i], batch, N**-0.5)
            x = ops.add(x, ops.linear(a, wo)[0])
            h = ops.rms_norm(x, self.norm, 1e-5)
            ids, weights = ops.router(h, router, ROUTING)
            x = ops.combine(x, [ops.experts(h, ids, weights, experts)])
        return ops.linear(ops.rms_norm(ops.take(x, batch.rows), self.norm, 1e-5), self.head)[0]


def bench_step(ops: NativeOps, quant: Quant, head: Quant, depths: list[int], tokens: int, rows: list[Row]) -> None:
    step = Step(ops, quant, head, max(depths) + tokens + 600)
    name = {"quant": quant.name, "T": ops.threads}
    rng = np.random.default_rng(0)

    def prefill(first: int, n: int) -> None:
        for at in range(first, first + n, 512):
            m = min(512, first + n - at)
            step(Batch(rng.integers(0, V, m), range(at, at + m), [0] * m, [m - 1]))

    prefill(0, 32)
    for depth in depths:
        prefill(0, depth)
        position = count(depth)
        busy, start = ops.busy_seconds(), time.perf_counter()
        t = seconds(lambda p=position: step(Batch([rng.integers(V)], [next(p)], [0], [0])), 40)
        share = 1 - (ops.busy_seconds() - busy) / (time.perf_counter() - start)
        report(
            rows, op="decode", depth=depth, **name, tok_s=1 / t[0], best_tok_s=1 / t[1],
            **rates(step.active_bytes, "GB_s", t), python_percent=100 * share, read_gb_s=ops.read_gb_s(1 << 30, 5),
        )  # fmt: skip
    shares, macs = [], LAYERS * (4 * D * D + A * 3 * F * D) + V * D / tokens
    for _ in range(7):  # each beside the peak of its own second: the clock moves
        peak = ops.int8_gops() / 2
        t = seconds(lambda: prefill(0, tokens), 1)
        shares.append(tokens * macs / t[0] / 1e9 / ((peak + ops.int8_gops() / 2) / 2))
        report(rows, op=f"prefill {tokens}", **name, tok_s=tokens / t[0], int8_peak_gmac_s=peak, of_peak=shares[-1])
    print(f"prefill {tokens}: median {median(shares):.0%} of the integer peak")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quants", nargs="*", default=["q8_0", "q4_0", "q4_k", "q5_k", "q6_k"])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--isa", default="")
    parser.add_argument("--step", metavar="QUANT")
    parser.add_argument("--head", metavar="QUANT", default="q6_k")
    parser.add_argument("--depth", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[Row] = []
    for threads in args.threads:
        ops = NativeOps(threads=threads, isa=args.isa)
        report(
            rows, op="machine", isa=ops.isa, T=threads, read_gb_s=ops.read_gb_s(1 << 30, 7),
            int8_gmac_s=ops.int8_gops() / 2, f32_gmac_s=ops.f32_gflops() / 2, op_overhead_us=ops.op_overhead_us(),
        )  # fmt: skip
        if args.step:
            bench_step(ops, Quant.named(args.step), Quant.named(args.head), args.depth, args.tokens, rows)
        else:
            for quant in args.quants:
                bench_format(ops, Quant.named(quant), args.tokens, rows)
            bench_attention(ops, rows)
        ops.close()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
