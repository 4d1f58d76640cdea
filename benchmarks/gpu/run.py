"""All checks and benchmarks of a GPU in one call, under ten minutes: prints as it goes and leaves JSON.

    python benchmarks/gpu/run.py [--device CUDA] [--json gpu.json] [--only PART ...] [--minutes 9.5]

Parts, the important first: `machine`; `kernels` (tests/gpu: each against the reference); `copy` GB/s and `matmul`
bfloat16 TFLOP/s through tinygrad, the ceilings of this run; `decode` and `prefill` of OLMoE's and Qwen3-30B-A3B's
shapes (fewer layers, said in the result) in Q8_0 and Q4_K with Motley's kernels; `expressions` the same without them;
`golden` logits; `mixed` attention here, all experts on the CPU beside it: decoding, and prompts, for which the CPU is
asked or the weights are brought here. Nothing is downloaded: weights are random. `--small` tries the script itself, on
any device, in a minute.

A program that a part starts has its own limit (`LIMITS`); when `--minutes` are over, what runs then is ended, whatever
it waits for. The JSON says what `failed`, what `timed_out` (with what it had found by then) and what was `skipped`; the
first two end with status 1."""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "src"))

from tinygrad import Tensor, dtypes

from motley.engine.device import DeviceModel
from motley.engine.stage import Stage
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.synth import synthesize
from motley.formats.tensor import Checkpoint
from motley.lab.machine import usable_cores
from motley.ops.meter import OpsMeter
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch, Ops
from motley.ops.tinygrad import TinygradOps, adapter, tinygrad_ops
from motley.predict.memory import at_once
from motley.shape.dims import Dims
from motley.shape.model import ModelShape

OLMOE = Dims(
    name="OLMoE-1B-7B", architecture="olmoe", n_layers=16, d_model=2048, n_heads=16, n_kv_heads=16, head_dim=128,
    n_experts=64, n_experts_used=8, d_expert=1024, d_dense=1024, vocab_size=50304, context=4096, rms_eps=1e-5,
    rope_theta=10000.0,
)  # fmt: skip
QWEN = Dims(
    name="Qwen3-30B-A3B", architecture="qwen3moe", n_layers=48, d_model=2048, n_heads=32, n_kv_heads=4, head_dim=128,
    n_experts=128, n_experts_used=8, d_expert=768, d_dense=6144, vocab_size=151936, context=4096, rms_eps=1e-6,
    rope_theta=1e6,
)  # fmt: skip
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
LAYERS = 8  # of each: the rest are the same, and writing 32 GB of random weights takes longer than running them
CONTEXT, CHUNK = 4096, 512
WARM_UP = 2  # of what is timed
LIMITS = {"nvidia-smi": 20, "git": 20, "kernels": 240, "golden": 180}  # seconds
LAST = 5  # of all seconds, for what is left to do when a program's time is up


