"""The CUDA kernels compiled for the CPU (`emulation.h`), many at once, and called by name with numpy arrays."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from motley.ops.tinygrad.source import Kernel, portable_head

HERE = Path(__file__).parent
COMPILER = shutil.which("g++") or shutil.which("clang++")


def together(kernels: Iterable[Kernel]) -> str:
    """Their bodies one after the other, each in a namespace, its definitions taken back."""
    text = ""
    for i, kernel in enumerate({k.name: k for k in kernels}.values()):
        names = re.findall(r"^#define (\w+)", kernel.body, re.M)
        undefined = "".join(f"#undef {name}\n" for name in dict.fromkeys(names))
        text += f"namespace kernel_{i} {{\n{kernel.body}}}\n{undefined}"
    return text


class Emulator:
    def __init__(self, kernels: Iterable[Kernel], folder: Path, optimize: str = "-O1") -> None:
        assert COMPILER is not None
        unique = {k.name: k for k in kernels}
        launchers = "".join(
            f'extern "C" void launch_{name}(void** args, const unsigned* grid, unsigned threads) '
            f"{{ launch_kernel(kernel_{i}::{name}, args, grid, threads); }}\n"
            for i, name in enumerate(unique)
        )
        text = (HERE / "emulation.h").read_text() + portable_head() + together(unique.values()) + launchers
        source, library = folder / "kernels.cpp", folder / "kernels.so"
        source.write_text(text)
        warnings = ["-w", "-fno-strict-aliasing"]
        subprocess.run(
            [COMPILER, "-std=c++17", optimize, "-shared", "-fPIC", *warnings, source, "-o", library], check=True
        )
        self.library = ctypes.CDLL(str(library))

    def address(self, kernel: Kernel) -> int:
        function = getattr(self.library, f"launch_{kernel.name}")
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    def run(self, kernel: Kernel, *arrays: np.ndarray) -> None:
        pointers = (ctypes.c_void_p * len(arrays))(*[a.ctypes.data for a in arrays])
        grid = (ctypes.c_uint * 3)(*kernel.grid)
        getattr(self.library, f"launch_{kernel.name}")(pointers, grid, kernel.threads)
