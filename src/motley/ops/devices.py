"""Devices by name: what `--device` takes, opened when it is asked for, and which of them this machine has.

A spec is `cpu` (Motley's own kernels), `mlx` (Apple's GPU; the CPU where MLX has none, `mlx:cpu` anyway), or
`tinygrad:NAME` with tinygrad's name (`CUDA`, `CUDA:1`, `NV`, `AMD`, `METAL`, `CPU`). Nothing is imported before.
"""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from motley.errors import MotleyError, UnsupportedError, UsageError
from motley.ops.protocol import Ops

CPU = "cpu"
FORMS = "cpu, mlx or tinygrad:NAME (CUDA, NV, AMD, METAL, CPU)"
_REMEDY = "it is not installed: run `pip install 'motley-moe[{0}]'`"
_KINDS = {"CUDA": "cuda", "NV": "cuda", "METAL": "metal", "AMD": "rocm", "CPU": "cpu", "PYTHON": "cpu"}  # tinygrad's
_TRIED = ("CUDA", "NV", "METAL", "AMD")  # in this order; one of NVIDIA's is enough. Its CPU is no device of its own


@dataclass(frozen=True)
class Present:
    spec: str
    what: str  # for people: the kernels or the chip


def check_spec(spec: str) -> str:
    """UsageError, with what is accepted, for anything that can't be a device."""
    kind, _, name = spec.partition(":")
    if spec in (CPU, "mlx") or (kind == "mlx" and name in ("cpu", "gpu")):
        return spec
    if kind == "tinygrad" and name.split(":")[0] in _KINDS:
        return spec
    raise UsageError(f"no device is called {spec!r}: it is {FORMS}")


def kind_of(spec: str) -> str:
    """`lab.Device.kind`"""
    kind, _, name = spec.partition(":")
    return _KINDS[name.split(":")[0]] if kind == "tinygrad" else kind


def device_names(node: str, specs: Sequence[str]) -> list[str]:
    """The first device of a node has the node's name, the others their kind behind it: `a`, `a.cpu`, `a.cuda`,
    `a.cuda2`."""
    seen: Counter[str] = Counter()
    names = [node]
    for kind in map(kind_of, specs[1:]):
        seen[kind] += 1
        names.append(f"{node}.{kind}{seen[kind] if seen[kind] > 1 else ''}")
    return names


def open_device(spec: str, threads: int = 1) -> Ops:
    """Raises UsageError for a name that means nothing, UnsupportedError with the remedy where something is missing.
    `threads`: of the CPU's own kernels."""
    kind, _, name = check_spec(spec).partition(":")
    if kind == CPU:
        from motley.ops.native import NativeOps

        return NativeOps(threads=threads)
    if importlib.util.find_spec(kind) is None:
        raise UnsupportedError(f"device {spec} needs {kind}: {_REMEDY.format(kind)}")
    if kind == "mlx":
        from motley.ops.mlx import MlxOps

        return MlxOps(name)
    from motley.ops.tinygrad import tinygrad_ops

    return tinygrad_ops(name)


def uses_main_memory(spec: str) -> bool:
    """The CPU, and a GPU that has no other."""
    return kind_of(spec) in ("cpu", "mlx", "metal")


def present() -> list[Present]:
    """Every device that opens here, the machine's own kernels first. Opens and closes each one."""
    found: list[Present] = []
    for spec in (CPU, "mlx", *(f"tinygrad:{name}" for name in _TRIED)):
        if spec == "tinygrad:NV" and any(p.spec == "tinygrad:CUDA" for p in found):
            continue
        try:
            ops = open_device(spec)
        except (MotleyError, ImportError, OSError, RuntimeError):
            continue
        found.append(Present(spec, ops.name))
        ops.close()
    return found
