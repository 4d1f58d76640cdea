"""CudaOps whose kernels run on the CPU: tinygrad's CPU device calls them as it would CUDA's, in its graphs."""

import ctypes
from dataclasses import replace
from pathlib import Path

from cuda_emulation.emulator import Emulator
from tinygrad import Tensor

from motley.ops.tinygrad import adapter
from motley.ops.tinygrad.cuda_ops import CudaOps
from motley.ops.tinygrad.source import Kernel
from motley.shape.mixer import CacheType


class EmulatedOps(CudaOps):
    def __init__(self, folder: Path, kv: CacheType = "f32") -> None:
        self._folder, self._emulators = folder, list[Emulator]()
        self._addresses = dict[str, ctypes.c_uint64]()  # of compiled kernels in this process
        self._wanted = dict[str, Kernel]()
        super().__init__("CPU", kv)

    @property
    def kernels(self) -> list[str]:
        return list(self._addresses)

    def pending(self) -> list[Tensor]:
        """A graph is about to be made: its kernels are compiled, all in one go."""
        if self._wanted:
            folder = self._folder / str(len(self._emulators))
            folder.mkdir()
            self._emulators.append(emulator := Emulator(self._wanted.values(), folder, "-O0"))
            for name, kernel in self._wanted.items():
                self._addresses[name].value = emulator.address(kernel)
            self._wanted = {}
        return super().pending()

    def _launch(self, kernel: Kernel, *arguments: Tensor) -> list[Tensor]:
        """Of a grid of one, as tinygrad's CPU device would call the whole once for each of the grid's first number: a
        kernel that changes what it reads must not run twice."""
        return adapter.launch(replace(kernel, grid=(1, 1, 1)), self._source(kernel), self.device, *arguments)

    def _source(self, kernel: Kernel) -> str:
        """C that calls the kernel where it will lie in this process."""
        if kernel.name not in self._addresses:
            self._addresses[kernel.name], self._wanted[kernel.name] = ctypes.c_uint64(), kernel
        n = kernel.source.split("NAME(", 1)[1].split(") {", 1)[0].count(",") + 1
        x, y, z = kernel.grid
        where = ctypes.addressof(self._addresses[kernel.name])
        return (
            f"void {kernel.name}({', '.join(f'void* a{i}' for i in range(n))}) {{\n"
            f"  void* arguments[] = {{{', '.join(f'a{i}' for i in range(n))}}};\n"
            f"  unsigned grid[] = {{{x}, {y}, {z}}};\n"
            f"  (*(void (**)(void**, unsigned*, unsigned)){where}ull)(arguments, grid, {kernel.threads});\n}}\n"
        )
