"""`motley selftest`: does this machine compute rightly? Every operation of every device here against the reference,
how fast each device is, and a tiny model split over all of them. The JSON file holds no names of hosts or users."""

import argparse
import platform
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import motley
from motley.bench.facts import commit, now, system
from motley.bundled import model_path
from motley.cli.options import Offered, add_device, output_file, positive, writing
from motley.cli.session import Seat, Session
from motley.cli.show import shown
from motley.engine.engine import Engine
from motley.engine.local import LocalRunner
from motley.engine.runner import Runner
from motley.formats.checkpoint import open_checkpoint
from motley.formats.synth import synthesize
from motley.lab.machine import this_machine, usable_cores
from motley.lab.placement import LayerPlacement, Placement
from motley.ops.checks import Check, checks
from motley.ops.devices import open_device, present
from motley.ops.meter import NativeMeter, OpsMeter
from motley.ops.native import NativeOps
from motley.ops.protocol import Batch, Ops
from motley.ops.reference import ReferenceOps
from motley.progress import Progress
from motley.shape.dims import Dims
from motley.shape.model import ModelShape

LIMIT = 2e-3  # of the tiny model's logits: keys and values are in half precision
PACKAGES = ("mlx", "tinygrad", "numpy")
PROMPT, ANSWER = 64, 32  # tokens of the benchmark


class Said(msgspec.Struct, frozen=True):
    """Of one check on one device. error: over the largest value; None where the check did not come to its end."""

    operation: str
    what: str
    ok: bool
    error: float | None
    limit: float
    why: str = ""


class Speed(msgspec.Struct, frozen=True):
    """matvec: GB/s of weights of one token, of the largest set that is measured; the rest as `motley probe` has it."""

    matvec_q8_0_gb_s: float
    matvec_q4_k_gb_s: float
    small_op_us: float
    wait_us: float
    prompt_tokens_s: float  # of the bundled model
    answer_tokens_s: float


class Tested(msgspec.Struct, frozen=True):
    spec: str
    name: str
    checks: list[Said]
    speed: Speed | None


class Split(msgspec.Struct, frozen=True):
    """A tiny model over all devices, against one numpy device."""

    devices: list[str]
    max_rel_error: float
    limit: float
    ok: bool


class Report(msgspec.Struct, frozen=True):
    motley: str
    commit: str | None
    date: str
    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    packages: dict[str, str]
    devices: list[Tested]
    split: Split
    ok: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device(parser, "the test")
    parser.add_argument("--threads", type=positive, default=usable_cores(), help="of the CPU (default: %(default)s)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write it all here, to send in")


def run(args: argparse.Namespace) -> int:
    specs = [offered.spec for offered in args.device] or [found.spec for found in present()]
    with shown(Console(stderr=True)) as progress:
        devices = [_tested(spec, args.threads, progress) for spec in specs]
        progress("a model over all devices", 0.0)
        split = _split(specs, args.threads)
    report = _report(devices, split)
    _print(report)
    if args.json:
        with writing(args.json):
            args.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return 0 if report.ok else 1


def _tested(spec: str, threads: int, progress: Progress) -> Tested:
    ops = open_device(spec, threads)
    try:
        every = list(checks())
        said = []
        for i, check in enumerate(every):
            progress(f"checking {ops.name}: {check.operation}, {check.what}", i / len(every))
            said.append(_said(check, ops))
        progress(f"measuring {ops.name}", 0.0)
        speed = _speed(ops) if all(s.ok for s in said) else None
    finally:
        ops.close()
    return Tested(spec, ops.name, said, speed)


def _said(check: Check, ops: Ops) -> Said:
    """Whatever goes wrong on a machine that nobody here has seen, the other checks are done."""
    try:
        error = check.error(ops)
    except Exception as why:
        return Said(check.operation, check.what, False, None, check.limit(ops), f"{type(why).__name__}: {why}"[:300])
    return Said(check.operation, check.what, error <= check.limit(ops), error, check.limit(ops))


def _speed(ops: Ops) -> Speed:
    meter = NativeMeter(ops) if isinstance(ops, NativeOps) else OpsMeter(ops)
    largest = 64 << 20 if isinstance(meter, NativeMeter) else meter.working_sets[-1]
    prompt_s, answer_s = _bundled_seconds(ops)
    return Speed(
        matvec_q8_0_gb_s=_rounded(meter.matvec_gb_s("q8_0", largest)),
        matvec_q4_k_gb_s=_rounded(meter.matvec_gb_s("q4_k", largest)),
        small_op_us=_rounded(meter.call_us()),
        wait_us=_rounded(meter.step_us()),
        prompt_tokens_s=_rounded(PROMPT / prompt_s),
        answer_tokens_s=_rounded(ANSWER / answer_s),
    )