class Bench:
    """`found`: what the part that runs has so far."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.ends, self.found = perf_counter() + 60 * args.minutes, dict[str, Any]()
        self.device, self.small, self.folder = args.device, args.small, folder
        self.tokens = 64 if args.small else 2048
        self.shapes = [replace(d, n_layers=2 if args.small else LAYERS) for d in (OLMOE, QWEN)]
        if args.small:
            small = {"d_model": 256, "n_heads": 4, "n_kv_heads": 4, "head_dim": 64, "d_dense": 256, "vocab_size": 320}
            self.shapes = [replace(d, n_experts=6, n_experts_used=2, d_expert=256, **small) for d in self.shapes]

    # -- parts

    def machine(self) -> dict[str, Any]:
        smi = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        try:
            gpu = self._told("nvidia-smi", smi, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError) as error:
            gpu = f"nvidia-smi: {error}"
        commit = self._told("git", ["git", "rev-parse", "HEAD"]).stdout.strip()
        return {"gpu": gpu, "cores": usable_cores(), "tinygrad": adapter.VERSION, "commit": commit}

    def kernels(self) -> dict[str, Any]:
        run = self._told("kernels", [sys.executable, "-m", "pytest", "-q", "tests/gpu"])
        passed, skipped = (re.search(rf"(\d+) {what}", run.stdout) for what in ("passed", "skipped"))
        if run.returncode or not passed or (skipped and not self.small):  # skipped ones prove nothing
            raise RuntimeError(f"tests/gpu ended with status {run.returncode}: {run.stdout[-1500:]}")
        return {"passed": int(passed[1]), "skipped": int(skipped[1]) if skipped else 0}

    def copy(self) -> dict[str, Any]:
        n = (1 << 22) if self.small else (1 << 30)
        source = Tensor.ones(n, device=self.device).contiguous().realize()
        seconds = self._timed((source + 1).contiguous())
        return {"gb_s": 2 * 4 * n / seconds / 1e9, "bytes": 8 * n}

    def matmul(self) -> dict[str, Any]:
        n = 256 if self.small else 8192
        kind = dtypes.float32 if self.small else dtypes.bfloat16
        a, b = (Tensor.ones(n, n, device=self.device, dtype=kind).contiguous().realize() for _ in range(2))
        seconds = self._timed(a.matmul(b, dtype=dtypes.float32).contiguous())
        return {"tflop_s": 2 * n**3 / seconds / 1e12, "n": n}

    def decode(self) -> dict[str, Any]:
        return self._each(lambda d, q: self._decode(d, q, tinygrad_ops(self.device)))

    def prefill(self) -> dict[str, Any]:
        return self._each(lambda d, q: self._prefill(d, q, tinygrad_ops(self.device)))

    def expressions(self) -> dict[str, Any]:
        return self._each(lambda d, q: self._decode(d, q, TinygradOps(self.device)))

    def golden(self) -> dict[str, Any]:
        tool = [sys.executable, "tools/tinygrad_families.py", "--device", self.device]
        run = self._told("golden", [*tool, "olmoe", "qwen3moe", "gpt-oss"])
        tail = (run.stdout + run.stderr)[-1500:]
        if run.returncode:
            raise RuntimeError(f"golden logits are missed: {tail}")
        return {"passed": True, "tail": tail}

    def mixed(self) -> dict[str, Any]:
        """How much faster than the CPU alone. Their answers differ by more than rounding: the CPU's own products see
        activations in int8 (about 0.5 %), in attention too where it is alone."""
        dims, out = self.shapes[1], self.found
        checkpoint = open_checkpoint(self._file(dims, "q4_k"))
        experts = {layer: range(dims.n_experts) for layer in range(dims.n_layers)}
        room = {"n_slots": 1, "context": CONTEXT}
        cpu = NativeOps(threads=usable_cores())
        alone = DeviceModel(checkpoint, cpu, layers=range(dims.n_layers), experts=experts, **room)
        beside = DeviceModel(checkpoint, cpu, layers=range(0), experts=experts, **room)
        owners = {"cpu": (Beside(beside), experts)}
        gpu = tinygrad_ops(self.device)
        home = DeviceModel(checkpoint, gpu, layers=range(dims.n_layers), experts={}, owners=owners, **room)  # type: ignore[arg-type]
        logits = {}
        for name, model in (("cpu alone", alone), ("gpu home, cpu experts", home)):
            assert model.stage is not None
            logits[name] = [model.stage.forward(_one(i), None) for i in range(8)]
            times = _times(lambda i, m=model: m.stage.forward(_one(i + 8), None), 24)
            out[name] = {"ms": median(times) * 1e3, "raw_ms": [t * 1e3 for t in times]}
        a, b = (np.concatenate(x) for x in logits.values())
        out["largest difference to the CPU alone"] = float(np.abs(a - b).max() / np.abs(a).max())
        return {**out, "prompts": self._mixed_prompts(checkpoint, gpu, owners, room)}

    def _mixed_prompts(self, checkpoint: Checkpoint, gpu: Ops, owners: Any, room: dict[str, int]) -> dict[str, Any]:
        """The CPU asked for its experts, and the GPU bringing them itself; by tokens of a step."""
        shape = shape_of(checkpoint)
        layers = range(shape.n_layers)
        streams = {i: (32, at_once(shape, i), ("cpu",)) for i in layers}
        n_bytes = sum(shape.expert_bytes(i) * shape.n_experts for i in layers)
        out: dict[str, Any] = {"layers": shape.n_layers, "expert_bytes": n_bytes}
        out["upload_gb_s"] = OpsMeter(gpu).upload_gb_s((1 << 20) if self.small else (64 << 20))
        for name, how in (("asked", {}), ("brought", streams)):
            home = DeviceModel(checkpoint, gpu, layers=layers, experts={}, owners=owners, streams=how, **room)
            assert home.stage is not None
            for size in {min(CHUNK, self.tokens), self.tokens}:
                before = home.clock.times.upload
                times = self._prompts(home.stage, size)
                upload = (home.clock.times.upload - before) / (len(times) + WARM_UP)
                out[f"{name}, {size} tokens a step"] = {
                    "tokens_per_s": self.tokens / min(times), "host_upload_s": upload, "raw_s": times,
                }  # fmt: skip
        return out

    # -- inside

    def _told(self, name: str, command: list[str], check: bool = False) -> "subprocess.CompletedProcess[str]":
        """What a program says within its limit; TimeoutExpired behind that."""
        left = self.ends - LAST - perf_counter()
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=ENV, check=check,
            timeout=max(min(LIMITS[name], left), 0.1),
        )  # fmt: skip

    def _each(self, measured: Callable[[Dims, str], dict[str, Any]]) -> dict[str, Any]:
        for dims in self.shapes:
            for quant in QUANTS:
                self.found[f"{dims.name} {quant}"] = measured(dims, quant)
        return self.found

    def _timed(self, out: Tensor) -> float:
        graph = adapter.Graph([out])

        def once(_: int) -> None:
            graph.run({})
            adapter.wait(self.device)

        return min(_times(once, 7))

    def _file(self, dims: Dims, quant: str) -> Path:
        path = self.folder / f"{dims.name}-{quant}.gguf"
        if not path.exists():
            synthesize(ModelShape.from_dims(dims, quant), path, seed=1)
        return path

    def _model(self, dims: Dims, quant: str, ops: Ops) -> DeviceModel:
        experts = {layer: range(dims.n_experts) for layer in range(dims.n_layers)}
        checkpoint = open_checkpoint(self._file(dims, quant))
        return DeviceModel(checkpoint, ops, layers=range(dims.n_layers), experts=experts, n_slots=1, context=CONTEXT)

    def _decode(self, dims: Dims, quant: str, ops: Ops) -> dict[str, Any]:
        started = perf_counter()
        stage = self._model(dims, quant, ops).stage
        assert stage is not None
        loaded = perf_counter() - started
        stage.forward(_one(0), None)
        first = perf_counter() - started - loaded
        times = _times(lambda i: stage.forward(_one(i + 1), None), 8 if self.small else 48)
        shape = ModelShape.from_dims(dims, quant)
        layers = range(dims.n_layers)
        active = sum(shape.home_bytes(i) + shape.expert_bytes(i) * dims.n_experts_used for i in layers)
        active += shape.head_bytes
        (remembered,) = stage._remembered.values()
        kernels = remembered._program.n_kernels  # type: ignore[union-attr]
        return {
            "layers": dims.n_layers, "ms": median(times) * 1e3, "gb_s": active / median(times) / 1e9,
            "active_bytes": active, "launches": kernels, "launches_per_layer": (kernels - 1) / dims.n_layers,
            "load_s": loaded, "first_step_s": first, "raw_ms": [t * 1e3 for t in times],
        }  # fmt: skip

    def _prefill(self, dims: Dims, quant: str, ops: Ops) -> dict[str, Any]:
        stage = self._model(dims, quant, ops).stage
        assert stage is not None
        times = self._prompts(stage, min(CHUNK, self.tokens))
        d, f, a = dims.d_model, dims.d_expert, dims.n_experts_used
        projections = d * dims.head_dim * (2 * dims.n_heads + 2 * dims.n_kv_heads)
        flops = 2 * self.tokens * dims.n_layers * (projections + 3 * d * f * a)
        return {
            "layers": dims.n_layers, "tokens": self.tokens, "s": min(times), "tflop_s": flops / min(times) / 1e12,
            "raw_s": times,
        }  # fmt: skip

    def _prompts(self, stage: Stage, size: int) -> list[float]:
        """Seconds of all tokens, `size` a step."""

        def whole(_: int) -> None:
            for first in range(0, self.tokens, size):
                last = [size - 1] if first + size == self.tokens else []
                tokens = [(7 + 31 * i) % 300 for i in range(size)]  # equal ones would choose the same experts
                stage.forward(Batch(tokens, range(first, first + size), [0] * size, last), None)

        return _times(whole, 3)


class Beside:
    """The CPU's experts in a thread of this process, as `engine.experts.ExpertOwner`."""

    transport = "memory"

    def __init__(self, model: DeviceModel) -> None:
        self._model, self._pool = model, ThreadPoolExecutor(1)
        self.traffic = SimpleNamespace(busy_s=0.0)
        self._asked: Future[np.ndarray] | None = None

    def start(self, layer: int, x: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> None:
        def work() -> np.ndarray:
            began = perf_counter()
            out = self._model.run_experts(layer, x.copy(), ids.copy(), weights.copy())
            self.traffic.busy_s += perf_counter() - began
            return out

        self._asked = self._pool.submit(work)

    def finish(self) -> np.ndarray:
        assert self._asked is not None
        return self._asked.result()


def _one(position: int) -> Batch:
    return Batch([11 + position % 97], [position], [0], [0])


def _times(call: Callable[[int], object], n: int) -> list[float]:
    """Each of n calls, after some to warm up."""
    times = []
    for i in range(n + WARM_UP):
        began = perf_counter()
        call(i)
        times.append(perf_counter() - began)
    return times[WARM_UP:]


QUANTS = ("q8_0", "q4_k")
PARTS = ("machine", "kernels", "copy", "matmul", "decode", "prefill", "expressions", "golden", "mixed")


class Report:
    """What the parts gave so far, in the file after each; and the end of the whole when its time is up."""

    def __init__(self, args: argparse.Namespace, bench: Bench) -> None:
        self._args, self._bench = args, bench
        self._results, self._began = dict[str, Any](), perf_counter()
        self._lock = threading.Lock()
        self._timer = threading.Timer(bench.ends - self._began, self._end)
        self._timer.daemon = True
        self._timer.start()

    def add(self, part: str, result: dict[str, Any]) -> None:
        with self._lock:
            self._write(part, result)
            self._began = perf_counter()

    def close(self) -> int:
        """The exit status."""
        with self._lock:
            self._timer.cancel()
            return 1 if any({"failed", "timed_out"} & result.keys() for result in self._results.values()) else 0

    def _write(self, part: str, result: dict[str, Any]) -> None:
        self._results[part] = {**result, "seconds": perf_counter() - self._began}
        print(part, json.dumps(self._results[part])[:1500], flush=True)
        head = {"command": sys.argv, "device": self._args.device}
        self._args.json.write_text(json.dumps({**head, **self._results}, indent=1))

    def _end(self) -> None:
        """With the process, as what runs may wait for a card that never answers."""
        with self._lock:
            over = f"{self._args.minutes} minutes were over"
            now, *others = [part for part in self._args.only if part not in self._results] or [None]
            if now is None:
                return
            self._write(now, {"timed_out": over, **self._bench.found})
            self._began = perf_counter()
            for part in others:
                self._write(part, {"skipped": over})
            shutil.rmtree(self._bench.folder, ignore_errors=True)
            os._exit(1)


def _result_of(bench: Bench, part: str) -> dict[str, Any]:
    bench.found = {}
    try:
        return getattr(bench, part)()  # type: ignore[no-any-return]
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return {
            "timed_out": f"{shlex.join(error.cmd)}: {error.timeout:.1f} s were over",
            "tail": (said.decode(errors="replace") if isinstance(said, bytes) else said)[-1500:],
        }
    except Exception as error:  # the other parts are worth having
        return {**bench.found, "failed": f"{type(error).__name__}: {error}"[:2000]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="CUDA")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Report(args, bench := Bench(args, Path(folder)))
        for part in args.only:
            report.add(part, _result_of(bench, part))
        return report.close()


if __name__ == "__main__":
    sys.exit(main())
