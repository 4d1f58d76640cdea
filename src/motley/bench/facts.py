"""Facts that every result carries: the machine, the checkout's commit, the command, the time."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import motley
from motley.bench.result import Machine, Model
from motley.bench.served import Client
from motley.lab.machine import this_machine
from motley.shape.model import ModelShape, Role


def now() -> str:
    """`2026-11-23T02:10:00Z`"""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def command_line(argv: Sequence[str] | None = None) -> str:
    """What a reader would type: `motley bench --tg 64`, wherever the program was installed."""
    return shlex.join(["motley", *(sys.argv[1:] if argv is None else argv)])


def commit() -> str | None:
    """The revision of the checkout that this package belongs to, `-dirty` if it has changes; None outside one."""
    package = Path(motley.__file__).resolve().parent
    top = _git(package, "rev-parse", "--show-toplevel")
    # A virtual environment may lie in someone else's repository: its commit would say nothing about Motley.
    if not top or not (Path(top) / "src" / "motley" / "__init__.py").is_file():
        return None
    revision = _git(Path(top), "rev-parse", "--short=12", "HEAD")
    if not revision:
        return None
    return revision + ("-dirty" if _git(Path(top), "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def system() -> str:
    """`Linux 6.1.0 x86_64`"""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def machine(read_gb_s: float, int8_gops: float | None, threads: int) -> Machine:
    here = this_machine()
    return Machine(
        read_gb_s=read_gb_s,
        int8_gops=int8_gops,
        threads=threads,
        cpu=here.cpu,
        cores=here.cores,
        memory_bytes=here.memory_bytes,
        os=system(),
        python=platform.python_version(),
        cache_bytes=cache_bytes(),
    )


def client() -> Client:
    here = this_machine()
    return Client(cpu=here.cpu, cores=here.cores, os=system(), python=platform.python_version())


def cache_bytes(cpus: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Bytes of the last level of caches, each counted once; None where the system does not tell (macOS)."""
    found: dict[tuple[int, str], int] = {}  # by level and the cores that share it
    for index in cpus.glob("cpu[0-9]*/cache/index*"):
        try:
            words = {name: (index / name).read_text().strip() for name in ("level", "shared_cpu_list", "size")}
            size = int(words["size"].removesuffix("K")) * 1024
            found[int(words["level"]), words["shared_cpu_list"]] = size
        except (OSError, ValueError):
            continue
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last) or None


def model(shape: ModelShape, file: Path | None = None, file_hash: str | None = None) -> Model:
    return Model(
        name=shape.name,
        architecture=shape.architecture,
        quant=expert_quant(shape),
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        n_experts=shape.n_experts,
        n_experts_used=shape.n_experts_used,
        d_expert=shape.d_expert,
        vocab_size=shape.vocab_size,
        context=shape.context,
        n_params=shape.n_params,
        n_bytes=shape.n_bytes,
        source=shape.source,
        file=file.name if file else None,
        file_hash=file_hash,
    )


def expert_quant(shape: ModelShape) -> str:
    """The quantisation of most expert bytes, as they are nearly all of a model's; of a dense model, of most bytes."""
    sizes: dict[str, int] = {}
    for tensor in [t for t in shape.tensors if t.role is Role.EXPERT] or shape.tensors:
        name = tensor.quant.name.lower()
        sizes[name] = sizes.get(name, 0) + tensor.n_bytes
    return max(sizes, key=lambda name: sizes[name])
