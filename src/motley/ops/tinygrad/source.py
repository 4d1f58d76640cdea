"""The CUDA kernels' source: the files of `kernels/` with a shape's numbers defined in front of them.

A kernel is compiled for one shape, so that its loops have fixed lengths; `Kernel` names it, its numbers and its launch.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "kernels"
Number = int | float


@dataclass(frozen=True)
class Kernel:
    """`file`: of `kernels/`, without its ending. `defines`: the numbers its head comment names. `grid`, `threads`: the
    launch. `outs`: how many of its first arguments are its results; `scratch`: how many behind those it writes besides,
    its own memory, which others use after it. tinygrad's graphs keep apart what writes to the same memory, and only
    that."""

    file: str
    defines: tuple[tuple[str, Number], ...]
    grid: tuple[int, int, int]
    threads: int
    outs: int
    scratch: int = 0

    @property
    def written(self) -> int:
        """Arguments, from the first one on."""
        return self.outs + self.scratch

    @property
    def name(self) -> str:
        """One for each body: letters of the file and the numbers."""
        numbers = "_".join(str(n).replace(".", "p").replace("-", "m").replace("+", "") for _, n in self.defines)
        return f"{self.file}_{numbers}"

    @property
    def body(self) -> str:
        """What follows `head()`; may stand behind another kernel's, inside a namespace."""
        defines = {**dict(self.defines), "NAME": self.name}
        before = "".join(f"#define {name} {_literal(value)}\n" for name, value in defines.items())
        return before + read(self.file + ".cu")

    @property
    def source(self) -> str:
        return head() + self.body


def head() -> str:
    return read("primitives.cuh") + portable_head()


def portable_head() -> str:
    """What all kernels share, above the hardware's primitives."""
    return read("common.cuh") + read("dots.cuh")


@cache
def read(file: str) -> str:
    return (FOLDER / file).read_text() + "\n"


def _literal(value: object) -> str:
    return f"{value!r}f" if isinstance(value, float) else str(int(value) if isinstance(value, bool) else value)