def _bundled_seconds(ops: Ops) -> tuple[float, float]:
    """Of a prompt and of an answer, the second time."""
    runner = LocalRunner(open_checkpoint(model_path()), ops, context=PROMPT + ANSWER + 1)
    prompt = np.random.default_rng(0).integers(0, runner.vocab_size, PROMPT).tolist()
    for _ in range(2):
        started = perf_counter()
        tokens = Engine(runner).generate(prompt, ANSWER + 1)
        next(tokens)
        first = perf_counter()
        for _ in tokens:
            pass
        ended = perf_counter()
    return first - started, ended - first


def _split(specs: Sequence[str], threads: int) -> Split:
    """Each device is home to two layers, and the experts of each layer go round. In float weights, which no device
    multiplies otherwise than the others."""
    shape = _tiny(2 * len(specs))
    offered = tuple(Offered(spec) for spec in specs)
    with tempfile.TemporaryDirectory() as folder, Session.local([Seat("here", threads, 0, offered)]) as session:
        path = Path(folder) / "tiny.gguf"
        synthesize(shape, path, seed=7)
        names = list(session.site.addresses)
        owners = [tuple(names[(e + i) % len(names)] for e in range(shape.n_experts)) for i in range(shape.n_layers)]
        placement = Placement(tuple(LayerPlacement(names[i // 2], own) for i, own in enumerate(owners)))
        want = _logits(LocalRunner(open_checkpoint(path), ReferenceOps(), context=64))
        with session.placed(str(path), placement, slots=1, context=64) as runner:
            got = _logits(runner)
    error = float(np.abs(got - want).max() / np.abs(want).max())
    return Split(list(specs), error, LIMIT, bool(error <= LIMIT))


def _tiny(n_layers: int) -> ModelShape:
    dims = Dims(
        name="selftest",
        architecture="qwen3moe",
        n_layers=n_layers,
        d_model=128,
        n_heads=4,
        n_kv_heads=2,
        head_dim=32,
        n_experts=8,
        n_experts_used=3,
        d_expert=64,
        d_dense=64,
        vocab_size=320,
        context=64,
        rms_eps=1e-6,
        rope_theta=10000.0,
    )
    return ModelShape.from_dims(dims, "f16")


def _logits(runner: Runner) -> NDArray[np.float32]:
    """A prompt in two chunks, then token by token: [40, V]"""
    tokens = np.random.default_rng(1).integers(0, 300, 40).tolist()
    cuts, parts = [0, 20, 33, *range(34, 41)], []
    for first, end in zip(cuts, cuts[1:]):  # noqa: RUF007
        n = end - first
        parts.append(np.array(runner.step(Batch(tokens[first:end], range(first, end), [0] * n, range(n)))))
    return np.concatenate(parts)


def _report(devices: list[Tested], split: Split) -> Report:
    here = this_machine()
    return Report(
        motley=motley.__version__,
        commit=commit(),
        date=now(),
        cpu=here.cpu,
        cores=here.cores,
        memory_bytes=here.memory_bytes,
        system=system(),
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES if _version(name)},
        devices=devices,
        split=split,
        ok=split.ok and all(said.ok for device in devices for said in device.checks),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _print(report: Report) -> None:
    console = Console()
    for device in report.devices:
        console.print(_table(device))
        if device.speed:
            console.print(_speed_words(device.speed), highlight=False)
        for said in device.checks:
            if not said.ok:
                why = said.why or f"off by {said.error:.1e}, and {said.limit:.0e} is allowed"
                console.print(f"FAILED on {device.name}: {said.operation}, {said.what}: {why}", markup=False)
    split = report.split
    verdict = "right" if split.ok else "WRONG"
    over = " + ".join(split.devices)
    console.print(f"A tiny model over {over}: {verdict}, logits within {split.max_rel_error:.1e} of numpy's")
    for package in ("mlx", "tinygrad"):
        if find_spec(package) is None:
            console.print(f"{package} is not installed: `pip install 'motley-moe\\[{package}]'` brings its devices")
    console.print("All right." if report.ok else "Something is wrong: please send in what --json FILE writes.")


def _table(device: Tested) -> Table:
    """A line for each operation: how many checks, and the worst of them."""
    table = Table(title=f"{device.spec} ({device.name})", title_justify="left", box=None, pad_edge=False)
    for column in ("operation", "checks", "largest error", ""):
        table.add_column(column, justify="right" if column in ("checks", "largest error") else "left")
    by_operation: dict[str, list[Said]] = defaultdict(list)
    for said in device.checks:
        by_operation[said.operation].append(said)
    for operation, all_of_it in by_operation.items():
        errors = [s.error for s in all_of_it if s.error is not None]
        failed = sum(not s.ok for s in all_of_it)
        worst = f"{max(errors):.1e}" if errors else "-"
        table.add_row(operation, str(len(all_of_it)), worst, f"{failed} FAILED" if failed else "ok")
    return table


def _speed_words(s: Speed) -> str:
    return (
        f"weights of one token: Q8_0 {s.matvec_q8_0_gb_s:g} GB/s, Q4_K {s.matvec_q4_k_gb_s:g} GB/s; a small operation "
        f"{s.small_op_us:g} us; the bundled model: prompt {s.prompt_tokens_s:g}, answer {s.answer_tokens_s:g} tok/s\n"
    )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
